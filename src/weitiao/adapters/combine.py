"""combine(adapters): several LoRA adapters of one base into one, through peft, saved as plain peft reads it."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from weitiao.errors import ConfigError
from weitiao.methods.parent import CHANGES_BASE, COMBINED, WEIGHTS, Earlier, find, is_head, same_base
from weitiao.pretrained.load import load_model
from weitiao.pretrained.locate import NO_FOREIGN_CODE
from weitiao.pretrained.resolve import Resolved
from weitiao.rundir.files import new_folder, to_json, write_atomic
from weitiao.rundir.folder import RunDir

log = logging.getLogger("weitiao")
Combination = Literal["cat", "svd", "linear", "ties", "dare_linear", "dare_ties"]
_PRUNES = ("ties", "dare_linear", "dare_ties")
_AUTO = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}


def combine(
    adapters: Sequence[str | Path],
    *,
    output: str | Path,
    weights: Sequence[float] | None = None,
    type: Combination = "cat",
    density: float | None = None,
    head: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Combine adapters of one base; writes adapter, tokenizer and combined.json, and scores them on each run's rows.

    Args:
        adapters: folders of finished LoRA runs, or of adapters.
        output: a new folder.
        weights: one for each adapter; without them equal ones with the sum 1.
        type: cat (the exact weighted sum, ranks add up), svd (its best approximation of the largest rank), linear (sums of
            A and of B: rough), ties (arXiv 2306.01708), dare_linear and dare_ties (arXiv 2311.03099).
        density: share of the values that ties and dare keep.
        head: the adapter whose head is kept. Without it the heads are averaged by weight, where the labels are the same.
        seed: of what dare drops.

    Returns:
        combined.json: {"adapters": [{"path", "adapter_sha256", "weight", "labels"}], "type", "density", "head", "base",
        "label_names", "scores": [{"run", "rows", "metrics_before", "metrics"}]}. A run is scored where its labels are those
        of the combined head.

    Raises:
        ConfigError: the adapters cannot be combined in this way.
    """
    chosen = list(weights) if weights is not None else [1 / max(1, len(adapters))] * len(adapters)
    _refuse_wrong_options(adapters, chosen, type, density, Path(output))
    found = [find(given, "adapters combine") for given in adapters]
    _refuse_unlike(found, type)
    owner = _head_owner(found, [str(given) for given in adapters], head)
    names = (found[0] if owner is None else owner).label_names or ()
    state, config = _combined(found, chosen, kind=type, density=density, seed=seed, names=names)
    state |= _heads(found, chosen, owner)
    config.modules_to_save = (owner or found[0]).config.modules_to_save
    result: dict[str, Any] = {
        "adapters": [
            {**one.facts, "weight": weight, "labels": list(one.label_names or ())}
            for one, weight in zip(found, chosen, strict=True)
        ],
        "type": type,
        "density": density,
        "head": _told_head(state, owner),
        "base": config.base_model_name_or_path,
        "label_names": list(names),
    }
    with new_folder(Path(output)) as folder:
        _save(folder, state, config, found[0])
        result["scores"] = _scores(found, folder, config, names)
        write_atomic(folder / COMBINED, to_json(result))
    return result


def _refuse_wrong_options(
    adapters: Sequence[Any], weights: list[float], kind: str, density: float | None, output: Path
) -> None:
    if len(adapters) < 2 or len(weights) != len(adapters):
        raise ConfigError(
            f"Found {len(adapters)} adapters and {len(weights)} weights.\nExpected two adapters or more, and a weight for each.\n"
            "Example: weitiao adapters combine runs/a runs/b --weights 0.5,0.5 --output runs/both"
        )
    if not all(map(math.isfinite, weights)):
        raise ConfigError(f"--weights {weights}.\nExpected finite numbers.\nExample: --weights 0.7,0.3")
    if kind not in get_args(Combination):
        raise ConfigError(f"--type {kind}.\nExpected one of: {', '.join(get_args(Combination))}.\nUse --type cat.")
    if (kind in _PRUNES) != (density is not None) or (density is not None and not 0 < density <= 1):
        raise ConfigError(
            f"--type {kind} with {'no --density' if density is None else f'--density {density:g}'}.\nExpected a density above 0 "
            f"and at most 1 with {', '.join(_PRUNES)} alone.\nExample: --type ties --density 0.5"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} already exists and is not empty.\nExpected a new folder.\nName another --output.")


