"""What a data report means for a new run: policies and what each would lose, and how damaged texts were meant."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from weitiao.config.loading import load
from weitiao.config.run import RunConfig
from weitiao.data.read import Row, read_records
from weitiao.data.source import find
from weitiao.data.text_encoding import ranked, sample_of
from weitiao.errors import ConfigError

Loss = Literal["none", "rows", "most", "cut", "refuses"]
# By the finding's code: the option, and what each of its values does to the rows found.
_POLICIES: dict[str, tuple[str, dict[str, Loss]]] = {
    "duplicates": ("data.duplicates", {"drop": "rows", "keep": "none"}),
    "conflicts": ("data.conflicts", {"drop": "rows", "keep": "none", "fail": "refuses"}),
    "rejected": ("data.bad_rows", {"fail": "refuses", "skip": "rows"}),
    "near_duplicates": ("data.near_duplicates", {"drop": "most", "warn": "none", "off": "none"}),
    "near_overlap": ("data.near_duplicates", {"drop": "rows", "warn": "none", "off": "none"}),
    "over_length": ("data.over_length", {"truncate": "cut", "drop": "rows", "window": "none", "fail": "refuses"}),
    "label_variants": ("data.labels", {"as_written": "none", "canonical": "none"}),
    "segmentation_digits": ("data.segmentation_digits", {"keep": "none", "strip": "none"}),
    "imbalance": ("train.class_weights", {"none": "none", "balanced": "none"}),
}
_WRONG = ("latin-1", "cp1252", "gb18030")  # that UTF-8 is read in by mistake
_LINES = 3  # of a preview


@dataclass(frozen=True)
class Choice:
    """One value of a policy, and what becomes of ``rows`` rows."""

    value: str
    loss: Loss
    rows: int
    is_current: bool


@dataclass(frozen=True)
class Policy:
    """An option that settles a finding."""

    option: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Reading:
    """The first lines of a file in one encoding; ``plausibility`` from 0 to 1."""

    encoding: str
    plausibility: float
    text: str


def policies(report: Mapping[str, Any], config: RunConfig) -> list[Policy]:
    """What could be done about the findings of a report, each option once.

    Args:
        config: what the report was made with.
    """
    found: dict[str, dict[str, tuple[Loss, int]]] = {}
    codes = {finding["code"] for finding in report["findings"]}
    for finding in report["findings"]:
        code, count = finding["code"], finding["count"]
        if code == "empty" and finding["severity"] == "error":
            code = "rejected"
        if code not in _POLICIES:
            continue
        option, losses = _POLICIES[code]
        own = found.setdefault(option, {})
        for value, loss in losses.items():
            if code == "duplicates" and loss == "rows" and "conflicts" in codes:
                loss = "most"  # some of them may go as conflicts
            before = own.get(value, (loss, 0))
            own[value] = (loss if loss != "none" else before[0], before[1] + (count if loss != "none" else 0))
    if any(finding["severity"] == "error" for finding in report["findings"]):
        found["data.check"] = {"strict": ("refuses", 0), "warn": ("none", 0)}
    return [
        Policy(option, tuple(Choice(v, loss, rows, v == current(config, option)) for v, (loss, rows) in own.items()))
        for option, own in found.items()
    ]


def current(config: RunConfig, option: str) -> str:
    """The value of an option of data or train."""
    section, _, name = option.partition(".")
    return str(getattr(getattr(config, section), name))


def checked(words: Sequence[str], kind: str | None = None) -> RunConfig:
    """The configuration that the words of a `weitiao data check` stand for: data itself and options, no recipe.

    Args:
        kind: of rows, as the check found them: it tells the task, whose defaults are its own.
    """
    source, options = words[2], [one for one in words[3:] if not one.startswith("--")]
    tree = {"model": "-", "data": {"train": source}, "output": {"dir": "-"}}
    tags = {**tree, "task": "token_classification"}
    if kind == "tokens":
        with contextlib.suppress(ConfigError):  # of options that mean nothing to that task
            return load(RunConfig, tags, options)
    return load(RunConfig, tags if any(one.startswith("data.tag_scheme=") for one in options) else tree, options)


def rows_of(words: Sequence[str], ids: Sequence[str]) -> list[tuple[str, str]]:
    """(id, columns as text) of rows that a finding names, in their order; what is not found is left out.

    Raises:
        WeitiaoError, OSError: the data cannot be read any more.
    """
    data = checked(words).data
    wanted, found = set(ids), dict[str, str]()
    for spec in (data.train, data.eval):
        if spec is None or not wanted:
            continue
        for record in read_records(find(spec, data.encoding, data.columns), "skip"):
            if isinstance(record, Row) and record.id in wanted:
                wanted.discard(record.id)
                found[record.id] = _shown(record.fields)
                if not wanted:
                    break
    return [(one, found[one]) for one in ids if one in found]


def _shown(fields: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}"[:2000]
        for name, value in fields.items()
    )


def readings(path: Path) -> list[Reading]:
    """How a text file that is not UTF-8 reads in the encodings that decode it, the most plausible first."""
    sample = sample_of(path)
    if not sample or b"\0" in sample or _is_utf8(sample):
        return []
    found = [(plausible, name, sample.decode(name)) for plausible, name in ranked(sample)]
    lines = (
        (plausible, name, "\n".join(line[:120] for line in text.splitlines()[:_LINES]))
        for plausible, name, text in found
    )
    return list(
        {text: Reading(name, plausible, text) for plausible, name, text in reversed(list(islice(lines, 6)))}.values()
    )[::-1]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def meant(text: str) -> str | None:
    """A text that was decoded in a wrong encoding, as it was meant; None where it cannot be told."""
    for wrong in _WRONG:
        try:
            data = text.encode(wrong)
        except UnicodeEncodeError:
            continue
        for end in range(4):  # an example is cut after 80 characters, maybe within one
            try:
                repaired = data[: len(data) - end].decode("utf-8")
            except UnicodeDecodeError:
                continue
            if repaired and repaired != text[: len(repaired)] and "\ufffd" not in repaired:
                return repaired
    return None
