"""Which arm does the quality speak for? One finding; wording.py has the sentences for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from weitiao.comparison.levels import ALPHA

Outcome = Literal[
    "first better", "second better", "equivalent within margin", "non-inferior", "not enough seeds to tell"
]
Side = Literal["first", "second"]
SIDES: tuple[Side, Side] = ("first", "second")


@dataclass(frozen=True)
class PairedDifference:
    """What the tests over paired seeds found. Differences are first - second, in the unit of the metric.

    Args:
        num_pairs: paired seeds.
        p: two-sided, by sign flip.
        interval: 90 % interval of the mean difference.
        not_worse: whether each arm was shown to be no worse than the other by more than the margin.
        failed_seeds: seeds at which a run failed (diverged, or did not end). Leaving them out favours the arm that failed, so
            nothing is concluded.
    """

    num_pairs: int
    mean_difference: float | None
    p: float
    margin: float
    interval: tuple[float, float] | None = None
    not_worse: tuple[bool, bool] = (False, False)
    seeds_needed: int | None = None
    higher_is_better: bool = True
    failed_seeds: Sequence[int] = ()

    @property
    def gain(self) -> float:
        """By how much the first arm is better."""
        return (self.mean_difference or 0.0) * (1 if self.higher_is_better else -1)

    @property
    def ahead(self) -> Side | None:
        """The arm that is better on average."""
        return "first" if self.gain > 0 else "second" if self.gain < 0 else None

    @property
    def proven(self) -> tuple[Side, ...]:
        """The arms that were shown to be no worse."""
        return tuple(side for side, shown in zip(SIDES, self.not_worse, strict=True) if shown and not self.failed_seeds)

    @property
    def beyond_chance(self) -> Side | None:
        """The arm that is better beyond chance."""
        return self.ahead if self.p < ALPHA and not self.failed_seeds else None

    @property
    def smallest_p(self) -> float:
        """That so many pairs can reach."""
        return min(1.0, 2.0 * 0.5**self.num_pairs)


@dataclass(frozen=True)
class Verdict:
    """What quality alone says; costs are not in it.

    ``keep`` names an arm only where that arm is better beyond chance and the two are not the same within the margin: otherwise
    cost decides. ``not_worse`` lists the arms shown to be no worse than the other by more than the margin: where the cheaper
    arm is among them, it may be kept.
    """

    outcome: Outcome
    keep: Literal["first", "second", "undecided"]
    not_worse: tuple[Side, ...]


def verdict(tested: PairedDifference) -> Verdict:
    """The first of these that holds: equivalent, better, non-inferior, not enough seeds.

    Equivalence goes first: a difference can be real and still too small to matter, and the margin says what matters.
    """
    better = tested.beyond_chance
    if len(tested.proven) == 2:
        return Verdict("equivalent within margin", "undecided", tested.proven)
    if better:
        return Verdict("first better" if better == "first" else "second better", better, tested.proven)
    return Verdict("non-inferior" if tested.proven else "not enough seeds to tell", "undecided", tested.proven)
