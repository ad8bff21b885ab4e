"""README.md of a run folder: what the model is, how it was made, how to load it without weitiao."""

from collections.abc import Iterable
from typing import Any

from weitiao.config.method import name_of
from weitiao.config.run import RunConfig

_FULL = """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("model")
tokenizer = AutoTokenizer.from_pretrained("model")"""
_LORA = """from peft import {auto}
from transformers import AutoTokenizer

id2label = {id2label}
model = {auto}.from_pretrained("model", num_labels={count}, id2label=id2label{problem})
tokenizer = AutoTokenizer.from_pretrained("model")"""
# What plain transformers calls them. A full run has it in config.json, and an adapter has none.
_PROBLEMS = {"multi_label": "multi_label_classification", "regression": "regression"}
_CHAT = """from {package} import {auto}
from transformers import AutoTokenizer

model = {auto}.from_pretrained("model")
tokenizer = AutoTokenizer.from_pretrained("model")
question = [{{"role": "user", "content": "..."}}]
inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens={most})[0, inputs["input_ids"].shape[1]:]))"""


def model_card(config: RunConfig, summary: dict[str, Any], samples: Iterable[dict[str, Any]] = ()) -> str:
    """Markdown from the configuration, the measurements, and the answers before and after."""
    metrics = summary["metrics"]
    scalars = {k: v for k, v in metrics.items() if isinstance(v, float)}
    before = summary.get("metrics_before")
    head = "| value |\n|---|---|" if before is None else "| base | fine-tuned |\n|---|---|---|"
    rows = "\n".join(
        f"| {name} " + (f"| {before[name]:.4f} " if before else "") + f"| {value:.4f} |"
        for name, value in scalars.items()
    )
    names = dict(enumerate(summary["label_names"]))
    if config.task == "causal_lm":
        package = ("peft", "AutoPeftModelForCausalLM") if config.method.type != "full" else ("transformers", "AutoModelForCausalLM")  # fmt: skip
        code = _CHAT.format(package=package[0], auto=package[1], most=config.train.max_new_tokens)
        what = "Answers in conversations"
    else:
        kind = "ForTokenClassification" if config.task == "token_classification" else "ForSequenceClassification"
        if config.method.type != "full":
            problem = f', problem_type="{_PROBLEMS[config.task]}"' if config.task in _PROBLEMS else ""
            code = _LORA.format(auto=f"AutoPeftModel{kind}", id2label=names, count=len(names), problem=problem)
        else:
            code = _FULL.format(auto=f"AutoModel{kind}")
        labels = ", ".join(summary["label_names"])
        what = f"{config.task} of the labels {labels}"
        if config.task == "multi_label":
            what += " (given where the sigmoid of its score is above one half)"
        if config.task == "regression":
            what = f"The number in the column `{labels}`"
    chosen = "\n**The evaluation rows also chose the step that was kept**, so these figures are optimistic.\n"
    return f"""# {config.model}, fine-tuned ({name_of(config.method)})

{what}, trained on `{config.data.train}` with weitiao.
{summary["num_trainable_params"]:,} of {summary["num_params"]:,} parameters ({summary["trainable_percent"]:.2f} %) trained for
{summary["steps"]} steps ({summary["epochs"]} epochs) at learning rate {summary["learning_rate"]:g}, seed {summary["seed"]}.

| metric on {metrics["num_rows"]:,} held-out rows {head}
{rows}
{_types(metrics)}{chosen if summary["selected_on_eval"] else ""}
{_answers(samples)}```python
{code}
```

All options: `config.yaml`. What was measured: `summary.json`. What happened to the data: `data_report.json`.
"""


def _types(metrics: dict[str, Any]) -> str:
    """The entities of each type, as a table."""
    if "per_type" not in metrics:
        return ""
    rows = "".join(
        f"| {name} | {found['f1']:.4f} | {found['precision']:.4f} | {found['recall']:.4f} | {found['entities']:,} |\n"
        for name, found in metrics["per_type"].items()
    )
    return f"\n| type | f1 | precision | recall | entities |\n|---|---|---|---|---|\n{rows}"


def _answers(samples: Iterable[dict[str, Any]]) -> str:
    """Held-out questions with the answers before and after, as quotations."""
    blocks = [
        "\n".join(
            f"> {line}".rstrip()
            for name, text in (
                ("question", sample["question"][-1]["content"]),
                ("reference", sample["reference"]),
                ("base", sample["before"]),
                ("fine-tuned", sample["after"]),
            )
            for line in (*f"**{name}**: {text.strip()}".splitlines(), "")
        )
        for sample in samples
    ]
    return "\n\n".join(["Answers to held-out questions:", *blocks]) + "\n\n" if blocks else ""
