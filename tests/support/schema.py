"""JSON documents against the schemas in docs/schemas/, and their keys against what docs/compare.md lists."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
DOCS = Path(__file__).parents[2] / "docs" / "compare.md"


@cache
def validator(name: str) -> Draft202012Validator:
    """Of files of this name, such as plan.json."""
    schema = json.loads((SCHEMAS / name.replace(".json", ".schema.json")).read_text(encoding="utf-8"))
    return Draft202012Validator(schema)


def faults(path: Path) -> list[str]:
    """Where a file is not what its schema says."""
    found = validator(path.name).iter_errors(json.loads(path.read_text(encoding="utf-8")))
    return [f"{path.name} {error.json_path}: {error.message[:200]}" for error in found]


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    """Every key as a dotted path, [] for the elements of a list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            # dots in the names of files, arms and classes are none of the path's
            path = f"{prefix}.{key.replace('.', '_')}".removeprefix(".")
            yield path
            yield from paths(inner, path)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{prefix}[]")


def patterns() -> dict[str, re.Pattern[str]]:
    """Documented key -> what it matches: capitals stand for one name, a last * for all that lies below."""
    table = DOCS.read_text(encoding="utf-8").partition("## comparison.json")[2]
    keys = [key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`([^`]+)`", row)]
    found = {}
    for key in keys:
        parts = [r"[^.]+" if part.isupper() else re.escape(part) for part in key.removesuffix(".*").split(".")]
        found[key] = re.compile(r"\.".join(parts) + (r"(\..*|\[\].*)?" if key.endswith(".*") else ""))
    return found
