"""The side effects of a run, measured with the saved model: memorisation of canaries, forgetting of text and of tasks."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weitiao.config.data import DataConfig
from weitiao.config.run import RunConfig
from weitiao.data.canaries import Canary
from weitiao.data.encode import Encoded
from weitiao.effects.parent import earlier_task
from weitiao.effects.scores import masked_loss, mean_states, memorisation, similarity
from weitiao.kernels.nf4 import PackedLinear
from weitiao.pretrained.load import load_model, load_tokenizer
from weitiao.pretrained.locate import NO_FOREIGN_CODE, locate
from weitiao.pretrained.resolve import Resolved
from weitiao.rundir.files import write_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.tasks.classification import softmax
from weitiao.training.base import load_base
from weitiao.training.evaluate import score
from weitiao.training.events import EventLog

if TYPE_CHECKING:
    from weitiao.training.inputs import Inputs

log = logging.getLogger("weitiao")


def effects(config: RunConfig, run: RunDir, inputs: "Inputs", model: Any, events: EventLog) -> dict[str, Any]:
    """What the configuration asks for and needs the saved model alone, for ``summary["effects"]``; writes canaries.jsonl.

    Args:
        model: the saved one, in fp32, as any user loads it.
    """
    found: dict[str, Any] = {}
    if inputs.canaries:
        events.write("stage", message="scoring the canaries")
        found["memorisation"] = _memorisation(config, run, inputs, model)
    if (given := config.method.parent) is not None:
        events.write("stage", message=f"scoring the rows of {given}")
        if (earlier := earlier_task(config, inputs.label_names, model)) is not None:
            found["earlier_task"] = earlier
    return found


@dataclass(frozen=True)
class General:
    """The saved model on data.general_text: its states [N, H], and its masked loss where the base has such a head."""

    states: NDArray[np.float64]
    masked: dict[str, float]


def on_general_text(config: RunConfig, inputs: "Inputs", model: Any, events: EventLog) -> General | None:
    """What :func:`forgetting` compares; None without general text. Merges adapters into ``model``: the last use of it."""
    if not inputs.general:
        return None
    events.write("stage", message=f"looking for what was forgotten, on {config.data.general_text}")
    tokenizer = load_tokenizer(config.model)
    encoded = _general(config, inputs, tokenizer)
    states = mean_states(model, encoded, inputs.pad_id)
    if any(isinstance(layer, PackedLinear) for layer in model.modules()):
        log.info("the masked loss is not measured: adapters cannot be summed into a base that is held in 4 bits")
        return General(states, {})
    head = _language_head(config.model, inputs.resolved)
    if head is None or tokenizer.mask_token_id is None:
        return General(states, {})
    return General(states, _masked(head.to(model.device), model, encoded, inputs.pad_id, tokenizer))


def forgetting(config: RunConfig, inputs: "Inputs", after: General, dtype: str) -> dict[str, float]:
    """``similarity`` of the states before and after, and the masked losses. Loads the base: the saved model may be gone.

    Args:
        dtype: that the saved model was scored in.
    """
    encoded = _general(config, inputs, load_tokenizer(config.model))
    before = mean_states(load_base(config, inputs, inputs.label_names, dtype), encoded, inputs.pad_id)
    return {"similarity": similarity(before, after.states), "rows": len(encoded), **after.masked}


def _memorisation(config: RunConfig, run: RunDir, inputs: "Inputs", model: Any) -> dict[str, float]:
    canaries: Sequence[Canary] = inputs.canaries
    tokenizer, names = load_tokenizer(config.model), inputs.label_names
    encoded = inputs.task.encode(
        [c.text for c in canaries], [c.label for c in canaries], names, tokenizer, _cut(config, inputs)
    )
    scores = score(
        model, inputs.task, encoded, pad_id=inputs.pad_id, tokens_per_batch=config.train.eval_tokens_per_batch
    )
    own = np.log(softmax(scores))[np.arange(len(canaries)), encoded.gold]
    rows = zip(canaries, own.tolist(), strict=True)
    write_jsonl(
        run.path / "canaries.jsonl",
        ({"text": c.text, "label": c.label, "planted": c.planted, "log_probability": value} for c, value in rows),
    )
    return memorisation(own, np.array([c.planted for c in canaries])) | {"canaries": len(canaries) // 2}


def _general(config: RunConfig, inputs: "Inputs", tokenizer: Any) -> Encoded:
    return inputs.task.encode(inputs.general, [], inputs.label_names, tokenizer, _cut(config, inputs))


def _cut(config: RunConfig, inputs: "Inputs") -> DataConfig:
    return config.data.model_copy(update={"max_length": inputs.max_length, "over_length": "truncate"})


def _masked(head: Any, model: Any, encoded: Encoded, pad_id: int, tokenizer: Any) -> dict[str, float]:
    masks = (pad_id, tokenizer.mask_token_id, set(tokenizer.all_special_ids))
    before = masked_loss(head, encoded, *masks)
    tuned = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    own = tuned.base_model.state_dict()
    head.base_model.load_state_dict({name: own[name] for name in head.base_model.state_dict()})
    return {"masked_loss_before": before, "masked_loss": masked_loss(head, encoded, *masks)}


def _language_head(model: str, resolved: Resolved) -> Any:
    """The checkpoint as a masked language model; None where it has no such head."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = AutoConfig.from_pretrained(locate(model), **NO_FOREIGN_CODE).model_type
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return None
    head, new = load_model(model, "AutoModelForMaskedLM", (), None, resolved)
    return None if new else head
