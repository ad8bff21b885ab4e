"""Length of sentences in README and docs: `python tests/prose.py [FILE ...]` prints a table, longest pages first.

Counted is prose alone: no code blocks, tables, headings, link targets or HTML comments. A list item, a paragraph and a
sentence each end a sentence. English counts words, Chinese counts characters.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_NOT_PROSE = re.compile(
    r"```.*?```|<!--.*?-->|^\s*\|[^\n]*|^#[^\n]*|^\[[^\]]+\]:[^\n]*|^!\[[^\n]*|^>\s", re.MULTILINE | re.DOTALL
)
_ENDS = re.compile(r"(?<=[.!?])[\"')*]*\s+(?=[\"'(*`\[]*[A-Z0-9`])|(?<=[。！？])|\n\s*(?:[-*]|\d+\.)\s+|\n\s*\n|:\s*\n")
_HAN = re.compile(r"[\u3400-\u9fff]")


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose; of two words and fewer none."""
    prose = re.sub(r"\]\([^)]*\)", "]", _NOT_PROSE.sub("\n\n", text))
    parts = (" ".join(part.split()) for part in _ENDS.split(prose) if part)
    return [part for part in parts if length(part) > 2]


def length(sentence: str) -> int:
    """Words, a code span counting as one; of a Chinese sentence its characters, a code span or Latin word counting as one."""
    sentence = re.sub(r"`[^`]*`", "x", sentence)
    if len(_HAN.findall(sentence)) > 3:
        return len(_HAN.findall(sentence)) + len(re.findall(r"[A-Za-z0-9.%]+", sentence))
    return len(sentence.split())


def pages() -> list[Path]:
    """README, the other pages at the top, and docs/, without the reference, which is made from the code."""
    docs = ROOT / "docs"
    return [*sorted(ROOT.glob("*.md")), *(p for p in sorted(docs.rglob("*.md")) if p.parent != docs / "reference")]


def mean_length(path: Path) -> float:
    """The mean length of a page's sentences; 0 without any."""
    found = [length(sentence) for sentence in sentences(path.read_text(encoding="utf-8"))]
    return sum(found) / max(1, len(found))


def main(words: list[str]) -> None:
    chosen = [Path(word) for word in words] or pages()
    rows = []
    for path in chosen:
        found = sorted(sentences(path.read_text(encoding="utf-8")), key=length, reverse=True)
        rows.append((mean_length(path), len(found), path, found[: 3 if words else 0]))
    print("mean  sentences  page")
    for mean, count, path, longest in sorted(rows, key=lambda row: -row[0]):
        print(f"{mean:4.1f}  {count:9}  {path.relative_to(ROOT) if path.is_absolute() else path}")
        for sentence in longest:
            print(f"      {length(sentence)}: {sentence[:200]}")


if __name__ == "__main__":
    main(sys.argv[1:])
