"""AdaLoRA through peft: ranks are cut where they matter least (Zhang et al. 2023, arXiv 2303.10512).

peft's allocator reads gradients after the optimizer's step and masks the singular values then. It is handed the
optimizer's fp32 masters, so what it sees and masks does not depend on the dtype that the model computes in.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from weitiao.config.method import AdaloraConfig
from weitiao.errors import ConfigError
from weitiao.methods import defaults, lora
from weitiao.methods.modules import pattern, target_modules, task_type, upper_layers, whole_modules, wrap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# As for most methods:
refuse = defaults.refuse
refuse_shapes = defaults.refuse_shapes
short_run_factor = defaults.short_run_factor
rate_factor = defaults.rate_factor
projection = defaults.projection
LEARNING_RATE = 5e-4  # inside the paper's 2e-4 to 2e-3 on GLUE, and LoRA's own
_INITIAL, _FINAL = 10, 3  # a tenth before cutting, three tenths after it: about the paper's shares on MNLI and SQuAD


def learning_rate(config: AdaloraConfig) -> float:
    """The default."""
    return LEARNING_RATE


def apply(
    model: "PreTrainedModel", config: AdaloraConfig, new_parameters: Sequence[str], base: str
) -> "PreTrainedModel":
    """As :func:`weitiao.methods.lora.apply`. How many steps there will be is told to :func:`step_hooks`."""
    import peft

    whole = whole_modules(model, config.modules_to_save, new_parameters)
    targets = target_modules(model, config.target_modules, whole)
    adapter = peft.AdaLoraConfig(
        init_r=config.init_r,
        target_r=config.target_r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        layers_to_transform=upper_layers(model, config.top_k, targets),
        exclude_modules=pattern(whole) if whole else None,
        deltaT=config.deltaT,
        beta1=config.beta1,
        beta2=config.beta2,
        orth_reg_weight=config.orth_reg_weight,
        total_step=1,  # peft wants one before the number of steps is known
        modules_to_save=whole or None,
        task_type=task_type(model),
        base_model_name_or_path=base,
    )
    wrapped = wrap(model, adapter, config.target_modules, whole)
    for name, parameter in wrapped.named_parameters():
        if ".ranknum." in name:  # a constant, which peft lets train on the meta device
            parameter.requires_grad_(False)
    return wrapped


def save(model: "PreTrainedModel", folder: Path, state_dict: "dict[str, torch.Tensor] | None" = None) -> None:
    """As :func:`weitiao.methods.lora.save`; ranks whose singular value is 0 are left out, which changes no result."""
    # handed over, not left to peft: it takes a layer without ranks for a sharded one, and warns
    values = model.state_dict() if state_dict is None else state_dict
    model.peft_config["default"].rank_pattern = {  # type: ignore[attr-defined]
        _inner(name): (value != 0).flatten().tolist() for name, value in values.items() if ".lora_E." in name
    }
    lora.save(model, folder, values)


def load(
    folder: Path, auto_class: str, label_names: Sequence[str], base: str, dtype: Any = "auto"
) -> "PreTrainedModel":
    """As :func:`weitiao.methods.lora.load`."""
    with warnings.catch_warnings():
        # peft 0.21 takes the rank pattern for one of LoRA, says that it is ignored, and reads it nevertheless
        warnings.filterwarnings("ignore", message="The following rank_pattern keys", category=RuntimeWarning)
        return lora.load(folder, auto_class, label_names, base, dtype)


def refuse_steps(config: AdaloraConfig, total_steps: int) -> None:
    """Raise ConfigError where no steps are left to cut ranks in."""
    window(config, total_steps)


def hooks_option(config: AdaloraConfig) -> str | None:
    """The allocator's."""
    return "method.type=adalora"


def planned(config: AdaloraConfig) -> tuple[AdaloraConfig, tuple[str, ...]]:
    """The options as they are."""
    return config, ("adalora: planned with init_r ranks in every layer, the most it stores",)


def step_hooks(
    config: AdaloraConfig, model: Any, masters: "dict[str, torch.nn.Parameter]", total_steps: int, seed: int
) -> "Ranks":
    """The allocator of this run. Raises ConfigError where its steps leave no time to cut."""
    tinit, tfinal = window(config, total_steps)
    own = model.peft_config["default"]
    own.total_step, own.tinit, own.tfinal = total_steps, tinit, tfinal
    return Ranks(model, masters)


def window(config: AdaloraConfig, total_steps: int) -> tuple[int, int]:
    """Steps before and after the cuts. Raises ConfigError where that leaves no time to cut."""
    tinit = total_steps // _INITIAL if config.tinit is None else config.tinit
    tfinal = total_steps * _FINAL // 10 if config.tfinal is None else config.tfinal
    if tinit + tfinal + 2 > total_steps:
        raise ConfigError(
            f"method.tinit={tinit} and method.tfinal={tfinal}, and the run has {total_steps} steps.\n"
            "Expected two steps more than both, so that ranks can be cut in between.\nLower them, or train longer."
        )
    return tinit, tfinal


