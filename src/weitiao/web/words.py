"""The page's texts in English and Chinese: texts/*.json, one file a page, {"key": {"en": ..., "zh": ...}}."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")
_FOLDER = Path(__file__).with_name("texts")


@cache
def texts() -> dict[str, dict[str, str]]:
    """Every text by "file.key"."""
    return {
        f"{path.stem}.{key}": found
        for path in sorted(_FOLDER.glob("*.json"))
        for key, found in json.loads(path.read_text(encoding="utf-8")).items()
    }


def text(language: str, key: str, /, **values: Any) -> str:
    """One text, its {names} filled in. Raises KeyError for a key that is not there."""
    found = texts()[key][language]
    return found.format_map(values) if values else found


def language_of(cookie: str | None, accepted: str | None) -> str:
    """The language of a visitor: chosen before, or the browser's first one that there is."""
    if cookie in LANGUAGES:
        return cookie
    for part in (accepted or "").split(","):
        if (short := part.partition(";")[0].strip()[:2].lower()) in LANGUAGES:
            return short
    return "en"


def choose(language: str, both: Mapping[str, str]) -> str:
    """Of a pair {"en", "zh"} or {"english", "chinese"} the visitor's."""
    long = {"en": "english", "zh": "chinese"}[language]
    return both.get(language) or both.get(long) or next(iter(both.values()))
