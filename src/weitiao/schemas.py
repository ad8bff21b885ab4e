"""JSON schemas of the files that runs and comparisons leave, made from the types that the code itself uses.

`python -m weitiao.schemas FOLDER` writes them: docs/schemas/ is that, and a test compares and validates real files.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from weitiao.comparison.schema import Comparison
from weitiao.converting.schema import Conversion
from weitiao.data.report import DataReport, RunDataReport
from weitiao.planning.schema import Plan
from weitiao.rundir.summary import Summary

TYPES: dict[str, Any] = {
    "summary.json": Summary,
    "plan.json": Plan,
    "data_report.json": RunDataReport,
    "data_check.json": DataReport,  # what weitiao data check --output writes
    "comparison.json": Comparison,
    "conversion.json": Conversion,  # what weitiao convert --json prints
}


def schema(name: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one of ``TYPES``. Every key is listed."""
    title = f"weitiao: {name}"
    found = TypeAdapter(TYPES[name]).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": title}


def text(name: str) -> str:
    """The schema as docs/schemas/ has it."""
    return json.dumps(schema(name), ensure_ascii=False, indent=2) + "\n"


def main(folder: str) -> None:
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name in TYPES:
        (target / f"{name.removesuffix('.json')}.schema.json").write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
