"""The files of a run folder."""

from pathlib import Path

ALWAYS = {
    "DONE",
    "README.md",
    "config.yaml",
    "data_report.json",
    "environment.json",
    "events.jsonl",
    "plan.json",
    "predictions.jsonl",
    "split.json",
    "summary.json",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
}


MODEL = {
    "full": {"model/config.json", "model/model.safetensors"},
    "lora": {"model/adapter_config.json", "model/adapter_model.safetensors", "model/README.md"},
}


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