def _refuse_unlike(found: list[Earlier], kind: str) -> None:
    """Raise ConfigError for adapters whose sum means nothing, or that peft would combine wrongly."""
    configs = [one.config for one in found]
    for one, config in zip(found, configs, strict=True):
        odd = {
            f"init_lora_weights={config.init_lora_weights}, which changed its base": config.init_lora_weights
            in CHANGES_BASE,
            "use_dora, whose magnitudes have no sum": config.use_dora,
            f"bias={config.bias}, and biases belong to the base": config.bias != "none",
            f"ranks that differ by layer, which --type {kind} does not take": bool(config.rank_pattern)
            and kind not in ("cat", "svd"),
        }
        if reasons := [reason for reason, holds in odd.items() if holds]:
            raise ConfigError(
                f"{one.given} has {reasons[0]}.\nExpected plain LoRA adapters.\nTrain it with method.type=lora, or use --type svd."
            )
        if not same_base(config.base_model_name_or_path, configs[0].base_model_name_or_path):
            raise ConfigError(
                f"{one.given} is an adapter of {config.base_model_name_or_path}, {found[0].given} one of "
                f"{configs[0].base_model_name_or_path}.\nExpected one base.\nLeave one of them out."
            )
        if (config.task_type, config.layers_to_transform) != (configs[0].task_type, configs[0].layers_to_transform):
            raise ConfigError(
                f"{one.given} and {found[0].given} are of different tasks or layers.\nExpected the same task and method.top_k.\n"
                "Leave one of them out."
            )
    if configs[0].task_type not in _AUTO:
        raise ConfigError(
            f"{found[0].given} is an adapter for {configs[0].task_type}.\nExpected one for {' or '.join(_AUTO)}.\nCombine others."
        )
    if kind not in ("cat", "svd") and len({config.r for config in configs}) > 1:
        raise ConfigError(
            f"The adapters have the ranks {', '.join(str(config.r) for config in configs)}.\nExpected equal ranks with --type "
            f"{kind}.\nUse --type cat or --type svd."
        )


def _head_owner(found: list[Earlier], given: list[str], head: str | None) -> Earlier | None:
    """Whose modules are kept; None to average them. Raises ConfigError where neither is possible."""
    if head is not None:
        if head not in given:
            raise ConfigError(f"--head {head}.\nExpected one of: {', '.join(given)}.\nName one of the adapters.")
        return found[given.index(head)]
    whole = [{name: value.shape for name, value in one.state.items() if ".lora_" not in name} for one in found]
    labels = [one.label_names for one in found]
    if any(shapes != whole[0] for shapes in whole) or (whole[0] and (None in labels or len(set(labels)) > 1)):
        told = "; ".join(
            f"{one.given}: {'not known' if one.label_names is None else ', '.join(one.label_names)}" for one in found
        )
        raise ConfigError(
            f"The labels are not the same ({told}).\nExpected the same labels in the same order, whose heads can be averaged.\n"
            f"Say whose head is kept: --head {given[0]}"
        )
    return None


