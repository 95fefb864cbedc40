"""The profile of a build as lines for a terminal."""

from __future__ import annotations

from aoti_build.report.terminal import for_terminal, table
from aoti_build.work.profile import Profile


@for_terminal
def profile_lines(profile: Profile) -> list[str]:
    """The critical path, phase by phase, and the longest steps."""
    path = sum(part.seconds for part in profile.critical_path)
    rows = []
    for part in profile.critical_path:
        stages = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in part.stages)
        rows.append(
            [f"  {_seconds(part.seconds)}", part.target, part.phase, _seconds(part.start), stages]
        )
    lines = [f"critical path: {_seconds(path)} of {_seconds(profile.seconds)}"]
    lines += table(["  time", "target", "phase", "from", "of it"], rows)
    lines += ["", f"the {len(profile.longest)} longest steps:"]
    rows = []
    for step in profile.longest:
        rows.append([f"  {_seconds(step.seconds)}", step.target, step.kind, step.name])
    return [*lines, *table(["  time", "target", "kind", "name"], rows)]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"
