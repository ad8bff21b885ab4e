"""Adapters that earlier runs left: found, checked, and put into a model so that training goes on from them."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from weitiao.catalogue.download import sha256_of
from weitiao.errors import ConfigError
from weitiao.rundir.folder import RunDir

log = logging.getLogger("weitiao")
COMBINED = "combined.json"  # in the folder of a combination: what it was made of
WEIGHTS = "adapter_model.safetensors"
# their start changes the base: two of them, or another start, would be of two bases
CHANGES_BASE = ("pissa", "olora")
_HEADS = {"classifier", "score"}  # what transformers calls the layer whose size is the number of labels
_SHAPING = ("r", "lora_alpha", "use_rslora", "use_dora", "bias")


@dataclass(frozen=True)
class Earlier:
    """An adapter on disk. ``run`` and ``label_names`` are known where it is a run's; no labels: a language model's."""

    given: str
    folder: Path
    run: RunDir | None
    label_names: tuple[str, ...] | None

    @property
    def config(self) -> Any:
        """Its adapter_config.json, as peft reads it."""
        import peft

        return peft.PeftConfig.from_pretrained(self.folder)

    @property
    def state(self) -> dict[str, Any]:
        """Its tensors, by the names in the file, without the base's own that peft adds for an adapted head or embedding."""
        from safetensors.torch import load_file

        return {name: value for name, value in load_file(self.folder / WEIGHTS).items() if ".base_layer." not in name}

    @property
    def facts(self) -> dict[str, Any]:
        """What a summary says of it."""
        return {"path": self.given, "adapter_sha256": sha256_of(self.folder / WEIGHTS)}


def find(given: str | Path, option: str) -> Earlier:
    """The adapter of a finished run, or in a folder.

    Args:
        option: what named it, for messages.

    Raises:
        RunError: the run has not finished.  ConfigError: there is no LoRA adapter, or it cannot be read.
    """
    path, run, names = Path(given), None, None
    if (path / "config.yaml").is_file():
        run = RunDir.open(path)
        path, names = run.model, tuple(run.summary["label_names"])
    elif (path / COMBINED).is_file():
        names = tuple(json.loads((path / COMBINED).read_text(encoding="utf-8"))["label_names"])
    if not (path / "adapter_config.json").is_file() or not (path / WEIGHTS).is_file():
        raise ConfigError(
            f"{option}: {given} holds no adapter (adapter_config.json, {WEIGHTS}).\nExpected a run of LoRA or an adapter's "
            "folder.\nTrain one: weitiao train recipes/reviews-lora.yaml"
        )
    found = Earlier(str(given), path, run, names)
    try:
        config = found.config
        with safe_open(path / WEIGHTS, "pt"):  # reads the names and sizes alone
            pass
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"{option}: the adapter in {given} cannot be read: {error}\nExpected adapter_config.json and {WEIGHTS} as peft "
            "saves them.\nTake another copy of the folder, or train it again."
        ) from None
    if config.base_model_name_or_path is None:
        raise ConfigError(
            f"{option}: adapter_config.json in {given} names no base model.\nExpected the model that the adapter was trained "
            "on, since another one makes it noise.\nWrite its folder or name there, as base_model_name_or_path."
        )
    if config.peft_type != "LORA":
        raise ConfigError(
            f"{option}: {given} is an adapter of {str(config.peft_type.value).lower()}.\nExpected one of LoRA.\n"
            "Train one with method.type=lora."
        )
    return found


def same_base(one: str, other: str) -> bool:
    """Whether two names (folders or hub ids) lead to one base: by name, or by the content of its weights."""
    if one == other:
        return True
    folders = Path(one), Path(other)
    if not all(folder.is_dir() for folder in folders):
        return False
    files = [sorted(folder.glob("*.safetensors")) for folder in folders]
    return bool(files[0]) and [sha256_of(f) for f in files[0]] == [sha256_of(f) for f in files[1]]


def is_head(name: str) -> bool:
    """Whether a tensor belongs to the layer whose size is the number of labels."""
    return bool(set(name.split(".")) & _HEADS)


def take_over(model: Any, earlier: Earlier, base: str, label_names: Sequence[str]) -> None:
    """Put the earlier adapter into ``model``, which has a new one of the same shape.

    Its head goes on where the labels are the same ones in the same order, or are not known and the sizes fit; else the
    head stays as it was drawn.

    Raises:
        ConfigError: another base or another shape; the message has the options that fit.
    """
    import peft

    own, theirs = model.peft_config["default"], earlier.config
    if not same_base(theirs.base_model_name_or_path, base):
        raise ConfigError(
            f"method.init_from={earlier.given} is an adapter of {theirs.base_model_name_or_path}, and the model is {base}.\n"
            "Expected the same base.\nSet model to it."
        )
    words = [
        f"method.{key}={_word(getattr(theirs, key))}" for key in _SHAPING if getattr(own, key) != getattr(theirs, key)
    ]
    starts = own.init_lora_weights, theirs.init_lora_weights
    if starts[0] != starts[1] and set(CHANGES_BASE) & set(starts):
        words.append(f"method.init_lora_weights={_word(starts[1])}")
    if words:
        raise ConfigError(
            f"method.init_from={earlier.given}: its adapter has another shape.\nExpected the options that it was trained with."
            f"\nSet {' '.join(words)}"
        )
    fresh, state = peft.get_peft_model_state_dict(model, save_embedding_layers=False), earlier.state
    head = [name for name in fresh if is_head(name)]
    keeps = keeps_head(earlier, label_names) and all(n in state and state[n].shape == fresh[n].shape for n in head)
    if not keeps:
        state = {name: value for name, value in state.items() if not is_head(name)} | {n: fresh[n] for n in head}
    odd = sorted(
        n for n in state.keys() | fresh.keys() if n not in state or n not in fresh or state[n].shape != fresh[n].shape
    )
    if odd and theirs.task_type != own.task_type:
        raise ConfigError(
            f"method.init_from={earlier.given}: it was trained for {theirs.task_type}, this run for {own.task_type}, and {len(odd)} tensors of "
            f"its adapter have no place, such as {odd[0]}.\nExpected an adapter of layers that both models have.\nTrain both with "
            "the same method.target_modules, such as [query,value]."
        )
    if odd:
        raise ConfigError(
            f"method.init_from={earlier.given}: its adapter is on other layers; {len(odd)} tensors differ, such as {odd[0]}.\n"
            f"Expected the same layers.\nSet method.target_modules, method.top_k and method.modules_to_save to what it was "
            f"trained with ({_word(theirs.target_modules)})."
        )
    if next(model.parameters()).device.type != "meta":  # a plan needs the shapes alone
        told = ("; its head too" if keeps else "; the head is new") if head else ""
        log.info("going on from the adapter of %s%s", earlier.given, told)
        peft.set_peft_model_state_dict(model, state)


def keeps_head(earlier: Earlier, label_names: Sequence[str]) -> bool:
    """Whether the earlier head means the same labels, as far as is known."""
    return earlier.label_names is None or earlier.label_names == tuple(label_names)


def _word(value: Any) -> str:
    if isinstance(value, set | list | tuple):
        return "[" + ",".join(sorted(map(str, value))) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
