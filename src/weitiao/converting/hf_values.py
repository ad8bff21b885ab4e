"""What the arguments of Trainer, peft, a model and its tokenizer become, one function each: At -> Found, or a Refusal."""

import re
from collections.abc import Mapping
from typing import Any

from weitiao.converting import trainer
from weitiao.converting.python_names import Code
from weitiao.converting.rows import hub_name, place
from weitiao.converting.rules import At, Found, Refusal, Rule
from weitiao.converting.trainer import SCORED
from weitiao.converting.values import BadValue, is_off, names, number, text, yes

_TASKS = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token_classification",
    "ForCausalLM": "causal_lm",
}
_PROBLEMS = {"single_label_classification": "classification", "multi_label_classification": "multi_label", "regression": "regression"}  # fmt: skip
_READERS = ("csv", "json", "parquet", "text")  # of load_dataset: the files' own endings say it here
_COLLATORS = re.compile(r"(\w+\.)?(default_data_collator|DataCollator(WithPadding|ForTokenClassification)\([^()]*\))")
_PATIENCE = re.compile(r"\[(?:\w+\.)?EarlyStoppingCallback\((?:early_stopping_patience=)?(\d*)\)\]")


def kind_of(found: Mapping[str, Any]) -> str | None:
    """The task of a loaded model: by its class, and of a sequence by its problem or its single number."""
    task = next((task for end, task in _TASKS.items() if str(found.get("class")).endswith(end)), None)
    if task != "classification":
        return task
    labels, problem = found.get("num_labels", 2), found.get("problem_type")
    if problem is not None:
        task = _PROBLEMS.get(str(problem))
        return None if task == "regression" and labels != 1 else task
    if isinstance(labels, Code):
        return None
    return "regression" if labels == 1 else task


def task(at: At) -> Found:
    if (task := kind_of(at.beside)) is None:
        labels = at.beside.get("num_labels")
        more = f" with num_labels={labels}: one label is a number" if labels is not None else ""
        raise Refusal(f"weitiao cannot say which task {at.value}{more} is", ("task",))
    return Found("mapped", {"task": task})


def found_at(name: str, at: At) -> str:
    return place(name, at.folder) or hub_name(name)


def source(at: At) -> Found:
    name = text(at.value)
    if name in _READERS:
        return Found("ignored", {}, "the files' own endings say it")
    if "data_files" in at.beside:
        raise Refusal("files of a hub's data set: give them as files of this machine", ("data.train",))
    return Found("mapped", {"data.train": found_at(name, at)}, "check its columns with weitiao data check")


def files_of(at: At) -> Found:
    parts = at.value if isinstance(at.value, dict) else {"train": at.value}
    if others := sorted(map(str, parts.keys() - {"train", "test", "validation"})):
        raise Refusal(f"weitiao reads train and one of test and validation, found {', '.join(others)}", ("data.train",))
    held = [parts[name] for name in ("validation", "test") if name in parts]
    if len(held) > 1:
        raise Refusal("both test and validation: which rows are for evaluation?", ("data.eval",))
    given = {"data.train": parts.get("train"), "data.eval": held[0] if held else None}
    return Found("mapped", {path: local_files(files, at) for path, files in given.items() if files is not None})


def local_files(files: Any, at: At) -> Any:
    found = {name: place(name, at.folder) for name in names(files)}
    if not found:
        raise BadValue(f"expected files, found {files}")
    if gone := [name for name, here in found.items() if here is None]:
        raise Refusal(f"no such file here: {', '.join(gone)}", ("data.train", "data.eval"))
    places = [here for here in found.values() if here is not None]
    return places if len(places) > 1 else places[0]


def is_lora(top: Mapping[str, Any]) -> bool:
    return "LoraConfig" in top


def targets(at: At) -> Found:
    return Found("mapped", {"method.target_modules": at.value if isinstance(at.value, str) else names(at.value)})


def start(at: At) -> Found:
    if at.value == "eva":
        return Found("mapped", {"method.init_lora_weights": "eva", "method.eva_rho": 2}, "peft's own eva_rho is 2")
    if at.value in (True, "gaussian", "pissa", "olora"):
        return Found("mapped", {"method.init_lora_weights": at.value})
    raise Refusal("weitiao has the starts true, gaussian, pissa, olora and eva", ("method.init_lora_weights",))


def cut(at: At) -> Found:
    if at.value in (True, "longest_first"):
        return Found("ignored", {}, "as here")
    return Found("differs", {}, "weitiao cuts at data.max_length, and counts what it cuts")


def column(at: At) -> Found:
    if kind_of(at.top.get("from_pretrained", {})) == "causal_lm":
        raise Refusal("weitiao learns conversations, not plain text", ("data.train",))
    before = at.top.get("rename_column", {})
    return Found("mapped", {f"data.{at.leaf}": str(before.get(at.value, text(at.value)))})


def renamed(at: At) -> Found:
    """Columns as the file has them: a tokenizer's column is read with its own rule."""
    label = next((old for new, old in at.value.items() if new in ("label", "labels")), None)
    return Found("mapped", {"data.label": label} if label else {}, "the file's own name of the column")


