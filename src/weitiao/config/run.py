"""The options of a run: model, task, data, method, training, output."""

from typing import Any

from pydantic import Field, model_validator

from weitiao.config.data import DataConfig
from weitiao.config.method import FullConfig
from weitiao.config.method_names import MethodConfig
from weitiao.config.section import Section
from weitiao.config.task import Task, refuse_foreign_method, refuse_foreign_options, with_task_defaults
from weitiao.config.train import TrainConfig


class OutputConfig(Section):
    dir: str = Field(description="The run folder. It must not exist yet.")


class RunConfig(Section):
    """One training run."""

    model: str = Field(description="Catalogue name, hub id, local folder or GGUF file.")
    task: Task = Field(
        "classification",
        description="What the model learns: a label, (causal_lm) to answer, (token_classification) tags of words, "
        "(multi_label) any number of labels, or (regression) a number.",
    )
    data: DataConfig
    method: MethodConfig = Field(FullConfig(), description="How the model is adapted.")
    train: TrainConfig = Field(default_factory=TrainConfig)
    output: OutputConfig

    def with_train(self, **options: Any) -> "RunConfig":
        """The same run with other options of training."""
        return self.model_copy(update={"train": self.train.model_copy(update=options)})

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, value: Any) -> Any:
        return with_task_defaults(value)

    @model_validator(mode="after")
    def _options_of_the_task(self) -> "RunConfig":
        refuse_foreign_options(self.task, self.data, self.train)
        refuse_foreign_method(self.task, self.method)
        return self

    @model_validator(mode="after")
    def _options_of_the_method(self) -> "RunConfig":
        self.method.refuse_options(self.data, self.train)
        return self

    @model_validator(mode="after")
    def _streaming_is_bounded(self) -> "RunConfig":
        if self.data.streaming and self.train.max_steps is None:
            raise ValueError("data.streaming needs train.max_steps: how long a stream is, is not known beforehand")
        if self.data.streaming and self.train.class_weights == "balanced":
            raise ValueError(
                "train.class_weights=balanced counts all rows, a stream has no count. Give {label: weight}"
            )
        return self
