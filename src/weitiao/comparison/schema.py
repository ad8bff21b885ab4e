"""The types of comparison.json. Its JSON schema is made from them (weitiao/schemas.py), and a test validates real files.

Differences are always first - second, in the unit of the metric. What cannot be computed is None.
"""

from typing import Any, Literal, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from weitiao.comparison.pair_schema import STRICT, BySeed, PairResult

SCHEMA = 3  # version of comparison.json
CostKey = Literal[
    "peak_memory_bytes",
    "memory_before_model_bytes",
    "train_seconds",
    "total_seconds",
    "samples_per_s",
    "tokens_per_s",
    "num_tokens",
    "steps",
    "artifact_bytes",
    "tokenizer_bytes",
]


class Tongues(TypedDict):
    """A text in both languages."""

    english: str
    chinese: str


class DataFacts(TypedDict):
    """The rows that were compared on."""

    train: str | list[str]
    num_train_rows: int
    num_eval_rows: int
    sha256: dict[str, Any]
    """Hash of every data file, by side and name."""


class Budget(TypedDict):
    """What every arm got the same of; null: what `train` says."""

    of: Literal["epochs", "steps", "seconds"] | None
    value: float | None


class OverSeeds(TypedDict):
    """A value over the seeds of an arm."""

    mean: float
    by_seed: BySeed


class ClassScores(TypedDict):
    """One class, or type of entity; means over the seeds."""

    precision: float
    recall: float
    f1: float
    rows: float


class CalibrationBin(TypedDict):
    """Rows whose predicted label had such a probability."""

    confidence: float
    accuracy: float
    rows: int


class Calibration(TypedDict):
    """Reliability of the predicted labels."""

    ece: float
    """Expected calibration error, a share."""
    bins: list[CalibrationBin]


class ArmResult(TypedDict):
    """One arm over its seeds: medians of what the machine disturbs, means of quality. None where no run has finished."""

    name: str
    model: str
    method: dict[str, Any]
    learning_rate: float
    num_params: int | None
    num_trainable_params: int | None
    trainable_percent: float | None
    artifact_bytes: int | None
    tokenizer_bytes: int | None
    peak_memory_bytes: float | None
    memory_before_model_bytes: float | None
    train_seconds: float | None
    total_seconds: float | None
    samples_per_s: float | None
    tokens_per_s: float | None
    num_tokens: float | None
    steps: float | None
    by_seed: dict[str, dict[str, float | None]]
    """A cost -> a seed -> its value."""
    num_eval_rows: int | None
    dtype: str | None
    selected_on_eval: bool
    """The evaluation rows also chose the kept step or the end of training."""
    num_failed: int
    quality: dict[str, OverSeeds]
    """A metric -> its values."""
    per_class: dict[str, ClassScores]
    confusion_matrix: list[list[int]]
    """Gold label -> predicted label, all seeds together; empty where the task has none."""
    plan_error: list[dict[str, float | None]] | None
    """Of each run: the error of the plan as a share of what was measured."""
    calibration: Calibration | None
    effects: dict[str, OverSeeds]


class ChineseRow(TypedDict):
    """A row of the table in Chinese."""

    name: str
    cells: list[str]
    ratios: list[str]


class Row(TypedDict):
    """A row of the table, as text."""

    name: str
    cells: list[str]
    """One for each arm."""
    ratios: list[str]
    """Each arm after the first against the first."""
    ratio: str
    """The last of them."""
    chinese: ChineseRow


class Unfair(TypedDict):
    """An arm whose learning rate is another method's."""

    arm: str
    english: str
    chinese: str


class Executor(TypedDict):
    """How the cells were run."""

    name: str
    cells_at_once: int
    machines: int
    note: NotRequired[Tongues | None]
    """Why costs cannot be compared, if so."""


class TriedRate(TypedDict):
    """One learning rate of a search."""

    learning_rate: float | None
    score: float | None
    log_loss: float | None
    failure: str | None
    run_dir: str


class ArmSearch(TypedDict):
    """The search of one arm."""

    center: float
    chosen: float | None
    at_edge: bool
    tried: list[TriedRate]


class Search(TypedDict):
    """The search for learning rates, on rows cut from the training rows."""

    metric: str
    seed: int
    num_train_rows: int
    num_development_rows: int
    arms: dict[str, ArmSearch]


class CellResult(TypedDict):
    """One run: an arm at a seed."""

    name: str
    arm: str
    seed: int
    run_dir: str
    failure: str | None
    same_answer: NotRequired[str]
    """What the run answers for every evaluation row, though the right answers differ."""
    command: str
    """Runs it again, alone."""


@with_config(STRICT)
class Comparison(TypedDict):
    """comparison.json: everything that the report shows."""

    schema: int
    model: str
    task: str
    data: DataFacts
    seeds: list[int]
    margin: float
    margin_unit: Tongues
    metric: str
    higher_is_better: bool
    budget: Budget
    label_names: list[str]
    arms: list[ArmResult]
    pairs: list[PairResult]
    rows: list[Row]
    unfair: list[Unfair]
    executor: Executor
    search: Search | None
    environment: dict[str, Any]
    command: str
    """Makes the comparison again."""
    cells: list[CellResult]
