"""What the configuration must know of each task: its rows, metrics, defaults, and the options that mean nothing to it.

What a task does is in tasks/<name>.py. It refers to its entry here, so each fact stands in one place. Imports no torch.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True)
class TaskOptions:
    """One task, as the configuration sees it."""

    name: str
    rows: str  # the kind of rows it reads; see data/kinds.py
    metrics: Mapping[str, bool]  # of train.metric_for_best_model: whether more is better. The first is the default.
    no_meaning: tuple[str, ...]  # options that its loss and data give no meaning to: setting one is an error
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by section, where they differ
    margin: float = 0.005  # of a comparison: the largest difference that does not matter
    names_its_rows: bool = True  # the command line must name the task where rows look like those of another one
    generates: bool = False  # writes texts: a causal language model
    cuts_windows: bool = True  # data.over_length=window
    drops_rows: bool = False  # leaves rows out that nothing can be learnt from, unless data.check=strict
    streams: bool = False  # data.streaming
    upper_layers: Literal["probed", "given", "none"] = "given"  # method.top_k: auto too, a number, or not at all
    soft_prompts: bool = True  # vectors in front of a row leave its targets in place

    @property
    def windows_by_default(self) -> bool:
        """Whether longer rows are cut into windows unless something else is asked for."""
        return self.defaults.get("data", {}).get("over_length") == "window"


_OF_LABELS = ("data.label_names", "data.label_map", "data.labels", "data.label_separator")
_NOT_OF_TEXTS = (
    "data.chat_template",
    "data.train_on_prompt",
    "data.tag_scheme",
    "data.segmentation_digits",
    "train.generate_rows",
    "train.max_new_tokens",
    "train.packing",
)
CLASSIFICATION = TaskOptions(
    name="classification",
    rows="classification",
    metrics={"accuracy": True, "f1_macro": True, "f1_weighted": True, "log_loss": False, "roc_auc": True},
    no_meaning=(*_NOT_OF_TEXTS, "data.label_separator"),
    streams=True,
    upper_layers="probed",
)
CAUSAL_LM = TaskOptions(
    name="causal_lm",
    rows="sft",
    metrics={"log_loss": False, "perplexity": False, "token_accuracy": True},
    no_meaning=(
        "data.text",
        "data.text_pair",
        "data.label",
        *_OF_LABELS,
        "data.tag_scheme",
        "data.segmentation_digits",
        "data.canaries",
        "data.general_text",
        "train.class_weights",
    ),
    margin=0.01,  # nats: a perplexity 1 % higher (docs/compare.md)
    generates=True,
    cuts_windows=False,
    drops_rows=True,
    upper_layers="none",
)
TOKEN_CLASSIFICATION = TaskOptions(
    name="token_classification",
    rows="tokens",
    metrics={
        "f1": True,
        "precision": True,
        "recall": True,
        "f1_macro": True,
        "token_accuracy": True,
        "log_loss": False,
    },
    no_meaning=(
        "data.text_pair",
        *_OF_LABELS,
        "data.chat_template",
        "data.train_on_prompt",
        "data.canaries",
        "data.general_text",
        "train.class_weights",
        "train.generate_rows",
        "train.max_new_tokens",
        "train.packing",
    ),
    defaults={"data": {"over_length": "window"}},
    names_its_rows=False,
    soft_prompts=False,
)
MULTI_LABEL = TaskOptions(
    name="multi_label",
    rows="labels",
    metrics={
        "f1_micro": True,
        "f1_macro": True,
        "exact_match": True,
        "hamming_loss": False,
        "log_loss": False,
        "average_precision": True,
    },
    no_meaning=(*_NOT_OF_TEXTS, "data.canaries", "train.class_weights"),
)
REGRESSION = TaskOptions(
    name="regression",
    rows="number",
    metrics={"pearson": True, "spearman": True, "mse": False, "rmse": False, "mae": False, "r2": True},
    no_meaning=(*_NOT_OF_TEXTS, *_OF_LABELS, "data.canaries", "train.class_weights"),
)
TASK_OPTIONS: dict[str, TaskOptions] = {
    options.name: options for options in (CLASSIFICATION, CAUSAL_LM, TOKEN_CLASSIFICATION, MULTI_LABEL, REGRESSION)
}


@dataclass(frozen=True)
class OneOf:
    """A text that must be one of some names, which may grow: a task that is registered later is accepted too."""

    names: Callable[[], Iterable[str]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        known = list(self.names())
        if value not in known:
            expected = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
            raise PydanticCustomError("one_of", "Input should be {expected}", {"expected": expected})
        return value


def metric_names() -> list[str]:
    """The metrics of all tasks, each once."""
    return list(dict.fromkeys(name for options in TASK_OPTIONS.values() for name in options.metrics))


Task = Annotated[str, OneOf(lambda: TASK_OPTIONS)]
Metric = Annotated[str, OneOf(metric_names)]


def task_word(rows: str) -> str:
    """What a data check needs on its command line to read labels as a task of these rows does; with a blank before it."""
    named = (o.name for o in TASK_OPTIONS.values() if o.rows == rows and o.names_its_rows)
    return next((f" task={name}" for name in named), "")


def named_rows(rows: str | None) -> str | None:
    """``rows`` where a task asks for such rows by name; None where the rows themselves say what they are."""
    return rows if any(o.rows == rows and o.names_its_rows for o in TASK_OPTIONS.values()) else None


def with_task_defaults(value: Any) -> Any:
    """Before validation: the task's own defaults, such as its metric, for what is not given."""
    options = TASK_OPTIONS.get(str(value.get("task"))) if isinstance(value, dict) else None
    if options is None:
        return value
    defaults = {**options.defaults}
    defaults["train"] = {"metric_for_best_model": next(iter(options.metrics)), **defaults.get("train", {})}
    for section, own in defaults.items():
        given = value.get(section) or {}
        if isinstance(given, dict):
            value = {**value, section: {**own, **given}}
    return value


def refuse_foreign_options(task: str, data: Any, train: Any) -> None:
    """Raise ValueError for options that mean nothing to the task, or that it does not support."""
    options, sections = TASK_OPTIONS[task], {"data": data, "train": train}
    for path in options.no_meaning:
        section, _, name = path.partition(".")
        if getattr(sections[section], name) != type(sections[section]).model_fields[name].default:
            raise ValueError(f"{path} has no meaning for task={task}. Leave it out")
    if train.metric_for_best_model not in options.metrics:
        known = ", ".join(sorted(options.metrics))
        raise ValueError(f"train.metric_for_best_model={train.metric_for_best_model}: {task} has {known}")
    if data.over_length == "window" and not options.cuts_windows:
        raise ValueError("data.over_length=window cuts answers from their questions. Use truncate, drop or fail")
    if data.streaming and not options.streams:
        able = " or ".join(o.name for o in TASK_OPTIONS.values() if o.streams)
        raise ValueError(f"data.streaming works with task={able} only. Leave it out")


def refuse_foreign_method(task: str, method: Any) -> None:
    """Raise ValueError where the task cannot train the upper layers only, or vectors in front of a row move its targets."""
    options = TASK_OPTIONS[task]
    if method.top_k is not None and options.upper_layers == "none":
        raise ValueError(f"method.top_k does not work with task={task}. Leave it out")
    if method.top_k == "auto" and options.upper_layers == "given":
        raise ValueError("method.top_k=auto probes texts of one label each. Give a number of layers")
    if method.tokens_in_front and not options.soft_prompts:
        raise ValueError(
            f"method.type={method.type} is not tested with tags of words, whose places its vectors shift. Use lora"
        )
