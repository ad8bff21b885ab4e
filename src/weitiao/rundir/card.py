"""README.md of a run folder: what the model is, how it was made, how to load it without weitiao."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weitiao.config.method_names import name_of
from weitiao.config.run import RunConfig
from weitiao.rundir.summary import Summary

_FULL = """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
_LORA = """from peft import {auto}
from transformers import AutoTokenizer

id2label = {id2label}
model = {auto}.from_pretrained("model", num_labels={count}, id2label=id2label{problem}, ignore_mismatched_sizes=True)
tokenizer = AutoTokenizer.from_pretrained("model")
model.config.pad_token_id = tokenizer.pad_token_id"""
_CHAT = """from {package} import {auto}
from transformers import AutoTokenizer

model = {auto}.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
question = [{{"role": "user", "content": "..."}}]
inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens={most})[0, inputs["input_ids"].shape[1]:]))"""


def model_card(
    config: RunConfig,
    summary: Summary,
    what: str,
    auto_model: str,
    *,
    problem_type: str | None = None,
    samples: Iterable[dict[str, Any]] = (),
) -> str:
    """Markdown from the configuration, the measurements, and the answers before and after.

    Args:
        what: the model does.
        auto_model: the class of transformers that loads it.
        problem_type: what an adapter's head needs of plain transformers; a full run has it in config.json.
    """
    metrics = summary["metrics"]
    scalars = {k: v for k, v in metrics.items() if isinstance(v, float)}
    before = summary.get("metrics_before")
    head = "| value |\n|---|---|" if before is None else "| base | fine-tuned |\n|---|---|---|"
    rows = "\n".join(
        f"| {name} " + (f"| {before[name]:.4f} " if before else "") + f"| {value:.4f} |"
        for name, value in scalars.items()
    )
    code = _code(config, summary["label_names"], auto_model, problem_type)
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


def merged_card(
    config: RunConfig, summary: Mapping[str, Any], what: str, auto_model: str, report: Mapping[str, Any]
) -> str:
    """README.md of a merged model.

    Args:
        what: the model does.
        auto_model: the class of transformers that loads it.
        report: merge_report.json.
    """
    before = report["metrics_before"]
    rows = "\n".join(f"| {name} | {before[name]:.4f} | {value:.4f} |" for name, value in report["metrics"].items())
    same = (
        f" {report['same_predictions']:,} predictions are the same." if report["same_predictions"] is not None else ""
    )
    notes = "".join(f"\n- {note}" for note in report["notes"])
    return f"""# {config.model}, fine-tuned ({name_of(config.method)}), merged

{what}, trained on `{config.data.train}` with weitiao. The adapter is summed into the base; the weights are {report["dtype"]}.
Licence of the base: {report["licence"] or "not known"}.{notes}

| metric on {report["rows"]:,} held-out rows | base and adapter | merged |
|---|---|---|
{rows}

Logits of {report["compared"]:,} predictions differ by {report["worst"]:.2g} at most, and by {report["mean"]:.2g} on average.{same}

```python
{plain_code(config, auto_model, ".")}
```

What was compared: `merge_report.json`. Trained for {summary["steps"]} steps at learning rate {summary["learning_rate"]:g}, seed {summary["seed"]}.
"""


def plain_code(config: RunConfig, auto_model: str, folder: str) -> str:
    """Python that loads a whole model without weitiao."""
    if auto_model == "AutoModelForCausalLM":
        return _CHAT.format(package="transformers", auto=auto_model, folder=folder, most=config.train.max_new_tokens)
    return _FULL.format(auto=auto_model, folder=folder)


def _code(config: RunConfig, names: Sequence[str], auto_model: str, problem_type: str | None) -> str:
    """Python that loads the model without weitiao."""
    if not config.method.saves_adapter:
        return plain_code(config, auto_model, "model")
    adapter = auto_model.replace("AutoModel", "AutoPeftModel", 1)
    if auto_model == "AutoModelForCausalLM":
        return _CHAT.format(package="peft", auto=adapter, folder="model", most=config.train.max_new_tokens)
    problem = f', problem_type="{problem_type}"' if problem_type else ""
    return _LORA.format(auto=adapter, id2label=dict(enumerate(names)), count=len(names), problem=problem)


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
