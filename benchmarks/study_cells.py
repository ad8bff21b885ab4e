"""The cells of the study: a data set, a number of training rows, an arm, a seed; and in which order they are run.

A data set is a recipe. An arm is a method with its options, or an option of training. Nothing here trains.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from weitiao.config.comparison import Arm, CompareConfig, expand_arm
from weitiao.config.loading import load
from weitiao.config.run import RunConfig

RECIPES = Path(__file__).parents[1] / "recipes"
SEEDS = (1, 2, 3, 4, 5, 6)
RATE_SEEDS = (1, 2, 3)
SMALL, MIDDLE, LARGE = 300, 1000, 3000


@dataclass(frozen=True)
class DataSet:
    """One data set of the study. ``outside``: its file is not part of the project and lies in the folder of ``--data``."""

    name: str
    recipe: str
    english: str
    chinese: str
    sizes: tuple[int, ...]
    outside: bool = False


# Cheapest first: texts of 20 tokens before texts of 80, an encoder before a language model.
DATA: dict[str, DataSet] = {
    one.name: one
    for one in (
        DataSet("titles", "study-titles.yaml", "Chinese news titles, ten classes", "中文新闻标题，十类", (SMALL, MIDDLE, LARGE), True),
        DataSet("ner", "study-ner.yaml", "named entities in the People's Daily", "《人民日报》的命名实体", (SMALL, MIDDLE, LARGE)),
        DataSet("pairs", "study-pairs.yaml", "pairs of Chinese texts: does one continue the other?", "中文句对：后一句是否接着前一句", (SMALL, MIDDLE, LARGE)),
        DataSet("news", "study-news.yaml", "English news texts, five classes", "英文新闻，五类", (SMALL, MIDDLE)),
        DataSet("chat", "study-chat.yaml", "Chinese questions and answers, a language model", "中文问答，语言模型", (SMALL,)),
        DataSet("hotels", "study-hotels.yaml", "Chinese hotel reviews, two classes", "中文酒店评论，两类", (SMALL, MIDDLE, LARGE), True),
        DataSet("instructions", "study-instructions.yaml", "Chinese instructions, a language model", "中文指令，语言模型", (SMALL,), True),
        DataSet("reviews", "reviews-study.yaml", "Chinese shopping reviews, two classes", "中文购物评论，两类", (SMALL, MIDDLE, LARGE)),
    )
}  # fmt: skip

FULL, LORA, INT8 = "full", "lora", "lora-int8"
# The arms that are compared with full, as `compare.methods` writes them.
ARMS: dict[str, Any] = {
    FULL: "full",
    LORA: "lora",
    "lora-r4": {"type": "lora", "r": 4, "lora_alpha": 8},
    "lora-article": {"type": "lora", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["query", "value"], "learning_rate": 1e-3},
    "full-top6": {"type": "full", "top_k": 6},
    "bitfit": "bitfit",
    "dora": {"type": "lora", "use_dora": True},
    "rslora": {"type": "lora", "use_rslora": True},
    INT8: "lora",
}  # fmt: skip
TRAIN: dict[str, dict[str, Any]] = {INT8: {"int8_base": True}}  # what an arm changes besides its method
# A causal language model has no layers named query and value, and llama's have no biases to train.
NOT_FOR = {"causal_lm": {"bitfit", "lora-article"}}
# For the table of regrets: rates that are tried whatever the default is.
TRIED = {FULL: (1.58e-5, 5e-5, 1e-4, 1.58e-4, 5e-4), LORA: (1.58e-4, 5e-4, 1e-3, 1.58e-3, 5e-3)}
RATES = {f"{method}-{rate:g}": (method, rate) for method, rates in TRIED.items() for rate in rates}
RATES |= {"lora-0.00062": (LORA, 6.2e-4)}  # for a day the default of 515 steps: measured on entities alone
# The larger size asks one question: does what few rows gain stay?
RATES_AT = {
    SMALL: tuple(name for name in RATES if name != "lora-0.00062"),
    MIDDLE: ("full-5e-05", "full-0.0001", "full-0.000158", "lora-0.0005", "lora-0.001", "lora-0.00158"),
}


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    data: str
    rows: int
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.rows}-{self.arm}-seed{self.seed}"


@cache
def _loaded(recipe: str, rows: int) -> CompareConfig:
    return load(CompareConfig, RECIPES / recipe, [f"data.train_size={rows}"])


def compare_config(data: DataSet, rows: int, folder: Path | None) -> CompareConfig:
    """The recipe with so many training rows. ``folder``: where files lie that are not part of the project."""
    found = _loaded(data.recipe, rows)
    if data.outside and folder is not None:
        source = found.data.model_copy(update={"train": str(folder / str(found.data.train))})
        found = found.model_copy(update={"data": source})
    return found


def arm_of(name: str) -> Arm:
    """The arm of a name; one of ``RATES`` is a method at that rate."""
    if name in RATES:
        method, rate = RATES[name]
        return Arm.model_validate(expand_arm({"type": method, "name": name})).model_copy(update={"learning_rate": rate})
    arm = Arm.model_validate(expand_arm(ARMS[name]))
    return arm.model_copy(update={"name": name})


def run_config(cell: Cell, folder: Path | None, output: Path) -> RunConfig:
    """What `weitiao train` runs for a cell: the same rows, batches and head for every arm of a seed."""
    found = compare_config(DATA[cell.data], cell.rows, folder)
    run = found.cell_config(arm_of(cell.arm), cell.seed, str(output))
    train = run.train.model_copy(update=TRAIN.get(cell.arm, {}))
    return RunConfig.model_validate(
        {**run.model_dump(exclude_unset=True), "train": train.model_dump(exclude_unset=True)}
    )


def ordered(names: Sequence[str], sizes: Sequence[int]) -> Iterator[Cell]:
    """Every cell of these data sets and sizes, cheapest and most informative first.

    Full and LoRA on few rows come before everything else. A data set gets all its seeds before the next one: six pairs
    decide something, one pair of each data set decides nothing.
    """
    others = [arm for arm in ARMS if arm not in (FULL, LORA)]
    for size in sizes:
        for arms, seeds in (((FULL, LORA), SEEDS), (others, SEEDS), (RATES_AT.get(size, ()), RATE_SEEDS)):
            for data in (DATA[name] for name in DATA if name in names and size in DATA[name].sizes):
                task = compare_config(data, size, None).task
                for seed in seeds:
                    for arm in arms:
                        if arm not in NOT_FOR.get(task, set()):
                            yield Cell(data.name, size, arm, seed)
