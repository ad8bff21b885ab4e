"""What stored results of reading depend on besides the files: the code that reads."""

import hashlib
from functools import cache
from pathlib import Path


@cache
def code_hash() -> str:
    """16 hex digits over the source of this package: a change of how data are read makes every stored table anew."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
