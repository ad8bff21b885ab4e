"""merge(run): base and adapter as one plain transformers folder, checked on the run's held-out rows."""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from weitiao.adapters.agreement import Agreement, agreement, first_logits
from weitiao.effects.held_out import HeldOut, held_out
from weitiao.errors import ConfigError, ModelError, RunError
from weitiao.methods import METHODS
from weitiao.pretrained.licence import licence_of
from weitiao.pretrained.locate import NO_FOREIGN_CODE, cannot_load, locate, refuse_pickled
from weitiao.pretrained.padding import pad_as
from weitiao.rundir.card import merged_card
from weitiao.rundir.files import size_bytes, to_json, write_atomic, writing
from weitiao.rundir.folder import RunDir

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("weitiao")
REPORT = "merge_report.json"
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def merge(run: str | Path, *, output: str | Path, dtype: Dtype = "auto") -> dict[str, Any]:
    """Sum a run's adapter into its base, and write a folder that plain transformers opens.

    The sum is in fp32. The folder is opened again and scores the run's held-out rows; where it does not answer as base and
    adapter do, nothing is left behind.

    Args:
        run: a finished run of a method with an adapter.
        output: a new folder.
        dtype: of the weights in the folder; auto is that of the base's checkpoint.

    Returns:
        merge_report.json: {"run", "method", "base", "licence", "dtype", "bytes", "notes", "rows", "compared", "worst",
        "mean", "tolerance", "same_predictions", "metrics_before", "metrics"}. ``worst`` and ``mean`` are differences of
        logits; ``metrics_before`` are those of base and adapter.

    Raises:
        RunError: no finished run.  ConfigError: its method has nothing to merge.  ModelError: the folder does not agree.
    """
    opened, folder = RunDir.open(run), Path(output)
    folder = folder.resolve()
    _refuse(opened, folder, dtype)
    rows = held_out(opened)
    if rows is None:
        raise RunError(
            f"{opened.path}: its held-out rows are not in predictions.jsonl.\nExpected them there: a merged model is checked on "
            "them.\nTrain the run again."
        )
    model, own = _loaded(opened, rows.pad_id)
    chosen = own if dtype == "auto" else dtype
    scratch = folder.with_name(f".{folder.name}.merging")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with writing(folder):
            scratch.mkdir(parents=True)
            found = _merged_and_checked(model, opened, rows, scratch, chosen)
            report = _report(opened, found, scratch, chosen)
            write_atomic(scratch / REPORT, to_json(report))
            card = merged_card(
                opened.config, opened.summary, rows.task.describe(rows.names), rows.task.AUTO_MODEL, report
            )
            write_atomic(scratch / "README.md", card)
            if folder.is_dir():
                folder.rmdir()  # empty, or it would have been refused
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return report


def _refuse(run: RunDir, folder: Path, dtype: str) -> None:
    method = run.config.method
    if dtype not in get_args(Dtype):
        raise ConfigError(
            f"--dtype {dtype}.\nExpected one of: {', '.join(get_args(Dtype))}.\nLeave it out for the base's own."
        )
    if not method.saves_adapter:
        raise ConfigError(
            f"{run.path} was trained with method.type={method.type}, which has no adapter.\nExpected a run with an adapter, such as "
            f"method.type=lora.\n{run.model} is a whole model already: use it as it is."
        )
    if not method.merges:
        raise ConfigError(
            f"{run.path} was trained with method.type={method.type}: what it learnt lies before the words, not in weights.\n"
            f"Expected an adapter that can be summed into its base, such as LoRA's.\nUse {run.model} with peft, or weitiao predict."
        )
    if folder.is_relative_to(run.path.resolve()):
        raise ConfigError(
            f"--output {folder} lies in the run's own folder.\nExpected another place.\nName another --output."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} already exists and is not empty.\nExpected a new folder.\nName another --output.")


def _loaded(run: RunDir, pad_id: int) -> "tuple[PreTrainedModel, str]":
    """Base and adapter in fp32, and the dtype of the base's checkpoint."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig

    from weitiao.methods import lora
    from weitiao.tasks import TASKS

    refuse_pickled(run.model)
    config = run.config
    method, base = METHODS[config.method.type], locate(config.model)
    try:
        own = str(AutoConfig.from_pretrained(base, **NO_FOREIGN_CODE).dtype or torch.float32).removeprefix("torch.")
        # in 16 bits the base's head would round the trained one
        load = partial(lora.load, dtype=torch.float32) if method.load is lora.load else method.load
        model: Any = load(run.model, TASKS[config.task].AUTO_MODEL, run.summary["label_names"], base)
    except (OSError, ValueError, SafetensorError) as error:
        raise cannot_load(f"{run.model} (base {base})", error) from None
    pad_as(model, pad_id)
    return model.float().eval(), own


def _merged_and_checked(model: Any, run: RunDir, rows: HeldOut, folder: Path, dtype: str) -> Agreement:
    """Write the merged model to ``folder``, open it again, and compare. Raises ModelError where they do not agree."""
    import torch
    import transformers

    before = _answers(model, rows)
    merged = _merged(model)
    del model
    _check(agreement(rows, before, _answers(merged, rows), "float32"), "float32")  # before anything is rounded
    if rows.task.PROBLEM_TYPE is not None:
        merged.config.problem_type = rows.task.PROBLEM_TYPE
    merged.to(getattr(torch, dtype)).save_pretrained(folder)
    del merged
    transformers.AutoTokenizer.from_pretrained(run.model, **NO_FOREIGN_CODE).save_pretrained(folder)
    opened = getattr(transformers, rows.task.AUTO_MODEL).from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, **NO_FOREIGN_CODE
    )
    found = agreement(rows, before, _answers(opened, rows), dtype)
    _check(found, dtype)
    return found


def _check(found: Agreement, dtype: str) -> None:
    """Raise ModelError where two models do not agree."""
    if not found.holds:
        way = "Use --dtype float32." if dtype != "float32" else "Train the run again."
        raise ModelError(
            f"The merged model does not answer as base and adapter do: logits differ by up to {found.worst:.3g} "
            f"({found.same_predictions or 0:,} of {found.compared:,} predictions are the same).\nExpected at most "
            f"{found.tolerance:.3g} with weights in {dtype}. Nothing was written.\n{way}"
        )


def _answers(model: Any, rows: HeldOut) -> tuple[Any, Any]:
    """The scores of all rows, and the logits to compare."""
    scores = rows.scores(model)
    return scores, first_logits(model, rows, scores)


def _merged(model: Any) -> Any:
    """The base with the adapter summed in, as plain transformers' model. Raises ModelError for weights that are not finite."""
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # NaNs
        raise ModelError(
            f"The adapter cannot be merged: {error}\nExpected finite weights.\nTrain the run again."
        ) from None
    head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
    if head is not None and merged.config.tie_word_embeddings and head.weight is not embedding.weight:
        log.info("the head was trained apart from the embedding: the merged model holds both")
        merged.config.tie_word_embeddings = False
    return merged


def _report(run: RunDir, found: Agreement, folder: Path, dtype: str) -> dict[str, Any]:
    config = run.config
    notes = []
    if config.method.packs_base or config.train.int8_base:
        held = "4 bits" if config.method.packs_base else "8 bits"
        notes.append(f"trained on a base held in {held}, merged into the base's own weights")
    for note in notes:
        log.warning("%s", note)
    return {
        "run": str(run.path),
        "method": config.method.type,
        "base": config.model,
        "licence": licence_of(config.model),
        "dtype": dtype,
        "bytes": size_bytes(folder),
        "notes": notes,
        **found.facts(),
    }
