"""export(run): a finished run as safetensors, ONNX or GGUF, checked against the run on its held-out rows."""

import logging
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from weitiao.adapters.agreement import agreement
from weitiao.adapters.merge import (
    answers,
    facts_of,
    loaded,
    rows_of,
    whole_model,
    write_plain,
)
from weitiao.adapters.refusals import refuse_output
from weitiao.effects.held_out import HeldOut
from weitiao.errors import ConfigError
from weitiao.exporting import gguf_adapter, gguf_model, hub, llama_cpp, onnx_graph, quality
from weitiao.exporting.card import export_card
from weitiao.exporting.refusals import PACKAGES, Format, Wanted, refuse_run, refuse_tokenizer, refuse_words
from weitiao.pretrained.locate import NO_FOREIGN_CODE, locate
from weitiao.rundir.files import new_folder, size_bytes, to_json, write_atomic
from weitiao.rundir.folder import RunDir

log = logging.getLogger("weitiao")
REPORT = "export_report.json"


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
    wanted = Wanted(format, int8, quantization and quantization.lower(), adapter_only)
    refuse_words(wanted)
    refuse_run(opened, wanted)
    if format == "gguf":
        _refuse_family(opened)
        refuse_tokenizer(opened)
    if public and push is None:
        raise ConfigError("--public without --push.\nExpected a repository to upload to.\nAdd --push OWNER/NAME.")
    refuse_output(opened, folder)
    if push is not None:
        hub.refuse_push(push, public)
    rows = rows_of(opened)
    with new_folder(folder) as scratch:
        report = {"format": format, **_written(opened, rows, scratch, wanted)}
        report["versions"] = {name: version(name) for name in ("weitiao", "torch", "transformers", *PACKAGES[format])}
        report["bytes"] = size_bytes(scratch)
        report["files"] = {file.name: file.stat().st_size for file in sorted(scratch.iterdir())}
        write_atomic(scratch / REPORT, to_json(report))
        write_atomic(scratch / "README.md", export_card(opened, rows, report))
    if push is not None:
        report["pushed"] = hub.push(folder, push, public)
    return report


def _written(run: RunDir, rows: HeldOut, folder: Path, wanted: Wanted) -> dict[str, Any]:
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


def _gguf(run: RunDir, rows: HeldOut, folder: Path, wanted: Wanted) -> dict[str, Any]:
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


def _refuse_family(run: RunDir) -> None:
    """Raise ModelError where llama.cpp does not know the model as transformers has it."""
    from transformers import AutoConfig

    source = locate(run.config.model) if run.config.method.saves_adapter else str(run.model)
    gguf_model.refuse_family(AutoConfig.from_pretrained(source, **NO_FOREIGN_CODE))
