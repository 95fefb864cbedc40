"""The commands and scripts of the page about signatures, as a reader would run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from signers import write_files
from small_projects import REPOSITORY
from test_signing import needs_openssl

PAGE = (REPOSITORY / "docs/how-to/sign-releases.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, re.M | re.S)


def command_of(language: str, code: str) -> list[str]:
    if language == "python":
        return [sys.executable, "-c", code]
    return ["sh", "-ec", f"umask 022\n{code}"]


@needs_openssl
def test_the_page_makes_keys_signs_and_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGN_PASS", "a long passphrase")
    write_files(tmp_path / "release", {"model.pt2": b"code"})
    said = []
    for language, code in BLOCKS:
        if "pip install" in code or needs_absent_tool(code):
            continue
        answer = subprocess.run(
            command_of(language, code),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert answer.returncode == 0, f"{code}\n{answer.stderr}"
        said += answer.stdout.splitlines()
    text = "\n".join(said)
    assert "signed by release-2026.pem" in text
    assert "signed by CN=Example releases until 20" in text


def needs_absent_tool(code: str) -> bool:
    return code.startswith("model_signing ") and shutil.which("model_signing") is None
