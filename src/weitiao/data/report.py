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
    severity: Severity
    count: int
    message: str
    fix: str
    where: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


class FormatFacts(TypedDict):
    """How the rows were read."""

    name: str
    kind: str
    reason: str
    columns: list[str]
    encodings: dict[str, str]
    num_rejected: int


class Histogram(TypedDict):
    """Rows in each bin, and the bins' edges (one more)."""

    counts: list[int]
    edges: list[float]


class LengthFacts(TypedDict):
    """Lengths of the rows, in tokens where a tokenizer is known, else in characters."""

    unit: Literal["tokens", "characters"]
    max_length: int
    mean: float
    percentiles: dict[str, float]
    histogram: Histogram


@dataclass(frozen=True)
class DataReport:
    """All findings, worst first, and the figures behind the plots."""

    source: str
    num_rows: int
    format: FormatFacts
    findings: tuple[Finding, ...]
    label_counts: dict[str, int]
    lengths: LengthFacts
    scripts: dict[str, int]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as data_report.json holds it."""
        return asdict(self)


class ConflictExample(TypedDict):
    """A text that stands under different labels."""

    text: str
    rows: dict[str, str]
    """Row id -> label."""


class PolicyReport(TypedDict):
    """What the policies left out of one source."""

    num_rows: int
    num_rejected: int
    num_empty: int
    num_distinct_texts: int
    duplicates_dropped: int
    conflicts_dropped: int
    conflict_examples: list[ConflictExample]


class NearExample(TypedDict):
    """A training row that is nearly an evaluation row."""

    train: str
    eval: str
    similarity: float


class NearReport(TypedDict):
    """Training rows that are nearly equal to an evaluation row."""

    policy: Literal["drop", "warn", "off"]
    threshold: NotRequired[float]
    across_the_split: NotRequired[int]
    dropped_from_train: NotRequired[int]
    examples: NotRequired[list[NearExample]]


class SplitFormat(TypedDict):
    """How the rows were read."""

    name: str
    reason: str
    columns: list[str]
    encodings: dict[str, str]


class TokenFacts(TypedDict):
    """The encoded rows of one side."""

    mean: float
    longest: int
    rows: int
    encoded_rows: int
    """More than `rows` where texts are cut into windows."""
    rows_over_length: int
    tokens_lost: int


class SplitReport(TypedDict):
    """The two sides of the split, and the account of every row left out."""

    train: NotRequired[PolicyReport]
    """Not with `data.streaming`."""
    eval: NotRequired[PolicyReport]
    """With `data.eval`."""
    overlap_dropped_from_train: NotRequired[int]
    rare_rows_kept_for_training: NotRequired[int]
    """Rows that the split would have held out, and that alone have one of their labels."""
    format: SplitFormat
    near_duplicates: NotRequired[NearReport]
    num_train_rows: NotRequired[int]
    num_eval_rows: int
    label_counts_train: NotRequired[dict[str, int]]
    label_counts_eval: dict[str, int]
    dropped_in_encoding_from_train: NotRequired[list[str]]
    """Row ids: too long, without a target, or refused by the chat template."""
    dropped_in_encoding_from_eval: NotRequired[list[str]]
    train_tokens: NotRequired[TokenFacts]
    eval_tokens: NotRequired[TokenFacts]


@with_config(_STRICT)
class RunDataReport(TypedDict):
    """data_report.json of a run folder."""

    check: DataReport
    """What `weitiao data check` says of the rows."""
    split: SplitReport
    stream: NotRequired[dict[str, int]]
    """Rows of a streamed training side: used, and left out by reason."""
