"""The page's texts in English and Chinese: texts/*.json, one file a page, {"key": {"en": ..., "zh": ...}}."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")
_MOST = 4000  # characters of a message that is looked up
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


def own(language: str, message: str) -> str:
    """What the pages refuse in English, in the visitor's language; what the library says stays as it is."""
    if language == "en" or len(message) > _MOST:
        return message
    for pattern, to in _refusals(language):
        if match := pattern.fullmatch(message):
            return to.format_map({name: own(language, value) for name, value in match.groupdict().items()})
    return message


@cache
def _refusals(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Each message as a pattern whose groups are its values. Most values are a line or less, and come again as they were."""
    found = []
    for key, both in texts().items():
        if key.startswith("refusals."):
            seen: set[str] = set()
            pattern = ""
            for part in re.split(r"(\{\w+\})", both["en"]):
                name = part[1:-1]
                is_value = part.startswith("{")
                pattern += (
                    (f"(?P={name})" if name in seen else f"(?P<{name}>[^\\n]+?)") if is_value else re.escape(part)
                )
                seen |= {name} if is_value else set()
            found.append((re.compile(pattern), both[language]))
    return found


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
