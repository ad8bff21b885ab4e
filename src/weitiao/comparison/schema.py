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
    """The text in English."""
    chinese: str
    """The text in Chinese."""


class DataFacts(TypedDict):
    """The rows that were compared on."""

    train: str | list[str]
    """As the configuration names it."""
    num_train_rows: int
    """Rows that train; 0 of a stream."""
    num_eval_rows: int
    """Rows of the other side of the split."""
    sha256: dict[str, Any]
    """Hash of every data file, by side and name."""


class Budget(TypedDict):
    """What every arm got the same of; null: what `train` says."""

    of: Literal["epochs", "steps", "seconds"] | None
    """What is counted; null: nothing is held equal but `train`."""
    value: float | None
    """How many of it; null with `of`."""


class OverSeeds(TypedDict):
    """A value over the seeds of an arm."""

    mean: float
    """Over the seeds that have a number."""
    by_seed: BySeed
    """A seed -> its value."""


class ClassScores(TypedDict):
    """One class, or type of entity; means over the seeds."""

    precision: float
    """Share of right ones among those predicted as it, 0 to 1."""
    recall: float
    """Share of its gold ones that were found, 0 to 1."""
    f1: float
    """Harmonic mean of precision and recall, 0 to 1."""
    rows: float
    """Gold rows, or entities, of it."""


class CalibrationBin(TypedDict):
    """Rows whose predicted label had such a probability."""

    confidence: float
    """Mean probability of the predicted labels, 0 to 1."""
    accuracy: float
    """Share of rows that are right, 0 to 1."""
    rows: int
    """How many, of all seeds together."""


class Calibration(TypedDict):
    """Reliability of the predicted labels."""

    ece: float
    """Expected calibration error, a share."""
    bins: list[CalibrationBin]
    """At most ten of equal width, by probability; those without rows are left out."""


class ArmResult(TypedDict):
    """One arm over its seeds: medians of what the machine disturbs, means of quality. None where no run has finished."""

    name: str
    """The arm's, as in tables and folders."""
    model: str
    """As the configuration names it."""
    method: dict[str, Any]
    """The options of its `method` section."""
    learning_rate: float
    """The peak; of an arm without a finished run its own, or its method's default for a long run."""
    num_params: int | None
    """Parameters of the model, an adapter's included."""
    num_trainable_params: int | None
    """Of them those that train."""
    trainable_percent: float | None
    """Share of those that train, in percent."""
    artifact_bytes: int | None
    """Weights and configuration, without the tokenizer; of the first finished run."""
    tokenizer_bytes: int | None
    """The tokenizer's files, of the first finished run."""
    peak_memory_bytes: float | None
    """Median of the runs' peaks, up to the last step."""
    memory_before_model_bytes: float | None
    """Median of what was held before the model was loaded."""
    train_seconds: float | None
    """Median; training without evaluations."""
    total_seconds: float | None
    """Median; from the start of the log to the last metric."""
    samples_per_s: float | None
    """Median; rows trained on a second, without the first two steps."""
    tokens_per_s: float | None
    """Median; padding not counted, without the first two steps."""
    num_tokens: float | None
    """Median; tokens trained on, padding not counted."""
    steps: float | None
    """Median; optimizer steps."""
    by_seed: dict[str, dict[str, float | None]]
    """A cost -> a seed -> its value."""
    num_eval_rows: int | None
    """Rows that were scored."""
    dtype: str | None
    """Of the computation: float32, bfloat16 or float16."""
    selected_on_eval: bool
    """The evaluation rows also chose the kept step or the end of training."""
    num_failed: int
    """Runs that failed."""
    quality: dict[str, OverSeeds]
    """A metric -> its values."""
    per_class: dict[str, ClassScores]
    """A class, or type of entity -> its scores; empty where the task has none."""
    confusion_matrix: list[list[int]]
    """Gold label -> predicted label, all seeds together; empty where the task has none."""
    plan_error: list[dict[str, float | None]] | None
    """Of each run: the error of the plan as a share of what was measured."""
    calibration: Calibration | None
    """All seeds together; null but for classification."""
    effects: dict[str, OverSeeds]
    """memorisation, similarity or masked_loss -> its values, where it was measured."""


class ChineseRow(TypedDict):
    """A row of the table in Chinese."""

    name: str
    """What the row shows."""
    cells: list[str]
    """One for each arm."""
    ratios: list[str]
    """Each arm after the first against the first."""


