"""What a run's adapter is made of, as a shared body takes it: pairs of A and B, modules saved whole, and a head."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from weitiao.inference.mixed import CannotShare, Given, Pair
from weitiao.pretrained.load import head_options
from weitiao.pretrained.locate import NO_FOREIGN_CODE
from weitiao.pretrained.padding import pad_as
from weitiao.rundir.folder import RunDir
from weitiao.tasks.task import Task

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """One run's part of a model; the rest is the base's body.

    Args:
        pairs: A [r, in] and B [out, r], which holds the scale, by the path of their layer in the body.
        whole: state dicts of modules inside the body, by their paths.
        head: the run's model with :class:`Given` in the place of the body; None of a run that writes texts, whose body is all.
    """

    pairs: dict[str, Pair]
    whole: dict[str, dict[str, torch.Tensor]]
    head: Any
    given: Given

    def packed(self, dtype: torch.dtype) -> "Adapter":
        """The same, its parts in the body in ``dtype``, and nothing of the file held any more.

        All of them are one block, and the head another: hundreds of small tensors would leave holes when they go.
        """
        own = [t for pair in self.pairs.values() for t in pair] + [
            t for state in self.whole.values() for t in state.values()
        ]
        block = iter(_in_one_block(own, dtype))
        pairs = {path: (next(block), next(block)) for path in self.pairs}
        whole = {path: {name: next(block) for name in state} for path, state in self.whole.items()}
        if self.head is not None:
            state = self.head.state_dict()
            values = _in_one_block(list(state.values()), torch.float32)
            self.head.load_state_dict(dict(zip(state, values, strict=True)), assign=True)
        return replace(self, pairs=pairs, whole=whole)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes beside its base."""
        tensors = [t for pair in self.pairs.values() for t in pair]
        tensors += [t for state in self.whole.values() for t in state.values()]
        own = [] if self.head is None else [*self.head.parameters(), *self.head.buffers()]
        return sum(t.nbytes for t in [*tensors, *own])


def _in_one_block(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Copies in one allocation, each at a multiple of 64 bytes."""
    step = 64 // dtype.itemsize
    places = [0]
    for one in tensors:
        places.append(places[-1] + -(-one.numel() // step) * step)
    block = torch.empty(places[-1], dtype=dtype)
    found = [block[first : first + t.numel()].view(t.shape) for t, first in zip(tensors, places, strict=False)]
    for place, one in zip(found, tensors, strict=True):
        place.copy_(one)
    return found


def open_adapter(run: RunDir, base: str, task: Task, names: list[str], pad_id: int) -> Adapter:
    """Read a run's adapter for the body of ``base``, a folder.

    Raises:
        CannotShare: it changes more than linear layers and whole modules.
        OSError, SafetensorError: the files cannot be read.
    """
    config, state = _read(run)
    head, given, prefix = _head(base, task, names)
    body = f"{prefix}."
    outside = {name for name, _ in head.named_parameters()}
    pairs = _pairs(state, config, body)
    rest = {name: value for name, value in state.items() if ".lora_" not in name}
    if missing := outside - set(rest):
        raise CannotShare(f"its head {sorted(missing)[0]} is not in the adapter")
    head.load_state_dict({name: rest.pop(name) for name in outside}, assign=True)
    if unplaced := [name for name in rest if not name.startswith(body)]:
        raise CannotShare(f"{unplaced[0]} has no place in its model")
    pad_as(head, pad_id)
    return Adapter(pairs, _by_module(rest, body, config.modules_to_save or ()), head.eval(), given)


def open_writer(run: RunDir) -> Adapter:
    """The adapter of a run that writes texts. Raises as :func:`open_adapter`."""
    config, state = _read(run)
    rest = {name: value for name, value in state.items() if ".lora_" not in name}
    return Adapter(_pairs(state, config, ""), _by_module(rest, "", config.modules_to_save or ()), None, Given())


def _read(run: RunDir) -> tuple[Any, dict[str, torch.Tensor]]:
    """peft's configuration, and the tensors by their names in the model, without the base's own that peft may have added."""
    import peft
    from safetensors.torch import load_file

    state = load_file(run.model / "adapter_model.safetensors")
    own = {name.removeprefix(_PREFIX): value for name, value in state.items() if ".base_layer." not in name}
    return peft.PeftConfig.from_pretrained(run.model), own


def _head(base: str, task: Task, names: list[str]) -> tuple[Any, Given, str]:
    """The model that plain transformers would build, without body and values; and the name of the body's place."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(base, **NO_FOREIGN_CODE, **head_options(names))
    if task.PROBLEM_TYPE is not None:
        config.problem_type = task.PROBLEM_TYPE
    model = _on_a_small_body(getattr(transformers, task.AUTO_MODEL), config)
    given = Given()
    setattr(model, model.base_model_prefix, given)
    if any(True for _ in model.buffers()):
        raise CannotShare("its head has buffers")
    return model, given, model.base_model_prefix


def _on_a_small_body(kind: Any, config: Any) -> Any:
    """The model with a body of one layer, where its configuration can say so: the body goes, and to build it takes 20 ms."""
    small = copy.deepcopy(config)  # the dtype: from_config makes the base's the whole process's default while it builds
    with torch.device("meta"):
        try:
            small.num_hidden_layers = 1
            if getattr(small, "layer_types", None):
                small.layer_types = small.layer_types[:1]
            model = kind.from_config(small, dtype=torch.float32, **NO_FOREIGN_CODE)
        except Exception:  # a configuration of several parts, or one that counts its layers elsewhere
            return kind.from_config(config, dtype=torch.float32, **NO_FOREIGN_CODE)
    model.config = config
    return model


def _pairs(state: Mapping[str, torch.Tensor], config: Any, body: str) -> dict[str, Pair]:
    from peft.utils.other import get_pattern_key

    found: dict[str, Pair] = {}
    for name in [name for name in state if ".lora_A." in name]:
        path = name.partition(".lora_A.")[0]
        if not path.startswith(body):
            raise CannotShare(f"{path} lies outside the body")
        a, b = state[name], state[name.replace(".lora_A.", ".lora_B.")]
        alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), path), config.lora_alpha)
        scale = alpha / (len(a) ** 0.5 if config.use_rslora else len(a))
        found[path.removeprefix(body)] = (a, b * scale)
    odd = [name for name in state if ".lora_" in name and not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if odd:
        raise CannotShare(f"{odd[0]} is no plain pair")
    return found


def _by_module(
    state: Mapping[str, torch.Tensor], body: str, saved: Iterable[str]
) -> dict[str, dict[str, torch.Tensor]]:
    """State dicts of the modules inside the body that were saved whole, by their paths."""
    known = set(saved)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        parts = name.removeprefix(body).split(".")
        depth = next((i for i, part in enumerate(parts, start=1) if part in known), None)
        if depth is None:
            raise CannotShare(f"{name} belongs to no module that was saved whole")
        found.setdefault(".".join(parts[:depth]), {})[".".join(parts[depth:])] = value
    return found
