"""ms-swift's adapters: LoRA, AdaLoRA, VeRA; and GaLore and LISA."""

from collections.abc import Mapping
from typing import Any

from weitiao.converting.adapters import lora_dropout
from weitiao.converting.rules import At, Found, Refusal, Rule, Rules, ignored, named, only_if, refused, to
from weitiao.converting.tool import Rest
from weitiao.converting.trainer import SPEED
from weitiao.converting.values import is_off, names, number, said, text, whole, yes


def kind(top: Mapping[str, Any]) -> str:
    """The method: `tuner_type`, before version 4 `train_type` or `sft_type`."""
    return str(next((top[name] for name in ("tuner_type", "train_type", "sft_type") if name in top), "lora"))


def _is(*kinds: str) -> Any:
    return lambda top: kind(top) in kinds


def _has_4_bits(top: Mapping[str, Any]) -> bool:
    return not is_off(top.get("quant_bits"))


def _targets(at: At) -> Found:
    found = names(at.value)
    if any(name.startswith("all-") for name in found) and found != ["all-linear"]:
        raise Refusal("weitiao knows all-linear and names of modules", ("method.target_modules",))
    return Found("mapped", {"method.target_modules": "all-linear" if found == ["all-linear"] else found})


def _start(at: At) -> Found:
    value = str(at.value).lower()
    known = {"true": True, "false": False, "gaussian": "gaussian", "pissa": "pissa", "olora": "olora"}
    if value.startswith("pissa_niter"):
        return Found("differs", {"method.init_lora_weights": "pissa"}, "an exact SVD, not an iterated one")
    if value not in known:
        raise Refusal(f"weitiao has no start {said(at.value)}", ("method.init_lora_weights",))
    return Found("mapped", {"method.init_lora_weights": known[value]})


def adapters(at: At) -> Found:
    found = at.value if isinstance(at.value, list) else [at.value]
    if len(found) != 1 or kind(at.top) != "lora":
        raise Refusal("weitiao goes on from one LoRA adapter", ("method.init_from",))
    return Found("mapped", {"method.init_from": text(found[0])}, "it must have the same shape")


def _galore(at: At) -> Found:
    if is_off(at.value):
        return Found("ignored", {}, "off")
    if kind(at.top) != "full":
        raise Refusal("GaLore is for full fine-tuning")
    return Found("mapped", {"method.galore_rank": whole(at.top.get("galore_rank", 128))})


def _lisa(at: At) -> Found:
    if is_off(at.value):
        return Found("ignored", {}, "off")
    return Found("mapped", {"method.lisa_layers": whole(at.value)})


def _lora_alone(rule: Rule, nothing: str) -> Rule:
    def read(at: At) -> Found:
        if kind(at.top) == "lora":
            return rule.read(at)
        if kind(at.top) == "adalora" and str(at.value).lower() != nothing:
            raise Refusal("weitiao's AdaLoRA does not have it")
        return Found("ignored", {}, "belongs to LoRA, which this run does not use")

    return Rule(f"{rule.becomes}; refused with AdaLoRA", read)


_ADAPTER: Rules = {
    **named({"modules_to_save": names}),
    "target_modules": Rule("`method.target_modules`", _targets),
    "target_regex": to("method.target_modules", text, note="a regular expression"),
}
_LORA: Rules = {
    **named({"lora_rank": whole}),
    "lorap_lr_ratio": to("method.loraplus_lr_ratio", number),
    **refused("weitiao adapts modules, not parameters", "target_parameters"),
    **ignored("adapters have fp32 master weights", "lora_dtype"),
}
_START = Rule("`method.init_lora_weights`; refused: loftq, lora-ga and others", _start)
# Of LoRA's options ms-swift gives these to AdaLoRA, too; the values are the ones that ask for nothing.
_LORA_ALONE = {
    "lora_bias": (to("method.bias", text), "none"),
    "use_rslora": (to("method.use_rslora", yes), "false"),
    "use_dora": (to("method.use_dora", yes), "false"),
    "init_weights": (_START, "true"),
    "init_lora_weights": (_START, "true"),
}
_ADALORA = {
    "adalora_target_r": "target_r", "adalora_init_r": "init_r", "adalora_tinit": "tinit", "adalora_tfinal": "tfinal",
    "adalora_deltaT": "deltaT", "adalora_beta1": "beta1", "adalora_beta2": "beta2", "adalora_orth_reg_weight": "orth_reg_weight",
}  # fmt: skip
_VERA = {"vera_rank": "r", "vera_projection_prng_key": "projection_prng_key", "vera_d_initial": "d_initial"}
_GALORE: Rules = {
    "galore_rank": Rule("`method.galore_rank`", lambda at: Found("mapped", {"method.galore_rank": whole(at.value)})),
    "galore_update_proj_gap": to("method.galore_gap", whole),
    "galore_scale": to("method.galore_scale", number),
    **refused("weitiao projects every matrix of the layers", "galore_target_modules galore_with_embedding"),
    **refused("weitiao has GaLore's standard projection", "galore_proj_type", off=("std",)),
    **refused("weitiao has no quantized GaLore", "galore_quantization galore_proj_quant"),
    **ignored("belongs to quantized GaLore", "galore_proj_bits galore_proj_group_size galore_cos_threshold galore_gamma_proj "
              "galore_queue_size"),
    **ignored(SPEED, "galore_optim_per_parameter"),
}  # fmt: skip

ADAPTERS: Rules = {
    **only_if(_is("lora", "adalora", "vera"), "belongs to an adapter, and this run trains fully", _ADAPTER),
    **only_if(_is("lora"), "belongs to LoRA, which this run does not use", _LORA),
    **only_if(_is("lora", "adalora"), "belongs to LoRA, which this run does not use",
              {**named({"lora_alpha": number}), "lora_dropout": lora_dropout(_has_4_bits)}),
    **{name: _lora_alone(rule, nothing) for name, (rule, nothing) in _LORA_ALONE.items()},
    **only_if(_is("adalora"), "belongs to AdaLoRA", {name: to(f"method.{path}", number) for name, path in _ADALORA.items()}),
    **only_if(_is("vera"), "belongs to VeRA", {name: to(f"method.{path}", number) for name, path in _VERA.items()}),
    **only_if(lambda top: not is_off(top.get("use_galore")), "belongs to GaLore, which is off", _GALORE),
    **only_if(lambda top: not is_off(top.get("lisa_activated_layers")), "belongs to LISA, which is off",
              {"lisa_step_interval": to("method.lisa_steps", whole)}),
    "use_galore": Rule("`method.galore_rank`; refused with adapters", _galore),
    "lisa_activated_layers": Rule("`method.lisa_layers`", _lisa),
}  # fmt: skip


def adapter_defaults(top: Mapping[str, Any], rest: Rest, title: str) -> None:
    """What ms-swift does with an adapter, and with GaLore, unless an option says otherwise."""
    default = f"default of {title}"
    if kind(top) == "lora":
        rest.default("method.r", 8, default)
    if kind(top) == "lora" and _has_4_bits(top):
        rest.ask("method.lora_dropout", f"{title} drops 0.05, and weitiao has no dropout on a base in 4 bits: give 0")
    elif kind(top) in ("lora", "adalora"):
        rest.default("method.lora_dropout", 0.05, default)
    if kind(top) == "adalora":
        rest.default("method.tinit", 0, default)
        rest.default("method.tfinal", 0, default)
    if kind(top) == "full" and not is_off(top.get("use_galore")):
        rest.default("method.galore_gap", 50, default)
        rest.default("method.galore_scale", 1.0, default)
