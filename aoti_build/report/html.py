"""A verification as one self-contained page: verdicts, a matrix of sizes, every figure, and histograms of errors.

No script and nothing from the network, so that it can be kept with a release and opened anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aoti_build import __version__

_BAR, _GAP, _HEIGHT = 14, 3, 56
_COLUMNS = (
    ("by", "passed by"),
    ("max_abs", "max abs"),
    ("max_rel", "max rel"),
    ("rmse", "RMSE"),
    ("reference_rms", "RMS of eager"),
    ("cosine", "cosine"),
    ("snr_db", "SNR dB"),
    ("psnr_db", "PSNR dB"),
    ("mismatched", "beyond bounds"),
    ("needed_atol", "needed atol"),
)


def html_page(report: Mapping[str, Any]) -> str:
    """The page for the JSON document of `verify`."""
    import jinja2  # comes with torch; a tenth of a second that other reports need not pay

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(number=_number, bars=_bars, sizes=_sizes)
    template = environment.from_string(Path(__file__).with_name("verify.html.j2").read_text(encoding="utf-8"))
    counts: dict[str, int] = {}
    for target in report["targets"]:
        counts[target["verdict"]] = counts.get(target["verdict"], 0) + 1
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return template.render(
        report=report, counts=counts, columns=_COLUMNS, made=made, version=__version__, height=_HEIGHT, matrix=_matrix
    )


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _sizes(case: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{name} {size}" for name, size in case["sizes"].items())
    return f"{sizes or 'fixed sizes'}; seed {case['seed']}"


def _matrix(target: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of all outputs, and for each case its figures by output."""
    names = dict.fromkeys(output["name"] for case in target["cases"] for output in case["outputs"])
    rows = [{"case": case, "by_name": {o["name"]: o for o in case["outputs"]}} for case in target["cases"]]
    return list(names), rows


def _bars(histogram: Mapping[str, Any]) -> dict[str, Any]:
    """Bars of a histogram: zero first, then the decades that lie between the first and the last with any count."""
    counts, decades = histogram["counts"], histogram["decades"]
    used = [index for index, count in enumerate(counts) if count]
    shown = range(used[0], used[-1] + 1) if used else range(0)
    entries = [("0", histogram["zero"]), *((f"1e{decades[index]}", counts[index]) for index in shown)]
    most = max((count for _, count in entries), default=0) or 1
    bars = [
        {
            "x": number * (_BAR + _GAP),
            "height": round(_HEIGHT * count / most, 1) if count else 0,
            "label": label,
            "count": count,
        }
        for number, (label, count) in enumerate(entries)
    ]
    return {"bars": bars, "width": max(1, len(bars)) * (_BAR + _GAP), "bar": _BAR}
