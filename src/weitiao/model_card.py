"""README.md of a run folder: what the model is, how it was made, how to load it without weitiao."""

from typing import Any

from weitiao.config import RunConfig

_FULL = """from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("model")
tokenizer = AutoTokenizer.from_pretrained("model")"""
_LORA = """from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

id2label = {id2label}
model = AutoPeftModelForSequenceClassification.from_pretrained("model", num_labels={count}, id2label=id2label)
tokenizer = AutoTokenizer.from_pretrained("model")"""


def model_card(config: RunConfig, summary: dict[str, Any]) -> str:
    """Markdown from the configuration and the measurements."""
    metrics = summary["metrics"]
    scalars = {k: v for k, v in metrics.items() if isinstance(v, float)}
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in scalars.items())
    names = dict(enumerate(summary["label_names"]))
    code = _LORA.format(id2label=names, count=len(names)) if config.method.type != "full" else _FULL
    chosen = "\n**The evaluation rows also chose the step that was kept**, so these figures are optimistic.\n"
    return f"""# {config.model}, fine-tuned ({config.method.type})

{config.task} of the labels {", ".join(summary["label_names"])}, trained on `{config.data.train}` with weitiao.
{summary["num_trainable_params"]:,} of {summary["num_params"]:,} parameters ({summary["trainable_percent"]:.2f} %) trained for
{summary["steps"]} steps ({summary["epochs"]} epochs) at learning rate {summary["learning_rate"]:g}, seed {summary["seed"]}.

| metric on {metrics["num_rows"]:,} held-out rows | value |
|---|---|
{rows}
{chosen if summary["selected_on_eval"] else ""}
```python
{code}
```

All options: `config.yaml`. What was measured: `summary.json`. What happened to the data: `data_report.json`.
"""
