"""A pytest plugin for tools/mutants: the names of test cases contain letters, digits and `_` only.

mutmut asks pytest for single cases by name. pytest does not find a case again if its name is empty
or has escaped characters.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Rename the cases of each test function. The number keeps them apart."""
    made = yield
    for number, item in enumerate(made if isinstance(made, list) else ()):
        function, bracket, case = item.name.partition("[")
        if bracket:
            plain = f"{number}_{re.sub(r'[^0-9A-Za-z]+', '_', case)[:40]}"
            item.name = f"{function}[{plain}]"
            item._id = item.parent.id.child(function).with_params(plain)  # there is no public way
    return made
