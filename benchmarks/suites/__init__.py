"""The suites: each makes its list of cells, in the order in which they are measured (A B A B)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from record import Cell
from suites import (
    against,
    allocators,
    checkpointing,
    dtypes,
    growth,
    inside,
    own,
    quality,
    serving,
    shared,
    starts,
    web,
)
from suites.bench import Bench


@dataclass(frozen=True)
class Suite:
    cells: Callable[[Bench], Iterator[Cell]]
    duration: str  # on two shared cores, with the default rounds
    default: bool = True  # part of a run that names no suite


SUITES: dict[str, Suite] = {
    "article": Suite(against.article, "25 min"),
    "tuned": Suite(against.tuned, "30 min"),
    "bert_base": Suite(against.bert_base, "15 min"),
    "utilisation": Suite(own.utilisation, "15 min"),
    "steps": Suite(own.steps, "25 min"),
    "dtypes": Suite(dtypes.dtypes, "25 min"),
    "profile": Suite(inside.profile, "4 min"),
    "products": Suite(inside.products, "2 min"),
    "starts": Suite(starts.starts, "5 min"),
    "trl": Suite(against.trl, "45 min"),
    "trl_loss": Suite(against.trl_loss, "25 min"),
    "sft_steps": Suite(against.sft_steps, "35 min"),
    "shared": Suite(shared.shared, "45 min", default=False),
    "serving": Suite(serving.serving, "15 min", default=False),
    "web": Suite(web.web, "6 min", default=False),
    "checkpointing": Suite(checkpointing.checkpointing, "10 min", default=False),
    "allocators": Suite(allocators.allocators, "45 min"),
    "growth": Suite(growth.growth, "30 min"),
    "quality": Suite(quality.quality, "100 min", default=False),
}
