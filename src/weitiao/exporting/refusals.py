"""What cannot be exported, said before anything is loaded. Imports no torch."""

import importlib.util
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

from weitiao.adapters.refusals import refuse_unmergeable
from weitiao.config.task import TASK_OPTIONS
from weitiao.errors import ConfigError
from weitiao.exporting import gguf_adapter, gguf_model
from weitiao.exporting.gguf_tokenizer import pre_tokenizer_name
from weitiao.pretrained.locate import locate
from weitiao.rundir.folder import RunDir

Format = Literal["safetensors", "onnx", "gguf"]
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "gguf": ("gguf",), "safetensors": ("safetensors",)}


@dataclass(frozen=True)
class Wanted:
    """What the user asks for; see :func:`weitiao.exporting.export.export`."""

    format: str
    int8: bool = False
    quantization: str | None = None
    adapter_only: bool = False


def refuse_words(wanted: Wanted) -> None:
    """Raise ConfigError for options that are none, or do not go together."""
    format, quantization = wanted.format, wanted.quantization
    if format not in get_args(Format):
        raise ConfigError(
            f"--format {format}.\nExpected one of: {', '.join(get_args(Format))}.\nExample: --format onnx"
        )
    homes = {"int8": "onnx", "quantization": "gguf", "adapter_only": "gguf"}
    for name, home in homes.items():
        if getattr(wanted, name) and format != home:
            word = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{word} with --format {format}.\nExpected it with --format {home}.\nLeave {word} out.")
    if quantization is not None:
        gguf_model.refuse_quantization(quantization)
        if wanted.adapter_only and quantization not in ("f32", "f16", "bf16"):
            raise ConfigError(
                f"--quantization {quantization} with --adapter-only.\nExpected f32, f16 or bf16: rows of an adapter hold no whole blocks.\n"
                "Leave --quantization out."
            )
    if format == "onnx" and importlib.util.find_spec("transformers.exporters") is None:
        raise ConfigError(
            f"--format onnx, and transformers {version('transformers')} has no exporters.\nExpected them, as in 5.23.\n"
            "Install it: pip install --upgrade transformers"
        )
    missing = [name for name in PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format {format}, and {', '.join(missing)} is not installed.\nExpected what writes and runs it.\n"
            "Install it: pip install 'weitiao[export]'"
        )


def refuse_run(run: RunDir, wanted: Wanted) -> None:
    """Raise ConfigError or ModelError for a run whose model the format cannot hold, before anything is loaded."""
    config, format = run.config, wanted.format
    generates = TASK_OPTIONS[config.task].generates
    if format == "onnx" and generates:
        raise ConfigError(
            f"--format onnx, and {run.path} is a run of {config.task}.\nExpected a run that labels texts: its graph would answer one token "
            "and keep nothing of what it read.\nUse --format gguf (llama.cpp) or --format safetensors."
        )
    if format == "gguf" and not generates:
        raise ConfigError(
            f"--format gguf, and {run.path} is a run of {config.task}.\nExpected a run of causal_lm: llama.cpp has no place for the head of a "
            "classifier.\nUse --format onnx or --format safetensors."
        )
    if wanted.adapter_only:
        gguf_adapter.refuse_adapter(run)
    refuse_unmergeable(run)


def refuse_tokenizer(run: RunDir) -> None:
    """Raise ModelError for a tokenizer that llama.cpp would cut texts with otherwise."""
    pre_tokenizer_name(json.loads((run.model / "tokenizer.json").read_text(encoding="utf-8")))


def refuse_at_a_glance(run: RunDir, wanted: Wanted) -> None:
    """All of it that config.json and the run's options tell, for those who only want to know whether an export makes sense.

    Raises ConfigError or ModelError, as the export would.
    """
    refuse_words(wanted)
    refuse_run(run, wanted)
    if wanted.format == "gguf":
        place = Path(locate(run.config.model) if run.config.method.saves_adapter else run.model)
        if (place / "config.json").is_file():  # what lies on the hub alone is read by the export
            gguf_model.refuse_family(_family_of(json.loads((place / "config.json").read_text(encoding="utf-8"))))
        refuse_tokenizer(run)


def _family_of(config: dict[str, Any]) -> SimpleNamespace:
    """What transformers' class would say of the keys that :func:`gguf_model.refuse_family` reads."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return SimpleNamespace(
        model_type=config.get("model_type"), hidden_act=config.get("hidden_act", "silu"),
        use_sliding_window=config.get("use_sliding_window", False),
        rope_parameters={"rope_type": rope.get("rope_type") or rope.get("type") or "default"},
    )  # fmt: skip
