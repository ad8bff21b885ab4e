"""What a data check says: findings, and the figures behind its plots."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

Severity = Literal["error", "warning", "info"]
SHOWN = 20  # rows that a finding names


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
