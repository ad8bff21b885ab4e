"""The batch planner: each row once an epoch, the budget kept, the order from seed and epoch alone, little padding."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weitiao.data.batch import BatchPlan, padding_waste, plan_epoch, plan_evaluation, steps_per_epoch
from weitiao.data.encode import Encoded
from weitiao.training.schedule import EpochSchedule


def of_lengths(lengths: list[int]) -> Encoded:
    return Encoded.of([[1] * n for n in lengths])


lengths_strategy = st.lists(st.integers(1, 200), min_size=1, max_size=120)


@given(lengths_strategy, st.integers(8, 400), st.integers(0, 5), st.integers(0, 3), st.booleans())
def test_each_row_once_and_budget_kept(lengths: list[int], budget: int, seed: int, epoch: int, group: bool) -> None:
    plan = BatchPlan(budget, group_by_length=group)
    batches = plan_epoch(lengths, plan, seed, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(lengths_strategy, st.integers(1, 9), st.booleans())
def test_rows_per_batch(lengths: list[int], rows: int, group: bool) -> None:
    batches = plan_epoch(lengths, BatchPlan(10**9, rows, group), 0, 0)
    assert sorted(map(len, batches))[1:] == [rows] * (len(batches) - 1)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = [random.Random(0).randint(5, 60) for _ in range(300)]
    plan = BatchPlan(512)
    assert plan_epoch(lengths, plan, 1, 0) == plan_epoch(lengths, plan, 1, 0)
    assert plan_epoch(lengths, plan, 1, 0) != plan_epoch(lengths, plan, 1, 1)
    assert plan_epoch(lengths, plan, 1, 0) != plan_epoch(lengths, plan, 2, 0)


def test_padding_waste_stays_small_where_random_batches_waste_most() -> None:
    rng = random.Random(0)
    lengths = [min(512, int(rng.lognormvariate(3.7, 0.8)) + 3) for _ in range(3000)]
    grouped = padding_waste(plan_epoch(lengths, BatchPlan(1024), 0, 0), lengths, BatchPlan(1024))
    at_random = BatchPlan(1024, group_by_length=False)
    scattered = padding_waste(plan_epoch(lengths, at_random, 0, 0), lengths, at_random)
    assert grouped < 0.04
    assert scattered > 0.3


def test_padding_waste_by_hand() -> None:
    assert padding_waste([[0, 1], [2]], [2, 4, 5], BatchPlan(8)) == pytest.approx(2 / 13)
    assert padding_waste([[0, 1], [2]], [2, 4, 5], BatchPlan(8, packing=True)) == 0


def test_evaluation_starts_with_the_longest() -> None:
    assert plan_evaluation([3, 9, 5, 1], 10) == [[1], [2, 0], [3]]  # 9, 2 x 5 and 1 of 10 padded tokens


@pytest.mark.parametrize(("batches", "accumulation", "steps"), [(10, 1, 10), (10, 4, 3), (3, 8, 1), (8, 4, 2)])
def test_steps_per_epoch(batches: int, accumulation: int, steps: int) -> None:
    assert steps_per_epoch(batches, accumulation) == steps


def test_schedule_visits_every_row_each_epoch_and_resumes_where_it_stopped() -> None:
    lengths = [5, 6, 7, 8, 9, 10, 11, 12]
    schedule = EpochSchedule(of_lengths(lengths), BatchPlan(24), seed=0, accumulation=2, num_epochs=3)
    steps = list(schedule.steps())
    assert len(steps) == schedule.total_steps()
    assert [s.step for s in steps] == list(range(1, len(steps) + 1))
    per_epoch = len(steps) // 3
    for epoch in range(3):
        rows = [i for step in steps[epoch * per_epoch :][:per_epoch] for batch in step.batches for i in batch]
        assert sorted(rows) == list(range(8))
    assert [s.batches for s in schedule.steps(skip=4)] == [s.batches for s in steps[4:]]
    assert [s.ends_epoch for s in steps].count(True) == 3


def test_max_steps_and_longest_batch() -> None:
    schedule = EpochSchedule(of_lengths([4, 4, 50, 3]), BatchPlan(16), 0, 1, 5, max_steps=2)
    assert schedule.total_steps() == len(list(schedule.steps())) == 2
    assert schedule.longest_batch()[1] == [2]
