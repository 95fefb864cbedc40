"""The pages, as jinja2 templates beside this module: one style, and every text escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aoti_build.report.spelling import xml_text

if TYPE_CHECKING:
    from jinja2 import Environment

DIRECTORY = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """The page that a template of this directory makes of `values`."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    # Torch needs jinja2 as well. Only a page imports it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(DIRECTORY),
        # Texts come from files and programs that anybody may have written.
        autoescape=True,
        # A wrong name in the template is an error, and not an empty text.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )


def _finalized(value: object) -> object:
    """A value of the template without characters that a page cannot have."""
    # A subclass of str is markup that jinja2 has made of printable texts.
    return xml_text(value) if type(value) is str else value