def _combined(
    found: list[Earlier], weights: list[float], kind: str, density: float | None, seed: int, names: Sequence[str]
) -> tuple[dict[str, Any], Any]:
    """peft's combination: the tensors of A and B by their names in a file, and the config that belongs to them."""
    import peft
    import torch

    first = found[0].config
    resolved = Resolved("cpu", "float32", "eager", {})
    base, _ = load_model(first.base_model_name_or_path, _AUTO[first.task_type], names, None, resolved)
    # without a task peft adds no head of its own; a plain start and scale are those of the result
    bare = [
        replace(one.config, task_type=None, modules_to_save=None, init_lora_weights=True, eva_config=None)
        for one in found
    ]
    labels = [f"adapter_{i}" for i in range(len(found))]
    model = peft.get_peft_model(base, bare[0], labels[0], autocast_adapter_dtype=False)
    for label, config in zip(labels[1:], bare[1:], strict=True):
        model.add_adapter(label, config, autocast_adapter_dtype=False)
    for label, one in zip(labels, found, strict=True):
        own = {name: value for name, value in one.state.items() if ".lora_" in name}
        peft.set_peft_model_state_dict(model, own, label)
        # peft's result has the scale lora_alpha / r = 1, which this option would turn into another one
        model.peft_config[label].use_rslora = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options: dict[str, Any] = {} if density is None else {"density": density}
        if kind == "svd":
            options["svd_full_matrices"] = False  # as whole ones peft cannot take a rank above a layer's smaller side
        try:
            model.add_weighted_adapter(labels, weights, "default", combination_type=kind, **options)
        except ValueError as error:
            raise ConfigError(
                f"peft cannot combine them: {error}\nExpected adapters on common layers.\nUse --type cat."
            ) from None
    result = replace(
        model.peft_config["default"],
        task_type=first.task_type,
        base_model_name_or_path=first.base_model_name_or_path,
        inference_mode=True,
    )
    state = dict(peft.get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False))
    if kind == "svd":  # a layer has no more singular vectors than its smaller side
        state = {name: _padded(name, value, result.r) for name, value in state.items()}
    return state, result


def _padded(name: str, value: Any, rank: int) -> Any:
    """A (rank x in) or B (out x rank) of the rank that the config names: the products are the same."""
    import torch

    rows = name.split(".lora_")[1].startswith(("A", "embedding_A"))
    missing = rank - value.shape[0 if rows else 1]
    return torch.nn.functional.pad(value, (0, 0, 0, missing) if rows else (0, missing))


def _heads(found: list[Earlier], weights: list[float], owner: Earlier | None) -> dict[str, Any]:
    """The modules that were saved whole: the owner's, or their average by weight."""
    if owner is not None:
        return {name: value for name, value in owner.state.items() if ".lora_" not in name}
    states, total = [one.state for one in found], sum(weights)
    names = [name for name in states[0] if ".lora_" not in name]
    if names and not total:
        raise ConfigError("The weights have the sum 0.\nExpected another sum.\nSay whose head is kept: --head ADAPTER")
    return {
        name: sum(state[name] * (weight / total) for state, weight in zip(states, weights, strict=True))
        for name in names
    }


def _told_head(state: dict[str, Any], owner: Earlier | None) -> str:
    if not any(is_head(name) or ".lm_head." in name for name in state if ".lora_" not in name):
        return "none"
    return "averaged by weight" if owner is None else f"of {owner.given}"


def _save(folder: Path, state: dict[str, Any], config: Any, first: Earlier) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS, {"format": "pt"})
    config.save_pretrained(folder)
    if (first.folder / "tokenizer_config.json").is_file():
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(first.folder, **NO_FOREIGN_CODE).save_pretrained(folder)


def _scores(found: list[Earlier], folder: Path, config: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """What the saved combination does on each run's own evaluation rows."""
    from weitiao.effects.parent import rescored
    from weitiao.methods import lora

    runs: list[RunDir] = [one.run for one in found if one.run is not None and one.label_names == tuple(names)]
    if not runs:
        return []
    model = lora.load(folder, _AUTO[config.task_type], names, config.base_model_name_or_path)
    return [scores for run in runs if (scores := rescored(run, model)) is not None]
