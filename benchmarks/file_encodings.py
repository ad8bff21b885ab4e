"""How often encodings are told rightly from files of 200 rows: benchmarks/results/encodings.json.

    python benchmarks/file_encodings.py
    python benchmarks/cases_page.py       # its table in docs/cases.md

Beside ours stands charset-normalizer, as `from_bytes(...).best()` gives it. What counts is the text: a file is right when decoding it
gives the text it was made of.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.languages import ENCODINGS, table

from record import RESULTS
from weitiao.data.text_encoding import encoding_of
from weitiao.errors import DataError

STORED = RESULTS / "encodings.json"
SIZES = (200, 3)
FILES = 20


def ours(path: Path) -> str:
    """The encoding, or refused."""
    try:
        return encoding_of(path)
    except DataError:
        return "refused"


def theirs(path: Path) -> str:
    """charset-normalizer's best guess."""
    from charset_normalizer import from_bytes

    best = from_bytes(path.read_bytes()).best()
    return best.encoding if best else "refused"


def measure() -> None:
    """Files of every language and encoding, by each detector."""
    detectors: dict[str, Callable[[Path], str]] = {"weitiao": ours, "charset-normalizer": theirs}
    found: list[dict[str, object]] = []
    for language, encodings in ENCODINGS.items():
        for encoding in encodings:
            for size in SIZES:
                for name, tell in detectors.items():
                    counts: dict[str, int] = {}
                    right, seconds = 0, 0.0
                    for seed in range(FILES):
                        text = table(language, size, seed)
                        with tempfile.TemporaryDirectory() as folder:
                            path = Path(folder) / "r.csv"
                            path.write_bytes(text.encode(encoding))
                            started = time.perf_counter()
                            told = tell(path)
                            seconds += time.perf_counter() - started
                            counts[told] = counts.get(told, 0) + 1
                            right += told != "refused" and path.read_bytes().decode(told).removeprefix("\ufeff") == text
                    row = {"language": language, "encoding": encoding, "rows": size, "detector": name}
                    found.append(
                        {
                            **row,
                            "files": FILES,
                            "right": right,
                            "told": counts,
                            "milliseconds": round(1000 * seconds / FILES, 2),
                        }
                    )
    STORED.write_text(
        json.dumps({"charset_normalizer": version("charset-normalizer"), "found": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    measure()
