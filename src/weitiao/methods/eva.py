"""EVA through peft: A starts at the directions in which the layer's inputs vary most on the training rows.

Source: Paischer et al. 2024, arXiv 2410.07170. A few batches are enough, and the same seed takes the same ones.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weitiao.data.batch import BatchPlan, plan_epoch
from weitiao.data.encode import Encoded
from weitiao.errors import ConfigError

if TYPE_CHECKING:
    import torch

_BATCHES, _TOKENS = (
    4,
    512,
)  # more rows settle no sooner: some 50 passes, most of a minute for 6 layers of 384 on one core
_MOST_PASSES = 100  # over the batches; peft goes on until the directions settle, however long that takes


def start_from_data(model: Any, encoded: Encoded, pad_id: int, seed: int) -> None:
    """Set A of ``model``, a LoRA with ``init_lora_weights=eva``, from training rows.

    Raises:
        ConfigError: the rank is too high for these rows or layers, or the directions do not settle.
    """
    import peft
    import torch

    frozen = next(p for p in model.parameters() if not p.requires_grad)  # on a device cast already, unlike what trains
    config = model.peft_config["default"]
    needed = 2 * round(config.r * config.eva_config.rho)  # of peft's low-rank SVD
    batches = [b for b in _batches(encoded, pad_id, seed) if int(b["attention_mask"].sum()) >= needed]
    passes, inputs = 0, _Inputs(len(batches))

    def forward(model: Any, batch: "dict[str, torch.Tensor]") -> Any:
        nonlocal passes
        passes += 1
        inputs.shape = batch["input_ids"].shape
        if passes > _MOST_PASSES * len(batches):
            raise _refused(f"its directions do not settle in {_MOST_PASSES} passes")
        with torch.autocast(frozen.device.type, frozen.dtype, enabled=frozen.dtype != torch.float32):
            return model(**batch)

    if not batches:
        raise _refused(f"no batch has the {needed} tokens that the rank needs")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # peft prints which layers wait for more rows
            # every process takes the same rows: there is nothing to gather
            peft.initialize_lora_eva_weights(
                model, batches, forward_fn=forward, prepare_layer_inputs_fn=inputs,
                gather_distributed_inputs=False, show_progress_bar=False,
            )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise _refused(str(error).splitlines()[0]) from None


class _Inputs:
    """What peft decomposes of a layer's input: the states of real tokens, or, of a pooler, all rows seen so far.

    A pooler reads one state a row, and one batch has too few rows for the rank. DeBERTa's layers read a table of positions
    [1, P, I] too: all of it.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.shape: tuple[int, ...] = ()  # of the batch, [B, L]
        self.seen: dict[str, list[torch.Tensor]] = {}

    def __call__(self, given: Any, places: "torch.Tensor", layer: str) -> "torch.Tensor":
        """``given``: a layer's arguments, the first [B, L, I] or [B, I]; ``places`` [T, 2] of the real tokens."""
        import torch

        states = given if isinstance(given, torch.Tensor) else given[0]
        if states.ndim == 3 and tuple(states.shape[:2]) != tuple(self.shape):
            return states.flatten(0, 1)
        if states.ndim == 3:
            return states[places.T.unbind()]  # type: ignore[no-any-return]
        seen = self.seen.setdefault(layer, [])
        if len(seen) < self.batches:
            seen.append(states)
        return torch.cat(seen)


def _refused(reason: str) -> ConfigError:
    return ConfigError(
        f"method.init_lora_weights=eva: {reason}.\nExpected a rank well below the width of the layers, and varied rows.\n"
        "Lower method.r, or leave method.init_lora_weights out."
    )


def _batches(encoded: Encoded, pad_id: int, seed: int) -> Sequence["dict[str, torch.Tensor]"]:
    """The first batches of a shuffled epoch: input_ids and attention_mask [B, L]."""
    import torch

    found = []
    for rows in plan_epoch(encoded.lengths, BatchPlan(_TOKENS, None, True), seed, 0)[:_BATCHES]:
        tokens = [encoded.row(i) for i in rows]
        ids = np.full((len(rows), max(map(len, tokens))), pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(tokens):
            ids[place, : len(row)], mask[place, : len(row)] = row, 1
        found.append({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)})
    return found
