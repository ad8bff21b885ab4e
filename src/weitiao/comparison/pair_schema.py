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
    """What decided (quality, cost), or why nothing does (unfair rates, failed runs, open)."""
    cheaper: str | None
    """The arm that costs less in something and more in nothing."""
    english: str
    """The decision in a sentence."""
    chinese: str
    """The same in Chinese."""


class VerdictText(TypedDict):
    """What quality says of a pair; costs are not in it."""

    outcome: Literal[
        "first better", "second better", "equivalent within margin", "non-inferior", "not enough seeds to tell"
    ]
    """What the tests over seeds show, at the margin."""
    keep: Literal["first", "second", "undecided"]
    """The arm that is better beyond chance, unless both are equivalent; else undecided."""
    not_worse: list[Literal["first", "second"]]
    """Arms that are shown to be worse by no more than the margin."""
    english: str
    """The finding in a few sentences."""
    chinese: str
    """The same in Chinese."""


class MeanSd(TypedDict):
    """A metric over the seeds of one arm; sd is None below two seeds."""

    mean: float | None
    """In the unit of the metric; null without a seed."""
    sd: float | None
    """Standard deviation (n - 1), in the unit of the metric."""


class IntervalFacts(TypedDict):
    """A two-sided interval; see over_seeds.Interval."""

    lower: float | None
    """In the unit of the metric; null where there is no interval."""
    upper: float | None
    """In the unit of the metric; null where there is no interval."""
    confidence: float
    """A share: 0.95."""
    num_resamples: int
    """How often the data were drawn anew; 0 where they could not be."""
    reason: str | None
    """What the interval leaves out, or why there is none; else null."""


class SignFlipFacts(TypedDict):
    """The sign-flip permutation test over paired seeds; see over_seeds.SignFlip."""

    p: float
    """Two-sided."""
    smallest_p: float
    """The least that so many pairs can reach."""
    num_pairs: int
    """Seeds with a value in both arms."""
    exact: bool
    """Whether all patterns of signs are counted, not a random part of them."""


class EquivalenceFacts(TypedDict):
    """Two one-sided tests at the margin; see over_seeds.Equivalence."""

    margin: float
    """In the unit of the metric."""
    p_first_not_worse: float | None
    """One-sided p; small: the first is worse by no more than the margin. Null under 3 pairs."""
    p_second_not_worse: float | None
    """The same of the second."""
    p_equivalent: float | None
    """The larger of the two; null under 3 pairs."""
    first_not_worse: bool
    """Whether its p is below 0.05."""
    second_not_worse: bool
    """Whether its p is below 0.05."""
    equivalent: bool
    """Whether both are."""
    lower: float | None
    """Of the 90 % interval of the mean difference; null where there is none."""
    upper: float | None
    """Of the 90 % interval of the mean difference; null where there is none."""
    smallest_margin: float | None
    """The margin above which these data show equivalence; null without an interval."""
    method: str | None
    """`paired t`; `exact sign test` where the differences do not vary; null under 3 pairs."""
    reason: str | None
    """What limits the test, or why there is none; else null."""


class ResolutionFacts(TypedDict):
    """What the seeds can resolve; see over_seeds.Resolution."""

    minimum_detectable_difference: float | None
    """What so many seeds find in 4 of 5 studies, in the metric's unit; null without a spread."""
    seeds_needed: int | None
    """Pairs that find a difference as large as observed; null where none can be planned."""
    alpha: float
    """Level of the two-sided test: 0.05."""
    power: float
    """Chance to find the difference: 0.8."""
    reason: str | None
    """Why a figure is null; else null."""


class McNemarFacts(TypedDict):
    """Rows that only one of two models got right; see over_rows.McNemar."""

    b: int
    """Rows that only the first got right."""
    c: int
    """Rows that only the second got right."""
    p: float
    """Exact, two-sided."""
    p_holm: float
    """The same, corrected for the number of seeds."""


class SwapFacts(TypedDict):
    """The permutation test over rows; see over_counts.Swap."""

    difference: float
    """Of all rows, first - second in the unit of the metric."""
    p: float
    """Two-sided."""
    num_rows: int
    """Rows of the test set."""
    exact: bool
    """Whether all swaps are counted, not a random part of them."""
    p_holm: float
    """The same p, corrected for the number of seeds."""