class Row(TypedDict):
    """A row of the table, as text."""

    name: str
    """What the row shows, such as Peak memory."""
    cells: list[str]
    """One for each arm."""
    ratios: list[str]
    """Each arm after the first against the first."""
    ratio: str
    """The last of them."""
    chinese: ChineseRow
    """The same in Chinese."""


class Unfair(TypedDict):
    """An arm whose learning rate is another method's."""

    arm: str
    """Its name."""
    english: str
    """Whose rate it is, in a few words."""
    chinese: str
    """The same in Chinese."""


class Executor(TypedDict):
    """How the cells were run."""

    name: str
    """`local` or `ray`; of merged comparisons each that was used."""
    cells_at_once: int
    """The most runs at the same time on one machine."""
    machines: int
    """How many; one with another GPU, memory or number of threads counts as another."""
    note: NotRequired[Tongues | None]
    """Why costs cannot be compared, if so."""


class TriedRate(TypedDict):
    """One learning rate of a search."""

    learning_rate: float
    """The peak of its run."""
    score: float | None
    """The metric that decides, on the development rows; null where there is none."""
    log_loss: float | None
    """On the development rows, in nats; null where there is none. It breaks ties."""
    failure: str | None
    """Why the run failed; null where it finished."""
    run_dir: str
    """Folder of its run."""


class ArmSearch(TypedDict):
    """The search of one arm."""

    center: float
    """The middle of the rates: the arm's own one, or its method's default."""
    chosen: float | None
    """The best rate; null where all runs failed."""
    at_edge: bool
    """Whether that is the lowest or highest one: a wider search might find a better one."""
    tried: list[TriedRate]
    """One for each rate, the lowest first."""


class Search(TypedDict):
    """The search for learning rates, on rows cut from the training rows."""

    metric: str
    """The one that decides."""
    seed: int
    """Of all its runs: the comparison's first one."""
    num_train_rows: int
    """Rows that its runs train on; 0 where none finished."""
    num_development_rows: int
    """Rows that its runs are scored on; 0 where none finished."""
    arms: dict[str, ArmSearch]
    """An arm's name -> its search."""


class CellResult(TypedDict):
    """One run: an arm at a seed."""

    name: str
    """Arm and seed, such as lora-seed42; of merged comparisons with a folder before it."""
    arm: str
    """Name of the arm."""
    seed: int
    """Of head initialisation, batch order and dropout."""
    run_dir: str
    """Its run folder."""
    learning_rate: float | None
    """The peak of its run: seeds whose steps differ may differ in a default; null where it failed."""
    failure: str | None
    """Why there is no finished run; null where it finished."""
    same_answer: NotRequired[str]
    """What the run answers for every evaluation row, though the right answers differ."""
    command: str
    """Runs it again, alone."""


@with_config(STRICT)
class Comparison(TypedDict):
    """comparison.json: everything that the report shows."""

    schema: int
    """Version of this form: 3."""
    model: str
    """As the configuration names it."""
    task: str
    """As in the configuration: classification, causal_lm, ..."""
    data: DataFacts
    """The same for all runs."""
    seeds: list[int]
    """One run of each arm at each."""
    margin: float
    """The largest difference that does not matter, set before the runs."""
    margin_unit: Tongues
    """Of `margin`; empty texts where it is the metric's own."""
    metric: str
    """The one that decides."""
    higher_is_better: bool
    """Whether more of that metric is better."""
    budget: Budget
    """What every arm gets equally much of."""
    label_names: list[str]
    """Classes in order; empty where the task has none."""
    arms: list[ArmResult]
    """One for each; the others are compared with the first."""
    pairs: list[PairResult]
    """The first arm against each of the others."""
    rows: list[Row]
    """Six: parameters, memory, speed, storage, quality, and when each arm fits."""
    unfair: list[Unfair]
    """Arms that train at another method's learning rate; empty where none does."""
    executor: Executor
    """How many runs could disturb each other."""
    search: Search | None
    """How rates were found; null without `compare.lr_search`, and of merged comparisons."""
    environment: dict[str, Any]
    """environment.json of the first finished run."""
    command: str
    """Makes the comparison again."""
    cells: list[CellResult]
    """Every run, failed ones included."""
