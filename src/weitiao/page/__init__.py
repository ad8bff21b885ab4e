"""The look that every page shares: reports, data reports and the pages of `weitiao web`."""

from functools import cache
from pathlib import Path

STYLE = Path(__file__).with_name("style.css")


@cache
def style() -> str:
    """The style sheet, for a page that must work as one file."""
    return STYLE.read_text(encoding="utf-8")
