"""merge(run): base and adapter as one plain transformers folder, checked on the run's held-out rows."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.adapters.agreement import agreement, first_logits
from weitiao.adapters.refusals import Dtype, refuse_merge, refuse_output, refuse_unmergeable
from weitiao.effects.held_out import HeldOut, held_out
from weitiao.errors import ModelError, RunError
from weitiao.methods import METHODS
from weitiao.pretrained.licence import licence_of
from weitiao.pretrained.locate import NO_FOREIGN_CODE, cannot_load, locate, refuse_pickled
from weitiao.pretrained.padding import pad_as
from weitiao.rundir.card import merged_card
from weitiao.rundir.files import new_folder, size_bytes, to_json, write_atomic
from weitiao.rundir.folder import RunDir

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("weitiao")
REPORT = "merge_report.json"


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
    opened, folder = RunDir.open(run), Path(output).resolve()
    refuse_merge(opened, dtype)
    refuse_unmergeable(opened)
    refuse_output(opened, folder)
    rows = rows_of(opened)
    with new_folder(folder) as scratch:
        report = write_plain(opened, rows, scratch, dtype)
        write_atomic(scratch / REPORT, to_json(report))
        card = merged_card(opened.config, opened.summary, rows.task.describe(rows.names), rows.task.AUTO_MODEL, report)
        write_atomic(scratch / "README.md", card)
    return report


@dataclass(frozen=True)
class Whole:
    """A run's model without an adapter around it, as plain transformers has it, in fp32 and evaluation mode."""

    model: Any
    before: tuple[Any, Any]  # what base and adapter answered: see ``agreement``
    dtype: str  # of the base's checkpoint


def whole_model(run: RunDir, rows: HeldOut) -> Whole:
    """Base and adapter summed in fp32, or a full run's model as it is. Raises ModelError where the sum does not agree."""
    model, own = loaded(run, rows.pad_id)
    before = answers(model, rows)
    if run.config.method.saves_adapter:
        model = _merged(model)
        found = agreement(rows, before, answers(model, rows), "float32")  # before anything is rounded
        found.check("merged model", "Train the run again.")
    if rows.task.PROBLEM_TYPE is not None:
        model.config.problem_type = rows.task.PROBLEM_TYPE
    return Whole(model, before, own)


def write_plain(run: RunDir, rows: HeldOut, folder: Path, dtype: str) -> dict[str, Any]:
    """Weights and tokenizer of a run's whole model into ``folder``, opened again and checked. Returns the report.

    Raises:
        ModelError: what was opened again does not answer as the run's model does.
    """
    import torch
    import transformers

    whole = whole_model(run, rows)
    before, chosen = whole.before, whole.dtype if dtype == "auto" else dtype
    whole.model.to(getattr(torch, chosen)).save_pretrained(folder)
    del whole
    transformers.AutoTokenizer.from_pretrained(run.model, **NO_FOREIGN_CODE).save_pretrained(folder)
    opened = getattr(transformers, rows.task.AUTO_MODEL).from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, **NO_FOREIGN_CODE
    )
    found = agreement(rows, before, answers(opened, rows), chosen)
    found.check(
        "written model", "Use weitiao merge --dtype float32." if chosen != "float32" else "Train the run again."
    )
    return {**facts_of(run), "dtype": chosen, "bytes": size_bytes(folder), **found.facts()}


def rows_of(run: RunDir) -> HeldOut:
    """The run's held-out rows. Raises RunError where its folder does not hold them."""
    rows = held_out(run)
    if rows is None:
        raise RunError(
            f"{run.path}: its held-out rows are not in predictions.jsonl.\nExpected them there: a merged model is checked on "
            "them.\nTrain the run again."
        )
    return rows


def loaded(run: RunDir, pad_id: int) -> "tuple[PreTrainedModel, str]":
    """Base and adapter (or a full run's model) in fp32, and the dtype of the base's checkpoint."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig

    from weitiao.tasks import TASKS

    refuse_pickled(run.model)
    config = run.config
    method = METHODS[config.method.type]
    base = locate(config.model) if config.method.saves_adapter else str(run.model)
    try:
        own = str(AutoConfig.from_pretrained(base, **NO_FOREIGN_CODE).dtype or torch.float32).removeprefix("torch.")
        # beside a base in 16 bits peft would round the trained head
        names = run.summary["label_names"]
        model: Any = method.load(run.model, TASKS[config.task].AUTO_MODEL, names, base, torch.float32)
    except (OSError, ValueError, SafetensorError) as error:
        raise cannot_load(f"{run.model} (base {base})", error) from None
    pad_as(model, pad_id)
    return model.float().eval(), own


def answers(model: Any, rows: HeldOut) -> tuple[Any, Any]:
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


def facts_of(run: RunDir) -> dict[str, Any]:
    """What a report says of a run: {"run", "method", "base", "licence", "notes"}. The notes are logged too."""
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
        "notes": notes,
    }
