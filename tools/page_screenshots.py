"""Takes pictures of a page in headless Chromium, as evidence of what it looks like.

    python tools/page_screenshots.py report.html DIRECTORY

There are pictures at three widths, light and dark. The page is also measured at each width: nothing
may be wider than it. Chromium is the one that CHROMIUM names, or else the one on the PATH.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTHS = (360, 800, 1400)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
# A frame has any width, where a window of Chromium has at least 500 pixels.
_FRAME = """<!DOCTYPE html><html><body style="margin:0">
<iframe id="page" src="{source}" style="border:0;width:{width}px;height:{height}px"></iframe>
<script>
const frame = document.getElementById("page");
frame.onload = () => {{
  const page = frame.contentDocument.documentElement;
  const wide = [];
  for (const element of frame.contentDocument.querySelectorAll("body *")) {{
    if (element.closest(".scroll") && !element.classList.contains("scroll")) continue;
    const box = element.getBoundingClientRect();
    if (box.right > {width} + 0.5) wide.push(element.tagName + "." + element.className);
  }}
  const size = [page.scrollWidth, page.scrollHeight].join("x");
  document.title = "size " + size + " wide " + wide.slice(0, 8).join(" ");
}};
</script></body></html>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--height", type=int, default=0, help="pixels; default: the whole page")
    arguments = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        sys.exit("there is no Chromium; install it, or name it with CHROMIUM")
    arguments.directory.mkdir(parents=True, exist_ok=True)
    fits = True
    for width in WIDTHS:
        found_width, height, wide = measure(chromium, arguments.page, width)
        print(f"{width} px: the page is {found_width} px wide; wider than it: {wide or 'nothing'}")
        fits = fits and found_width <= width and not wide
        for scheme in ("light", "dark"):
            picture = arguments.directory / f"{arguments.page.stem}-{width}-{scheme}.png"
            take(chromium, arguments.page, picture, width, arguments.height or height, scheme)
    if not fits:
        sys.exit(1)


def find_chromium() -> str | None:
    """The program; None if there is none."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    return shutil.which("chromium") or shutil.which("google-chrome")


def measure(chromium: str, page: Path, width: int) -> tuple[int, int, str]:
    """Width and height of a page in a frame of this width, and the elements that leave it."""
    options = ("--dump-dom", "--virtual-time-budget=5000")
    document = _frame(chromium, page, width, 800, "light", *options)
    found = re.search(r"<title>size (\d+)x(\d+) wide (.*?)</title>", document)
    if found is None:
        raise RuntimeError(f"Chromium did not show the page: {document[:300]}")
    return int(found[1]), int(found[2]), found[3]


def take(chromium: str, page: Path, picture: Path, width: int, height: int, scheme: str) -> None:
    """Write a picture of a page."""
    size = f"--window-size={max(width, 500)},{height}"
    _frame(chromium, page, width, height, scheme, f"--screenshot={picture.absolute()}", size)
    _crop(picture, width, height)


def _frame(chromium: str, page: Path, width: int, height: int, scheme: str, *options: str) -> str:
    """Show a page in a frame and return what Chromium prints."""
    with tempfile.TemporaryDirectory() as directory:
        frame = Path(directory) / "frame.html"
        source = page.absolute().as_uri()
        frame.write_text(_FRAME.format(source=source, width=width, height=height))
        settings = [f"--user-data-dir={directory}/profile", "--allow-file-access-from-files"]
        if scheme == "dark":
            settings.append("--blink-settings=preferredColorScheme=0")
        command = [chromium, *_FLAGS, *settings, *options, frame.as_uri()]
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return answer.stdout


def _crop(picture: Path, width: int, height: int) -> None:
    """Cut what is beside the frame, and reduce the colours, so that the file is small."""
    from PIL import Image

    with Image.open(picture) as image:
        cropped = image.convert("RGB").crop((0, 0, width, height))
    cropped.quantize(200).save(picture, optimize=True)


if __name__ == "__main__":
    main()
