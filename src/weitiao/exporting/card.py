"""README.md of an exported folder: what it is, how good it is, how it was made, how to load it without weitiao."""

from collections.abc import Mapping
from typing import Any

from weitiao.config.method_names import name_of
from weitiao.effects.held_out import HeldOut
from weitiao.exporting import gguf_adapter, gguf_model, onnx_graph
from weitiao.rundir.card import plain_code
from weitiao.rundir.folder import RunDir

_ONNX = """import json

import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
session = onnxruntime.InferenceSession("{file}")
texts = ["..."]
inputs = tokenizer({texts}, padding=True, truncation=True, max_length={longest}, return_tensors="np")
logits = session.run(["logits"], {{one.name: inputs[one.name] for one in session.get_inputs()}})[0]
labels = json.load(open("config.json", encoding="utf-8"))["id2label"]
{answer}"""
_ANSWERS = {
    "classification": "print([labels[str(best)] for best in logits.argmax(axis=1)])",
    "multi_label": "print([[labels[str(i)] for i, logit in enumerate(row) if logit > 0] for row in logits])",
    "regression": "print(logits[:, 0])",
    "token_classification": "print([[labels[str(best)] for best in row] for row in logits.argmax(axis=2)])  # a label a token",
}
_LLAMA = """import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = "{model}"
{adapter}server = xllamacpp.Server(params)
question = [{{"role": "user", "content": "..."}}]
answer = server.handle_chat_completions({{"messages": question, "temperature": 0, "max_tokens": {most}}})
print(answer["choices"][0]["message"]["content"])"""
_LORA = 'params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo("{file}", 1.0)]\n'
_LIBRARY = {"safetensors": "transformers", "onnx": "onnx", "gguf": "gguf"}


def export_card(run: RunDir, rows: HeldOut, report: Mapping[str, Any]) -> str:
    """Markdown.

    Args:
        report: export_report.json.
    """
    config, summary = run.config, run.summary
    kind = report["format"] + (", the adapter alone" if report.get("adapter_only") else "")
    notes = "".join(f"\n- {note}" for note in report["notes"])
    return f"""{_front(report)}
# {config.model}, fine-tuned ({name_of(config.method)}), as {kind}

{rows.task.describe(rows.names)}, trained on `{config.data.train}` with weitiao.
Licence of the base: {report["licence"] or "not known"}.{notes}

## How good it is

{_metrics(report)}
{_checked(report)}{_int8(report)}

## How to load it

{_code(run, report)}

## How it was made

{_data(run)} {summary["metrics"]["num_rows"]:,} rows were held out.
{summary["num_trainable_params"]:,} of {summary["num_params"]:,} parameters trained for {summary["steps"]} steps at learning rate
{summary["learning_rate"]:g}, seed {summary["seed"]}. Texts were cut at {summary["max_length"]} tokens.
Versions: {", ".join(f"{name} {version}" for name, version in report["versions"].items())}. What was compared: `export_report.json`.
"""


def _data(run: RunDir) -> str:
    """The rows that trained, and their labels."""
    split = run.read_json("data_report.json").get("split") or {}
    if "num_train_rows" not in split:  # a stream has no end
        return "The data were read as a stream."
    counts = split.get("label_counts_train") or {}
    labels = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:10])
    more = ", ..." if len(counts) > 10 else ""
    return f"{split['num_train_rows']:,} rows trained" + (f" ({labels}{more})." if labels else ".")


def _front(report: Mapping[str, Any]) -> str:
    """What a hub reads."""
    lines = [f"library_name: {_LIBRARY[report['format']]}", "tags: [weitiao]"]
    if report["licence"]:
        lines.append(f"license: {report['licence'].lower()}")
    return "\n".join(["---", *lines, "---"])


def _metrics(report: Mapping[str, Any]) -> str:
    """Of the run's model on its held-out rows, with intervals where the metric has one."""
    known = report["intervals"]
    lines = [f"| metric on {report['rows']:,} held-out rows | value | 95 % interval over rows |", "|---|---|---|"]
    for name, value in report["metrics_before"].items():
        found = known.get(name)
        lines.append(
            f"| {name} | {value:.4f} | " + (f"{found['lower']:.4f} to {found['upper']:.4f} |" if found else "|")
        )
    return "\n".join(lines)


def _checked(report: Mapping[str, Any]) -> str:
    """How the folder's model was compared with the run's."""
    if report["format"] == "gguf":
        found = report["llama_cpp"]
        if found is None:
            return "\nThese are the figures of the run's model. llama.cpp was not run on this file."
        return (
            f"\nThese are the figures of the run's model. llama.cpp's log probabilities of the first token differ from its by "
            f"{found['worst']:.2g} at most, on {found['compared']:,} questions. {found['same_answers']:,} of {found['answers']:,} "
            f"greedy answers of up to {found['new_tokens']} tokens are the same."
        )
    same = report["same_predictions"]
    return (
        f"\nLogits of {report['compared']:,} predictions differ from those of the run's model by {report['worst']:.2g} at most"
        + ("." if same is None else f", and {same:,} predictions are the same.")
    )


def _int8(report: Mapping[str, Any]) -> str:
    """What the 8-bit file loses."""
    found = report.get("int8")
    if not found:
        return ""
    lines = [
        f"\n\n`{onnx_graph.INT8_FILE}` has its matrix products in 8 bits.\n",
        "| metric | int8 - fp32 | 95 % interval over rows |",
        "|---|---|---|",
    ]
    for name, one in found["loss"].items():
        lines.append(f"| {name} | {one['difference']:+.4f} | {one['lower']:+.4f} to {one['upper']:+.4f} |")
    return "\n".join(lines)


def _code(run: RunDir, report: Mapping[str, Any]) -> str:
    """Python (and a command) that loads it without weitiao."""
    config, form = run.config, report["format"]
    if form == "safetensors":
        return f"```python\n{plain_code(config, report['auto_model'], '.')}\n```"
    if form == "onnx":
        texts = 'texts, ["..."]' if report["pairs"] else "texts"
        code = _ONNX.format(
            file=onnx_graph.FILE,
            texts=texts,
            longest=run.summary["max_length"],
            answer=_ANSWERS.get(config.task, "print(logits)"),
        )
        return f"```python\n{code}\n```"
    alone = report["adapter_only"]
    model = "BASE.gguf" if alone else gguf_model.FILE
    lora = f" --lora {gguf_adapter.FILE}" if alone else ""
    code = _LLAMA.format(
        model=model, adapter=_LORA.format(file=gguf_adapter.FILE) if alone else "", most=config.train.max_new_tokens
    )
    base = f"`BASE.gguf` is any GGUF of {config.model}.\n\n" if alone else ""
    return f"{base}```bash\nllama-server -m {model}{lora}\n```\n\n```python\n{code}\n```"
