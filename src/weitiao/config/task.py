"""What each task takes of the options: its own defaults, its metrics, and what means nothing to it."""

from typing import Any, Literal

Task = Literal["classification", "causal_lm", "token_classification", "multi_label", "regression"]
# How rows are read for tasks whose rows may look like those of others: a label, labels, a number; or a question and its answer.
ASKED_KINDS = {"classification": "classification", "causal_lm": "sft", "multi_label": "labels", "regression": "number"}
_NOT_OF_TEXTS = (
    "data.chat_template",
    "data.train_on_prompt",
    "data.tag_scheme",
    "train.generate_rows",
    "train.max_new_tokens",
    "train.packing",
)
# What a task's loss and data give no meaning to; setting it is a mistake, not a wish.
_FOREIGN = {
    "classification": _NOT_OF_TEXTS,
    "multi_label": (*_NOT_OF_TEXTS, "data.canaries", "train.class_weights"),
    "regression": (*_NOT_OF_TEXTS, "data.canaries", "train.class_weights"),
    "causal_lm": (
        "data.text",
        "data.text_pair",
        "data.label",
        "data.tag_scheme",
        "data.canaries",
        "data.general_text",
        "train.class_weights",
    ),
    "token_classification": (
        "data.text_pair",
        "data.chat_template",
        "data.train_on_prompt",
        "data.canaries",
        "data.general_text",
        "train.class_weights",
        "train.generate_rows",
        "train.max_new_tokens",
        "train.packing",
    ),
}
_METRICS = {
    "classification": {"accuracy", "f1_macro", "f1_weighted", "log_loss", "roc_auc"},
    "causal_lm": {"log_loss", "perplexity", "token_accuracy"},
    "token_classification": {"f1", "precision", "recall", "f1_macro", "token_accuracy", "log_loss"},
    "multi_label": {"f1_micro", "f1_macro", "exact_match", "hamming_loss", "log_loss", "average_precision"},
    "regression": {"pearson", "spearman", "mse", "rmse", "mae", "r2"},
}
# What a task takes where nothing is given.
_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "causal_lm": {"train": {"metric_for_best_model": "log_loss"}},
    "token_classification": {"train": {"metric_for_best_model": "f1"}, "data": {"over_length": "window"}},
    "multi_label": {"train": {"metric_for_best_model": "f1_micro"}},
    "regression": {"train": {"metric_for_best_model": "pearson"}},
}


def task_word(kind: str) -> str:
    """What a data check has to be told, so that it reads labels as a task of this ``kind`` does; with a blank before it."""
    return next((f" task={task}" for task, asked in ASKED_KINDS.items() if asked == kind), "")


def with_task_defaults(value: Any) -> Any:
    """Before validation: the defaults that a task has of its own, such as its metric, unless others are given."""
    if isinstance(value, dict):
        for section, defaults in _DEFAULTS.get(str(value.get("task")), {}).items():
            given = value.get(section) or {}
            if isinstance(given, dict):
                value = {**value, section: {**defaults, **given}}
    return value


def refuse_foreign_options(task: Task, data: Any, train: Any) -> None:
    """Raise ValueError for options that mean nothing to the task, or that it cannot do yet."""
    sections = {"data": data, "train": train}
    for path in _FOREIGN[task]:
        section, _, name = path.partition(".")
        if getattr(sections[section], name) != type(sections[section]).model_fields[name].default:
            raise ValueError(f"{path} has no meaning for task={task}. Leave it out")
    if train.metric_for_best_model not in _METRICS[task]:
        known = ", ".join(sorted(_METRICS[task]))
        raise ValueError(f"train.metric_for_best_model={train.metric_for_best_model}: {task} has {known}")
    if task == "causal_lm" and data.over_length == "window":
        raise ValueError("data.over_length=window cuts answers from their questions. Use truncate, drop or fail")
    if task != "classification" and data.streaming:
        raise ValueError("data.streaming works with task=classification alone. Leave it out")


def refuse_foreign_method(task: Task, method: Any) -> None:
    """Raise ValueError where the upper layers alone cannot be trained or not be chosen, or tags lose their places."""
    if task == "causal_lm" and method.top_k is not None:
        raise ValueError("method.top_k works with every task but causal_lm. Leave it out")
    if task == "token_classification" and method.top_k == "auto":
        raise ValueError("method.top_k=auto probes labels of whole texts. Give a number of layers")
    if task in ("multi_label", "regression") and method.top_k == "auto":
        raise ValueError("method.top_k=auto probes texts of one label each. Give a number of layers")
    if task == "token_classification" and method.type in ("prompt", "prefix"):
        raise ValueError(
            f"method.type={method.type} is not tested with tags of words, whose places its vectors shift. Use lora"
        )