class NoiseFloorFacts(TypedDict):
    """What the test rows can resolve: of rows that are right or wrong, or of metrics that are ratios of counts."""

    num_rows: int
    """Rows of the test set."""
    rows_needed: int | None
    """Rows that show the observed difference in 4 of 5 test sets; null where none can be planned."""
    reason: str | None
    """Why an error is null; else null."""
    accuracy: NotRequired[float]
    """Share of right rows, the mean of both arms over the seeds."""
    accuracy_se: NotRequired[float | None]
    """Its standard error, a share; null where all rows are scored alike."""
    accuracy_difference: NotRequired[float]
    """First - second, a share, the mean over the seeds."""
    discordant_rate: NotRequired[float]
    """Share of rows that one arm alone got right, the mean over the seeds."""
    accuracy_difference_se: NotRequired[float | None]
    """Its standard error, a share; null where it cannot be estimated."""
    difference: NotRequired[float]
    """First - second in the unit of the metric, the mean over the seeds."""
    difference_se: NotRequired[float | None]
    """Its standard error by the jackknife; null where it cannot be estimated."""


class MetricAnalysis(TypedDict):
    """Everything that can be said about two arms in one metric. Differences are first - second, in the unit of the metric."""

    num_pairs: int
    """How many seeds are used."""
    seeds: list[int]
    """Seeds with a usable value in both arms. Only they are used."""
    unpaired_seeds: list[int]
    """Seeds that only one arm has."""
    failed_seeds: list[int]
    """Seeds whose value is nan or beyond 1e100: a run diverged. Where there are any, no arm is recommended."""
    margin: float
    """The largest difference that does not matter."""
    higher_is_better: bool
    """Whether more of the metric is better."""
    first: MeanSd
    """Over the seeds that are used."""
    second: MeanSd
    """Over the seeds that are used."""
    differences: BySeed
    """A seed -> first - second."""
    mean_difference: float | None
    """First - second, in the unit of the metric; null without a pair."""
    sd_difference: float | None
    """Standard deviation (n - 1) of the differences; null under 2 pairs."""
    bootstrap: IntervalFacts
    """Of the mean difference over seeds."""
    sign_flip: SignFlipFacts
    """Whether the difference can be chance."""
    equivalence: EquivalenceFacts
    """Whether the difference is within the margin."""
    resolution: ResolutionFacts
    """How large a difference so many seeds can show."""
    mcnemar: dict[str, McNemarFacts] | None
    """By seed, where rows are right or wrong. This and the next three are None where no seed has rows in both arms."""
    swap: dict[str, SwapFacts] | None
    """By seed, where rows have counts that the metric is a ratio of."""
    hierarchical: IntervalFacts | None
    """Of the difference over seeds and rows; under 3 seeds over rows alone."""
    noise_floor: NoiseFloorFacts | None
    """How small a difference the test rows can show."""
    verdict: VerdictText
    """What follows for quality."""
    p_holm: NotRequired[float]
    """p of the sign flip, corrected for the number of metrics."""


class EffectDifference(TypedDict):
    """A side effect of a pair of arms: the paired difference over seeds. It decides nothing."""

    num_pairs: int
    """Seeds with a value in both arms."""
    mean_difference: float | None
    """First - second; null without a pair."""
    lower: float | None
    """Of the 90 % interval of the mean difference; null where there is none."""
    upper: float | None
    """Of the 90 % interval of the mean difference; null where there is none."""
    p: float
    """Two-sided, by sign flip."""


class PairResult(TypedDict):
    """The first arm against another one."""

    first: str
    """Name of the comparison's first arm."""
    second: str
    """Name of the other one."""
    metric: str
    """The one that decides."""
    decision: Decision
    """From quality and costs together."""
    metrics: dict[str, MetricAnalysis]
    """A metric -> what its values say."""
    effects: dict[str, EffectDifference]
    """memorisation, similarity or masked_loss -> its difference, where both arms measured it."""
