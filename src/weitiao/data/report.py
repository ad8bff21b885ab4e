"""What a data check says: findings, and the figures behind its plots."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

Severity = Literal["error", "warning", "info"]
SHOWN = 20  # rows that a finding names
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad, how many rows, where (file:line), and what settles it."""

    code: str
    """A short name that stays the same, such as `near_duplicates`."""
    severity: Severity
    """An error ends `weitiao train`, unless `data.check=warn`."""
    count: int
    """How many rows, or labels where it is about those."""
    message: str
    """What was found, in words."""
    fix: str
    """What to do about it."""
    where: tuple[str, ...] = ()
    """file:line of at most 20 of the rows."""
    examples: tuple[str, ...] = ()
    """Up to five texts, shortened."""


class FormatFacts(TypedDict):
    """How the rows were read."""

    name: str
    """In words, such as `text and label`."""
    kind: str
    """classification, labels, number, tokens, sft or text."""
    reason: str
    """What the format was recognised by."""
    columns: list[str]
    """Those that are used."""
    encodings: dict[str, str]
    """A text file's name -> its encoding."""
    num_rejected: int
    """Records that could not be used; those without visible characters not counted."""


class Histogram(TypedDict):
    """Rows in each bin, and the bins' edges (one more)."""

    counts: list[int]
    """[N]: rows in each bin."""
    edges: list[float]
    """[N + 1]: lengths between which the bins lie, ascending."""


class LengthFacts(TypedDict):
    """Lengths of the rows, in tokens where a tokenizer is known, else in characters."""

    unit: Literal["tokens", "characters"]
    """Of all lengths here."""
    max_length: int
    """Most tokens of a row: `data.max_length`; in a run less where the model takes less."""
    mean: float
    """Of the uncut rows."""
    percentiles: dict[str, float]
    """Percent (5 to 100) -> the length that so many of the rows do not exceed."""
    histogram: Histogram
    """At most 60 bins."""


@with_config(_STRICT)
@dataclass(frozen=True)
class DataReport:
    """All findings, worst first, and the figures behind the plots."""

    source: str
    """What was read, as it was named; of a streamed run its evaluation rows."""
    num_rows: int
    """Rows that can be used."""
    format: FormatFacts
    """What the rows are, and why they were taken for that."""
    findings: tuple[Finding, ...]
    """Errors first, then warnings; of each severity the one with the highest count first."""
    label_counts: dict[str, int]
    """A label -> its rows, or a type -> its entities; empty where rows have none."""
    lengths: LengthFacts
    """Of the rows before any is cut."""
    scripts: dict[str, int]
    """A script, such as Han or Latin -> rows most of whose letters are in it."""

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as data_report.json holds it."""
        return asdict(self)


class ConflictExample(TypedDict):
    """A text that stands under different labels."""

    text: str
    """Its first 80 characters."""
    rows: dict[str, str]
    """Row id -> label."""


class PolicyReport(TypedDict):
    """What the policies left out of one source."""

    num_rows: int
    """Rows that can be used, before the policies."""
    num_rejected: int
    """Records that could not be used, empty texts not counted."""
    num_empty: int
    """Records whose text has no visible character."""
    num_distinct_texts: int
    """Texts that differ after NFKC and folding of white space."""
    duplicates_dropped: int
    """Rows left out since their text stood before (`data.duplicates=drop`)."""
    conflicts_dropped: int
    """Rows left out since their text has several labels (`data.conflicts=drop`)."""
    conflict_examples: list[ConflictExample]
    """At most five texts with different labels."""


class NearExample(TypedDict):
    """A training row that is nearly an evaluation row."""

    train: str
    """Row id (file:line) of the training row."""
    eval: str
    """Row id (file:line) of the evaluation row."""
    similarity: float
    """Jaccard, of their character n-grams, 0 to 1."""


class NearReport(TypedDict):
    """Training rows that are nearly equal to an evaluation row."""

    policy: Literal["drop", "warn", "off"]
    """`data.near_duplicates`; with `off` the other keys are left out."""
    threshold: NotRequired[float]
    """Least similarity that counts as near, 0 to 1."""
    across_the_split: NotRequired[int]
    """Training rows that are near to an evaluation row."""
    dropped_from_train: NotRequired[int]
    """Of them those that were left out; 0 with `warn`."""
    examples: NotRequired[list[NearExample]]
    """At most five pairs."""


class SplitFormat(TypedDict):
    """How the rows were read."""

    name: str
    """In words, such as `text and label`."""
    reason: str
    """What the format was recognised by."""
    columns: list[str]
    """Those that are used."""
    encodings: dict[str, str]
    """A text file's name -> its encoding."""


class TokenFacts(TypedDict):
    """The encoded rows of one side."""

    mean: float
    """Tokens of an encoded row, special tokens included."""
    longest: int
    """Tokens of the longest encoded row."""
    rows: int
    """Rows of the data that are used."""
    encoded_rows: int
    """More than `rows` where texts are cut into windows."""
    rows_over_length: int
    """Rows longer than the limit: cut, left out, or made into windows."""
    tokens_lost: int
    """Tokens cut off; of rows left out for their length all."""


class SplitReport(TypedDict):
    """The two sides of the split, and the account of every row left out."""

    train: NotRequired[PolicyReport]
    """Not with `data.streaming`."""
    eval: NotRequired[PolicyReport]
    """With `data.eval`."""
    overlap_dropped_from_train: NotRequired[int]
    """Training rows left out since `data.eval` has their text, or question; 0 without it."""
    rare_rows_kept_for_training: NotRequired[int]
    """Rows that the split would have held out, and that alone have one of their labels."""
    format: SplitFormat
    """Of the training rows; of a streamed run of the evaluation rows."""
    near_duplicates: NotRequired[NearReport]
    """What is nearly equal across the split; not with `data.streaming`."""
    num_train_rows: NotRequired[int]
    """After all that was left out; not with `data.streaming`."""
    num_eval_rows: int
    """After all that was left out."""
    label_counts_train: NotRequired[dict[str, int]]
    """A label -> its rows, or a tag -> its words; empty where rows have none."""
    label_counts_eval: dict[str, int]
    """The same of the evaluation rows."""
    dropped_in_encoding_from_train: NotRequired[list[str]]
    """Row ids: too long, without a target, or refused by the chat template."""
    dropped_in_encoding_from_eval: NotRequired[list[str]]
    """The same of the evaluation rows."""
    train_tokens: NotRequired[TokenFacts]
    """Of the training rows, canaries included; not with `data.streaming`."""
    eval_tokens: NotRequired[TokenFacts]
    """Of the evaluation rows."""


@with_config(_STRICT)
class RunDataReport(TypedDict):
    """data_report.json of a run folder."""

    check: DataReport
    """What `weitiao data check` says of the rows."""
    split: SplitReport
    """Which rows are on which side, in numbers."""
    stream: NotRequired[dict[str, int]]
    """Rows of a streamed training side: used, and left out by reason."""
