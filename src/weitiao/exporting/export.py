"""export(run): a finished run as safetensors, ONNX or GGUF, checked against the run on its held-out rows."""

import importlib.util
import json
import logging
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from weitiao.adapters.agreement import agreement
from weitiao.adapters.merge import (
    answers,
    facts_of,
    loaded,
    refuse_output,
    refuse_unmergeable,
    rows_of,
    whole_model,
    write_plain,
)
from weitiao.effects.held_out import HeldOut
from weitiao.errors import ConfigError
from weitiao.exporting import gguf_adapter, gguf_model, hub, llama_cpp, onnx_graph, quality
from weitiao.exporting.card import export_card
from weitiao.exporting.gguf_tokenizer import pre_tokenizer_name
from weitiao.pretrained.locate import NO_FOREIGN_CODE, locate
from weitiao.rundir.files import new_folder, size_bytes, to_json, write_atomic
from weitiao.rundir.folder import RunDir
from weitiao.tasks import TASKS

log = logging.getLogger("weitiao")
REPORT = "export_report.json"
Format = Literal["safetensors", "onnx", "gguf"]
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "gguf": ("gguf",), "safetensors": ("safetensors",)}


def export(
    run: str | Path,
    *,
    output: str | Path,
    format: Format,
    int8: bool = False,
    quantization: str | None = None,
    adapter_only: bool = False,
    push: str | None = None,
    public: bool = False,
) -> dict[str, Any]:
    """Write a run's model in a form that other programs read. An adapter is summed into its base first, in fp32.

    What was written is opened again and compared with the run's model on its held-out rows. Where it does not answer as
    that does, nothing is left behind.

    Args:
        run: a finished run.
        output: a new folder.
        format: safetensors (plain transformers), onnx (classifiers of all kinds) or gguf (language models, for llama.cpp).
        int8: onnx: a second file with matrix products in 8 bits. What it loses is measured, and never an error.
        quantization: gguf: the type of the weights, f16 by default (of an adapter alone f32).
        adapter_only: gguf: the LoRA adapter without its base.
        push: a repository of the hub, OWNER/NAME, to upload the folder to. A new one is private.
        public: it may be public.

    Returns:
        export_report.json; see docs/export.md.

    Raises:
        RunError: no finished run.  ConfigError: the run does not go with the format.  ModelError: the result does not agree.
        FetchError: the hub cannot be reached.
    """
    opened, folder = RunDir.open(run), Path(output).resolve()
    wanted = _Wanted(format, int8, quantization and quantization.lower(), adapter_only)
    _refuse_words(wanted)
    _refuse_run(opened, wanted)
    if public and push is None:
        raise ConfigError("--public without --push.\nExpected a repository to upload to.\nAdd --push OWNER/NAME.")
    refuse_output(opened, folder)
    if push is not None:
        hub.refuse_push(push, public)
    rows = rows_of(opened)
    with new_folder(folder) as scratch:
        report = {"format": format, **_written(opened, rows, scratch, wanted)}
        report["versions"] = {name: version(name) for name in ("weitiao", "torch", "transformers", *_PACKAGES[format])}
        report["bytes"] = size_bytes(scratch)
        report["files"] = {file.name: file.stat().st_size for file in sorted(scratch.iterdir())}
        write_atomic(scratch / REPORT, to_json(report))
        write_atomic(scratch / "README.md", export_card(opened, rows, report))
    if push is not None:
        report["pushed"] = hub.push(folder, push, public)
    return report


@dataclass(frozen=True)
class _Wanted:
    """What the user asked for."""

    format: str
    int8: bool
    quantization: str | None
    adapter_only: bool


def _written(run: RunDir, rows: HeldOut, folder: Path, wanted: _Wanted) -> dict[str, Any]:
    """The files of one format in ``folder``, and what its report says."""
    if wanted.format == "onnx":
        return _onnx(run, rows, folder, wanted.int8)
    if wanted.format == "gguf":
        return _gguf(run, rows, folder, wanted)
    report = write_plain(run, rows, folder, "auto")
    return {**report, "auto_model": rows.task.AUTO_MODEL, "intervals": quality.intervals(rows)}


