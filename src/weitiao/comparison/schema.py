"""The types of comparison.json. Its JSON schema is made from them (weitiao/schemas.py), and a test validates real files.

Differences are always first - second, in the unit of the metric. What cannot be computed is None.
"""

from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
BySeed = dict[str, float]  # a seed, as text -> its value
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


class Decision(TypedDict):
    """Which arm to keep."""

    keep: str
    """An arm's name, or "undecided"."""
    because: Literal["quality", "cost", "unfair", "failed", "open"]
    cheaper: str | None
    """The arm that costs less in something and more in nothing."""
    english: str
    chinese: str


class VerdictText(TypedDict):
    """What quality says of a pair; costs are not in it."""

    outcome: Literal[
        "first better", "second better", "equivalent within margin", "non-inferior", "not enough seeds to tell"
    ]
    keep: Literal["first", "second", "undecided"]
    not_worse: list[Literal["first", "second"]]
    english: str
    chinese: str


class MeanSd(TypedDict):
    """A metric over the seeds of one arm; sd is None below two seeds."""

    mean: float | None
    sd: float | None


class IntervalFacts(TypedDict):
    """A two-sided interval; see over_seeds.Interval."""

    lower: float | None
    upper: float | None
    confidence: float
    num_resamples: int
    reason: str | None


class SignFlipFacts(TypedDict):
    """The sign-flip permutation test over paired seeds; see over_seeds.SignFlip."""

    p: float
    smallest_p: float
    num_pairs: int
    exact: bool


class EquivalenceFacts(TypedDict):
    """Two one-sided tests at the margin; see over_seeds.Equivalence."""

    margin: float
    p_first_not_worse: float | None
    p_second_not_worse: float | None
    p_equivalent: float | None
    first_not_worse: bool
    second_not_worse: bool
    equivalent: bool
    lower: float | None
    upper: float | None
    smallest_margin: float | None
    method: str | None
    reason: str | None


class ResolutionFacts(TypedDict):
    """What the seeds can resolve; see over_seeds.Resolution."""

    minimum_detectable_difference: float | None
    seeds_needed: int | None
    alpha: float
    power: float
    reason: str | None


class McNemarFacts(TypedDict):
    """Rows that only one of two models got right; see over_rows.McNemar."""

    b: int
    c: int
    p: float
    p_holm: float


class SwapFacts(TypedDict):
    """The permutation test over rows; see over_counts.Swap."""

    difference: float
    p: float
    num_rows: int
    exact: bool
    p_holm: float


class NoiseFloorFacts(TypedDict):
    """What the test rows can resolve: of rows that are right or wrong, or of metrics that are ratios of counts."""

    num_rows: int
    rows_needed: int | None
    reason: str | None
    accuracy: NotRequired[float]
    accuracy_se: NotRequired[float | None]
    accuracy_difference: NotRequired[float]
    discordant_rate: NotRequired[float]
    accuracy_difference_se: NotRequired[float | None]
    difference: NotRequired[float]
    difference_se: NotRequired[float | None]


class MetricAnalysis(TypedDict):
    """Everything that can be said about two arms in one metric. Differences are first - second, in the unit of the metric."""

    num_pairs: int
    seeds: list[int]
    """Seeds with a usable value in both arms. Only they are used."""
    unpaired_seeds: list[int]
    """Seeds that only one arm has."""
    failed_seeds: list[int]
    """Seeds whose value is nan or beyond 1e100: a run diverged. Where there are any, no arm is recommended."""
    margin: float
    """The largest difference that does not matter."""
    higher_is_better: bool
    first: MeanSd
    second: MeanSd
    differences: BySeed
    mean_difference: float | None
    sd_difference: float | None
    bootstrap: IntervalFacts
    """Of the mean difference over seeds."""
    sign_flip: SignFlipFacts
    equivalence: EquivalenceFacts
    resolution: ResolutionFacts
    mcnemar: dict[str, McNemarFacts] | None
    """By seed, where rows are right or wrong. This and the next three are None where no seed has rows in both arms."""
    swap: dict[str, SwapFacts] | None
    """By seed, where rows have counts that the metric is a ratio of."""
    hierarchical: IntervalFacts | None
    """Of the difference over seeds and rows."""
    noise_floor: NoiseFloorFacts | None
    verdict: VerdictText
    p_holm: NotRequired[float]
    """p of the sign flip, corrected for the number of metrics."""


class EffectDifference(TypedDict):
    """A side effect of a pair of arms: the paired difference over seeds. It decides nothing."""

    num_pairs: int
    mean_difference: float | None
    lower: float | None
    upper: float | None
    p: float


class PairResult(TypedDict):
    """The first arm against another one."""

    first: str
    second: str
    metric: str
    """The one that decides."""
    decision: Decision
    metrics: dict[str, MetricAnalysis]
    effects: dict[str, EffectDifference]


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
