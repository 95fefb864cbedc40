"""The environment that this process was started with.

`__main__` imports this module before torch, which adds variables of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

ENVIRONMENT: Mapping[str, str] = dict(os.environ)
