"""The options of a comparison: the arms, their seeds, what is held equal, and how large a difference matters."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from weitiao.config.data import DataConfig
from weitiao.config.method import FullConfig, LoraConfig
from weitiao.config.method_names import MethodConfig
from weitiao.config.run import OutputConfig, RunConfig
from weitiao.config.section import Section
from weitiao.config.task import TASK_OPTIONS, Task, refuse_foreign_options, with_task_defaults
from weitiao.config.train import TrainConfig

_MANY_EPOCHS = 1_000_000  # under a budget of seconds the clock ends the run, not the rows


class Arm(Section):
    """One side of a comparison."""

    name: str = Field(min_length=1, pattern=r"^\w[\w.+-]*$", description="Name in tables and folders.")
    method: MethodConfig
    learning_rate: float | None = Field(None, gt=0, description="This arm's rate; without it the method's default.")


class CompareSection(Section):
    methods: tuple[Arm, ...] = Field(
        (Arm(name="full", method=FullConfig()), Arm(name="lora", method=LoraConfig())),
        min_length=1,
        description="The arms: `full`, `lora`, or {name, method, learning_rate}.",
    )
    seeds: tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...] = Field(
        (42,), min_length=1, description="One run per arm and seed, paired by seed."
    )
    margin: float = Field(
        0.005,
        gt=0,
        description="The largest difference in quality that does not matter, set before the runs. With causal_lm nats a learnt "
        "token, 0.01 unless given.",
    )
    budget: Literal["epochs", "steps", "seconds"] | None = Field(
        None, description="What every arm gets equally much of; by default `train` decides."
    )
    budget_value: float | None = Field(None, gt=0, description="Number of epochs, steps or seconds.")
    lr_search: Literal[0, 3, 5] = Field(
        0, description="Rates to try for each arm, half a power of ten apart, on rows cut from the training rows."
    )

    executor: Literal["local", "ray"] = Field(
        "local", description="Runs one after another on this machine, or side by side as Ray tasks (extra `ray`)."
    )
    cpus_per_cell: int = Field(1, ge=1, description="On Ray: CPUs of a run; as many run at once as there is room for.")
    retries: int = Field(
        3, ge=0, description="On Ray: how often a run that was killed is tried again, from its last checkpoint."
    )

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("methods"), list | tuple):
            value = {**value, "methods": [expand_arm(arm) for arm in value["methods"]]}
        return value

    @model_validator(mode="after")
    def _distinct(self) -> "CompareSection":
        names = [arm.name for arm in self.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"arms need distinct names, found {names}. Give each a name: {{name: ..., method: ...}}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are repeated: {list(self.seeds)}")
        if (self.budget is None) != (self.budget_value is None):
            raise ValueError("budget and budget_value go together. Example: budget=steps budget_value=500")
        if self.budget in ("epochs", "steps") and self.budget_value != int(self.budget_value or 0):
            raise ValueError(f"budget_value is {self.budget_value}. Expected a whole number of {self.budget}")
        if self.executor == "local":
            fields, given = CompareSection.model_fields, {"cpus_per_cell": self.cpus_per_cell, "retries": self.retries}
            if without := [name for name, value in given.items() if value != fields[name].default]:
                raise ValueError(f"{' and '.join(without)} would do nothing. Leave it out, or set executor=ray")
        return self


def expand_arm(arm: Any) -> Any:
    """``lora`` -> {name: lora, method: {type: lora}}; {type: lora, r: 8} -> {name: lora, method: {...}}."""
    if isinstance(arm, str):
        return {"name": arm, "method": {"type": arm}}
    if isinstance(arm, dict) and "type" in arm:
        method = {k: v for k, v in arm.items() if k not in ("name", "learning_rate")}
        rate = {"learning_rate": arm["learning_rate"]} if "learning_rate" in arm else {}
        return {"name": arm.get("name", arm["type"]), "method": method, **rate}
    return arm


class CompareConfig(Section):
    """A comparison: the options of a run, without `method`, and the arms."""

    model: str = Field(description="Catalogue name, hub id, local folder or GGUF file.")
    task: Task = Field("classification", description="What the model learns, in every arm.")
    data: DataConfig
    train: TrainConfig = Field(default_factory=TrainConfig)
    compare: CompareSection = Field(default_factory=CompareSection)
    output: OutputConfig

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, value: Any) -> Any:
        options = TASK_OPTIONS.get(str(value.get("task"))) if isinstance(value, dict) else None
        compare = value.get("compare") or {} if options is not None else None
        if options is not None and isinstance(compare, dict):
            value = {**value, "compare": {"margin": options.margin, **compare}}
        return with_task_defaults(value)

    @model_validator(mode="after")
    def _options_of_the_task(self) -> "CompareConfig":
        refuse_foreign_options(self.task, self.data, self.train)
        return self

    @model_validator(mode="after")
    def _rate_per_arm(self) -> "CompareConfig":
        if self.train.learning_rate is not None:
            raise ValueError(
                "train.learning_rate would give every arm one rate, which compares rates, not methods. "
                "Set learning_rate inside an arm of compare.methods, or leave it to the method's default"
            )
        train, compare = self.train, self.compare
        if compare.budget and (train.max_steps or train.max_seconds):
            raise ValueError("compare.budget and train.max_steps or train.max_seconds are given. Leave one of them out")
        if compare.executor == "ray" and (compare.budget == "seconds" or train.max_seconds):
            raise ValueError(
                "a second is not the same for every run where several share a machine (compare.executor=ray). Use "
                "compare.budget=steps or epochs, or compare.executor=local"
            )
        if compare.lr_search and (train.load_best_model_at_end or train.early_stopping_patience):
            raise ValueError(
                "compare.lr_search leaves the test rows for one evaluation at the end, and train.load_best_model_at_end and "
                "train.early_stopping_patience look at them before. Leave one of them out"
            )
        if compare.lr_search and self.data.streaming:
            raise ValueError("compare.lr_search cuts rows from the training rows, and a stream has none at hand")
        if self.data.streaming and not (train.max_steps or compare.budget == "steps"):
            raise ValueError("data.streaming needs compare.budget=steps: how long a stream is, is not known beforehand")
        return self

    @model_validator(mode="after")
    def _the_same_rows(self) -> "CompareConfig":
        """Vectors in front of a row take its room, so what is left out by length would differ from arm to arm."""
        fronts = {arm.method.tokens_in_front for arm in self.compare.methods}
        drops = TASK_OPTIONS[self.task].drops_rows and self.data.check != "strict"
        leaves_out = self.data.over_length == "drop" or drops
        if len(fronts) > 1 and leaves_out:
            raise ValueError(
                "arms with and without method.num_virtual_tokens (or with different numbers of them) have room for rows of "
                "different lengths, and longer rows would be left out of some arms alone. Set data.over_length=truncate "
                "and data.check=strict, or leave such arms out"
            )
        return self

    @model_validator(mode="after")
    def _every_arm_is_a_run(self) -> "CompareConfig":
        """What a run would refuse is said before the first one."""
        for arm in self.compare.methods:
            try:
                self.cell_config(arm, self.compare.seeds[0], "-")
            except ValidationError as error:
                said = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
                raise ValueError(f"arm {arm.name}: {said}") from None
        return self

    def cells(self) -> list[tuple[Arm, int]]:
        """Every arm and seed, seed by seed, so that machine drift meets all arms alike."""
        return [(arm, seed) for seed in self.compare.seeds for arm in self.compare.methods]

    def cell_config(self, arm: Arm, seed: int, folder: str) -> RunConfig:
        """The run that one cell executes: the same rows, batches and head start for every arm of a seed."""
        value = self.compare.budget_value
        given: dict[str, float | None] = {}
        match self.compare.budget:
            case "epochs":
                given = {"num_train_epochs": int(value or 1)}
            case "steps":  # as many epochs as it takes
                given = {
                    "max_steps": int(value or 1),
                    "num_train_epochs": max(self.train.num_train_epochs, int(value or 1)),
                }
            case "seconds":
                given = {"max_seconds": value, "num_train_epochs": max(self.train.num_train_epochs, _MANY_EPOCHS)}
        train = self.train.model_copy(update={**given, "seed": seed, "learning_rate": arm.learning_rate})
        return RunConfig(
            model=self.model,
            task=self.task,
            data=self.data,
            method=arm.method,
            train=train,
            output=OutputConfig(dir=folder),
        )
