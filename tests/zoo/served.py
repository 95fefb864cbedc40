"""Load an entry's artifact as a service does and compare calls with eager. Prints JSON.

Usage: python served.py PROJECT BOUND
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import calls

import aoti_build

root, bound = Path(sys.argv[1]), float(sys.argv[2])
model, prepared = calls.load_model(root)
with aoti_build.load(model.name, artifacts=root / "artifacts") as loaded:
    found = list(calls.compared(prepared, model.dims, loaded, bound))
print(json.dumps(found))