class Ranks:
    """peft's rank allocator, working on the masters."""

    def __init__(self, model: Any, masters: "dict[str, torch.nn.Parameter]") -> None:
        self.config = model.peft_config["default"]
        self.allocator = model.base_model.rankallocator
        # peft's names lack the outer wrapper; the order, which breaks ties, stays the model's
        self.masters = {_inner(name): master for name, master in masters.items() if ".lora_" in name}
        self.parameters = {_inner(name): p for name, p in model.named_parameters() if ".lora_" in name}
        self.kept: dict[str, list[bool]] | None = None

    def before(self, step: int) -> Iterable[str]:
        """Nothing leaves training."""
        self.step = step
        return ()

    def add_gradients(self, loss_scale: "torch.Tensor | None" = None) -> None:
        """The penalty of :meth:`AdaLoraModel.forward`, which sees no loss here: mean of |A A^T - I| and |B^T B - I|."""
        import torch

        factors = {n: m for n, m in self.masters.items() if ".lora_A." in n or ".lora_B." in n}
        if not self.config.orth_reg_weight:
            return
        for name, factor in factors.items():
            rows = factor.detach() if ".lora_A." in name else factor.detach().T  # [r, features]
            error = rows @ rows.T - torch.eye(len(rows), device=rows.device)
            # the gradient of |R R^T - I| in closed form; it is 0 where the norm is
            gradient = 2 * error @ rows / torch.linalg.norm(error).clamp(min=1e-30)
            gradient = gradient * (self.config.orth_reg_weight / len(factors))
            gradient = gradient if loss_scale is None else gradient * loss_scale
            parameter = self.parameters[name]
            if parameter.grad is not None:
                parameter.grad.add_((gradient if ".lora_A." in name else gradient.T).to(parameter.dtype))

    def updated(self, names: Iterable[str]) -> None:
        """Importance of these weights."""
        if self.step < self.config.total_step - self.config.tfinal:
            own = [_inner(name) for name in names]
            seen = {name: self.masters[name] for name in own if name in self.masters}
            self.allocator.update_ipt(_named({name: m for name, m in seen.items() if m.grad is not None}))

    def after(self, step: int) -> "Mapping[str, torch.Tensor]":
        """Mask what the budget of this step leaves out: :meth:`AdaLoraModel.update_and_allocate` without its first line."""
        end = self.config.total_step - self.config.tfinal
        budget, cuts = self.allocator.budget_schedule(step)
        named = _named(self.masters)
        if not self.allocator.exp_avg_ipt and step <= end:  # every step so far was left out
            return {}
        if (step < end and cuts) or step == end:
            self.kept = self.allocator.mask_to_budget(named, budget)
        elif step > end and self.kept:
            self.allocator.mask_using_rank_pattern(named, self.kept)
        else:
            return {}
        if step == end:
            self.allocator.reset_ipt()
        return {_outer(name): master.detach() for name, master in self.masters.items() if ".lora_E." in name}

    def state(self) -> "dict[str, torch.Tensor]":
        """Smoothed importances, and which ranks are left."""
        import torch

        found = {f"ranks|{key}|{n}": t for key in _SMOOTHED for n, t in getattr(self.allocator, key).items()}
        return found | {f"ranks|kept|{n}": torch.tensor(k) for n, k in (self.kept or {}).items()}

    def load_state(self, state: "Mapping[str, torch.Tensor]", step: int) -> None:
        """The inverse of :meth:`state`."""
        self.allocator.reset_ipt()
        for full, tensor in state.items():
            _, key, name = full.split("|")
            if key == "kept":
                self.kept = {**(self.kept or {}), name: tensor.tolist()}
            else:
                tensor = tensor.to(self.masters[name].device)
                getattr(self.allocator, key)[name] = tensor
                self.allocator.ipt[name] = tensor  # only whether it is there is read


_SMOOTHED = ("exp_avg_ipt", "exp_avg_unc")
SMOOTHED_BYTES = 8  # of each of the adapter's parameters: these two, in fp32
IMPORTANCE_BYTES = 4  # of each: its last importance, which no checkpoint holds
_OUTER = "base_model.model."


def _inner(name: str) -> str:
    return name.removeprefix(_OUTER)


def _outer(name: str) -> str:
    return _OUTER + name


def _named(parameters: "dict[str, torch.nn.Parameter]") -> Any:
    """What the allocator reads of a model: its parameters by name."""
    return SimpleNamespace(named_parameters=parameters.items)