def collator(at: At) -> Found:
    if is_off(at.value) or _COLLATORS.fullmatch(str(at.value)):
        return Found("ignored", {}, "batches hold rows of near-equal length, padded to the longest")
    raise Refusal("weitiao makes its own batches")


def callbacks(at: At) -> Found:
    if is_off(at.value):
        return Found("ignored", {}, "none")
    if (found := _PATIENCE.fullmatch(str(at.value))) is None:
        raise Refusal("a callback can change anything; weitiao has train.early_stopping_patience")
    return Found("mapped", {"train.early_stopping_patience": int(found[1] or 1)})


def trained_rows(at: At) -> Found:
    if at.leaf == "eval_dataset" or not isinstance(at.value, Code) or "load_dataset" not in at.top:
        return Found(
            "ignored", {}, "which rows train is data.train's, and which are held out data.eval's or data.test_size's"
        )
    raise Refusal(f"{at.value} trains, and may be other rows: give a file of these rows", ("data.train",))


_BEST = {"classification": "accuracy", "token_classification": "token_accuracy"}


def metric(at: At) -> Found:
    name, task = str(at.value).removeprefix("eval_"), kind_of(at.top.get("from_pretrained", {}))
    if not is_off(at.top.get("load_best_model_at_end")):
        if name == "accuracy" and task in _BEST:
            return Found("mapped", {"train.metric_for_best_model": _BEST[task]})
        if name == "loss" and task == "regression":
            return Found("mapped", {"train.metric_for_best_model": "mse"})
    return SHARED["metric_for_best_model"].read(at)


def best_model(at: At) -> Found:
    if yes(at.value) and kind_of(at.top.get("from_pretrained", {})) == "regression":
        metric = {} if at.top.get("metric_for_best_model") else {"train.metric_for_best_model": "mse"}
        return Found("mapped", {"train.load_best_model_at_end": True, **metric})
    return SHARED["load_best_model_at_end"].read(at)


def clip(at: At) -> Found:
    return (
        Found("mapped", {"train.max_grad_norm": None}, "no clipping")
        if at.value is None
        else SHARED["max_grad_norm"].read(at)
    )


def greater(at: At) -> Found:
    """Which way is better follows from the metric."""
    metric = str(at.top.get("metric_for_best_model") or "loss")
    if yes(at.value) is metric.endswith("loss") and not is_off(at.top.get("load_best_model_at_end")):
        raise Refusal("the best model would be the worst one", ("train.load_best_model_at_end",))
    return Found("ignored", {}, "follows from the metric")


def share_of_steps(at: At) -> Found:
    if 0 < number(at.value) < 1 and not is_off(at.top.get("load_best_model_at_end")):
        raise Refusal("a share of all steps decides which model is kept; weitiao counts steps", ("train.eval_steps",))
    return SHARED["eval_steps"].read(at)


def delayed(at: At) -> Found:
    if not is_off(at.value) and not is_off(at.top.get("load_best_model_at_end")):
        raise Refusal("earlier evaluations would not choose the model", ("train.load_best_model_at_end",))
    return Found("ignored", {}, SCORED)


def task_type(at: At) -> Found:
    """Without a task type peft trains no head."""
    task = kind_of(at.top.get("from_pretrained", {}))
    wanted = {"causal_lm": "CAUSAL_LM", "token_classification": "TOKEN_CLS"}.get(str(task), "SEQ_CLS")
    if at.value == wanted or (at.value is None and task == "causal_lm"):
        return Found("ignored", {}, "follows from the task")
    found = "without a task_type" if at.value is None else f"with task_type {at.value}"
    return Found("differs", {}, f"{found} peft does not train the new head; weitiao does")


def precision(at: At) -> Found:
    value = str(at.value).rpartition(".")[2]
    if value in ("auto", "float32", "None"):
        return Found("ignored", {}, "weitiao keeps fp32 master weights")
    return Found("differs", {"train.bf16": True} if value == "bfloat16" else {}, "weitiao keeps fp32 master weights")


def other_tokenizer(at: At) -> Found:
    if at.value != at.top.get("from_pretrained", {}).get("name", at.value):
        raise Refusal(f"the tokenizer of another model ({at.value}); weitiao takes the model's own")
    return Found("ignored", {}, "the model's own")


def other_seed(at: At) -> Found:
    return Found("differs", {}, f"{at.value}: weitiao draws from train.seed and data.split_seed alone")


def does_train(at: At) -> Found:
    if not yes(at.value):
        raise Refusal("nothing would train")
    return Found("ignored", {}, "training is what weitiao train does")


def off_only(reason: str) -> Rule:
    """A key of Trainer whose absence or empty value alone says nothing."""

    def read(at: At) -> Found:
        if is_off(at.value) or str(at.value) in ("(None, None)", "[None, None]") or at.value == [None, None]:
            return Found("ignored", {}, "none")
        raise Refusal(reason)

    return Rule(f"refused: {reason}", read)


def never(reason: str, what: str, *settles: str) -> Rule:
    def read(at: At) -> Found:
        raise Refusal(reason, settles)

    return Rule(f"refused, {what}: {reason}", read)


SHARED = trainer.rules()
