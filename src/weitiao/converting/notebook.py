"""The code of a Jupyter notebook, with the notebook's own commands left out."""

import json
import re

_RUN_AS_CODE = ("time", "timeit", "capture", "prun")  # cells behind other magics are no Python, or are not run
_MAGIC = re.compile(
    r"^(\s*)(?:%(?:time|timeit|prun)\s+(?!-)(?P<code>\S.*)|[%!?].*|[\w.]+\?{1,2}\s*|(?P<name>[\w, ]+)=\s*[!%].*)$"
)


class NotebookError(ValueError):
    """No notebook."""


def code_of(text: str) -> str:
    """Its code cells, one after the other.

    Raises:
        NotebookError: no JSON, or no cells of text.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise NotebookError("no JSON") from None
    cells = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise NotebookError("no cells")
    return "\n".join(_cell(cell.get("source", "")) for cell in cells if cell.get("cell_type") == "code")


def _cell(source: object) -> str:
    lines = source if isinstance(source, list) else [source]
    if not all(isinstance(line, str) for line in lines):
        raise NotebookError("a cell without text")
    text = "".join(line for line in lines if isinstance(line, str))
    first, _, rest = text.lstrip().partition("\n")
    if magic := re.match(r"%%(\w+)", first):
        if magic[1] not in _RUN_AS_CODE:
            return ""
        text = rest
    kept: list[str] = []
    goes_on, open_brackets = False, 0
    for line in text.split("\n"):
        kept.append(line if goes_on or open_brackets > 0 else _plain(line))
        goes_on = line.rstrip().endswith("\\")
        open_brackets += sum(kept[-1].count(one) for one in "([{") - sum(kept[-1].count(one) for one in ")]}")
    return "\n".join(kept)


def _plain(line: str) -> str:
    """A line as Python: a command of the notebook or the shell becomes a pass, and what it gives to a name is not known."""
    found = _MAGIC.match(line)
    if found is None:
        return line
    indent = found[1]
    if run := re.match(r"\s*%(?:run|load)\s+(\S+)", line):
        return f"{indent}exec({run[1]!r})"  # in the notebook's own names
    if found["code"]:
        return indent + found["code"]
    return f"{indent}{found['name']}= ..." if found["name"] else f"{indent}pass"
