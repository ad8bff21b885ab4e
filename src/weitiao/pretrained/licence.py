"""The licence of a base, as its maker gives it."""

import re
from pathlib import Path

from weitiao import catalogue
from weitiao.pretrained.locate import locate


def licence_of(model: str) -> str | None:
    """What the catalogue, or the front matter of the model's README.md, calls its licence; None where neither says it."""
    if model in catalogue.ENTRIES:
        return catalogue.ENTRIES[model].licence
    card = Path(locate(model)) / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = front and re.search(r"^license: *(\S+)", front[1], re.MULTILINE)
    return found[1].strip("'\"") if found else None
