"""The types of a pair of arms in comparison.json: what was computed of them, and which arm to keep. See schema.py."""

from typing import Literal, NotRequired

from pydantic import ConfigDict
from typing_extensions import TypedDict

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
BySeed = dict[str, float]  # a seed, as text -> its value


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