def _onnx(run: RunDir, rows: HeldOut, folder: Path, int8: bool) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.model, **NO_FOREIGN_CODE)
    whole = whole_model(run, rows)
    started = time.perf_counter()
    graph = onnx_graph.build_graph(whole.model, onnx_graph.graph_inputs(whole.model, tokenizer), rows.pad_id)
    onnx_graph.save_graph(graph, folder / onnx_graph.FILE)
    seconds = time.perf_counter() - started
    whole.model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    after = answers(onnx_graph.OnnxModel(folder / onnx_graph.FILE), rows)
    found = agreement(rows, whole.before, after, "float32")
    found.check("ONNX model", "Use --format safetensors.")
    report = {
        **facts_of(run), "dtype": "float32", "seconds": seconds, **found.facts(), "pairs": "text_pair" in rows.lines[0],
        "intervals": quality.intervals(rows), "int8": None,
    }  # fmt: skip
    if int8:
        file = folder / onnx_graph.INT8_FILE
        onnx_graph.save_graph(onnx_graph.quantised(graph), file)
        other = answers(onnx_graph.OnnxModel(file), rows)
        facts = agreement(rows, after, other, "float32").facts()
        loss = quality.loss(rows, after[0], other[0])
        facts = {name: facts[name] for name in ("worst", "mean", "same_predictions", "metrics")}
        report["int8"] = {"bytes": file.stat().st_size, **facts, "loss": loss}
    return report


def _gguf(run: RunDir, rows: HeldOut, folder: Path, wanted: _Wanted) -> dict[str, Any]:
    from transformers import AutoTokenizer

    quantization = wanted.quantization or ("f32" if wanted.adapter_only else "f16")
    tokenizer = AutoTokenizer.from_pretrained(run.model, **NO_FOREIGN_CODE)
    facts, asks = facts_of(run), llama_cpp.is_installed()
    name, found = f"{Path(run.config.model).name} fine-tuned", None
    if wanted.adapter_only:
        model, file = loaded(run, rows.pad_id)[0], folder / gguf_adapter.FILE
        before = answers(model, rows)[0]
        answered = llama_cpp.expected(model, tokenizer, rows) if asks else None
        written, notes = gguf_adapter.write_adapter(model, file, quantization, name), list[str]()
        if answered is not None:
            base = folder / ".base.gguf"
            gguf_model.write_model(model.unload(), tokenizer, base, "f32", name=name)
            found = llama_cpp.compared(answered, base, quantization, [file])
            base.unlink()
    else:
        whole, file = whole_model(run, rows), folder / gguf_model.FILE
        before = whole.before[0]
        written, notes = gguf_model.write_model(
            whole.model, tokenizer, file, quantization, name=name, licence=facts["licence"]
        )
        if asks:
            found = llama_cpp.compared(llama_cpp.expected(whole.model, tokenizer, rows), file, quantization)
    if found is None:
        notes.append(f"llama.cpp was not run on the file: the package {llama_cpp.PACKAGE} is not installed")
    elif found["same_chats"] < found["chats"]:
        notes.append(
            f"llama.cpp renders {found['chats'] - found['same_chats']} of {found['chats']} conversations otherwise than transformers"
        )
    for note in notes:
        log.warning("%s", note)
    metrics = {key: value for key, value in rows.metrics(before).items() if isinstance(value, float)}
    return {
        **facts, "notes": [*facts["notes"], *notes], "quantization": quantization, "adapter_only": wanted.adapter_only, **written,
        "rows": len(before), "metrics_before": metrics, "intervals": quality.intervals(rows), "llama_cpp": found,
    }  # fmt: skip


def _refuse_words(wanted: _Wanted) -> None:
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
    missing = [name for name in _PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format {format}, and {', '.join(missing)} is not installed.\nExpected what writes and runs it.\n"
            "Install it: pip install 'weitiao[export]'"
        )


def _refuse_run(run: RunDir, wanted: _Wanted) -> None:
    """Raise ConfigError or ModelError for a run whose model the format cannot hold, before anything is loaded."""
    config, format = run.config, wanted.format
    generates = TASKS[config.task].OPTIONS.generates
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
    if format == "gguf":
        from transformers import AutoConfig

        source = locate(config.model) if config.method.saves_adapter else str(run.model)
        gguf_model.refuse_family(AutoConfig.from_pretrained(source, **NO_FOREIGN_CODE))
        pre_tokenizer_name(json.loads((run.model / "tokenizer.json").read_text(encoding="utf-8")))
