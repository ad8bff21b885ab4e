"""TRL: the keys of `trl sft --config`, read in its source of July 2026 (1.10)."""

from collections.abc import Mapping
from typing import Any

from weitiao.converting import trainer
from weitiao.converting.adapters import lora_dropout, packed_base
from weitiao.converting.rows import form_of, hub_name, place
from weitiao.converting.rules import At, Found, Refusal, Rule, Rules, ignored, named, only_if, ours, refused, to
from weitiao.converting.tool import Rest, Tool, shared_defaults
from weitiao.converting.trainer import SCORED, SPEED, attention
from weitiao.converting.values import is_off, mapping, names, number, text, whole, yes

TITLE = "TRL"
_SPLIT = "weitiao reads the split train of a hub data set; files may be given one by one"


def _is_lora(top: Mapping[str, Any]) -> bool:
    return not is_off(top.get("use_peft")) and yes(top["use_peft"])


def _has_4_bits(top: Mapping[str, Any]) -> bool:
    return not is_off(top.get("load_in_4bit"))


def _source(name: str, at: At, data_files: Any = None) -> str:
    local = place(name, at.folder)
    if local is not None and data_files is None:
        form, first = form_of(local, "sft")
        if form is not None and form.kind != "sft":
            columns = ", ".join(first)
            raise Refusal(f"weitiao finds no conversations in {local}, columns {columns}", ("data.train",))
        return local
    if data_files is not None:
        raise Refusal("files of a data set: give them by their paths", ("data.train",))
    return hub_name(name)


def _dataset(at: At) -> Found:
    if at.top.get("datasets"):
        return Found("ignored", {}, "datasets counts instead")
    found = _source(text(at.value), at)
    return Found(
        "mapped",
        {"data.train": found},
        "" if place(found, at.folder) else "from Hugging Face: check its columns with weitiao data check",
    )


def _entry(at: At) -> Found:
    return Found("mapped", {"data.train": [_source(text(at.value), at, at.beside.get("data_files"))]})


def _method(at: At) -> Found:
    return Found("mapped", {"method.type": "lora" if yes(at.value) else "full"})


def _targets(at: At) -> Found:
    found = names(at.value)
    whole_text = found[0] if len(found) == 1 and ("all-linear" in found or not found[0].isidentifier()) else found
    return Found("mapped", {"method.target_modules": whole_text})


def _bits(at: At) -> Found:
    if not yes(at.value):
        return Found("ignored", {}, "off")
    return packed_base(at, _is_lora)


def _nested(at: At) -> Found:
    if _has_4_bits(at.top) and not yes(at.value):
        return Found("differs", {}, "weitiao quantizes the scales as well")
    return Found("ignored", {}, "as here")


def _length(at: At) -> Found:
    if at.value is None:
        raise Refusal("without a limit; weitiao needs one", ("data.max_length",))
    return Found("mapped", {ours("max_length"): whole(at.value)})


def _longest(top: Mapping[str, Any]) -> int:
    """Tokens of a packed row, under either name of the key."""
    return whole(top.get("max_length") or top.get("max_seq_length") or 1024)


def _batch(at: At) -> Found:
    rows = whole(at.value)
    if is_off(at.top.get("packing")):
        return Found("mapped", {"train.per_device_train_batch_size": rows})
    tokens = rows * _longest(at.top)
    return Found("mapped", {"train.tokens_per_batch": tokens}, "packed: rows times max_length")


def _packing(at: At) -> Found:
    if yes(at.value) and at.top.get("packing_strategy", "bfd") == "wrapped":
        return Found(
            "differs", {"train.packing": True}, "packed rows stay whole and do not see each other, unlike wrapped ones"
        )
    return Found("mapped", {"train.packing": yes(at.value)})


def _completion_only(at: At) -> Found:
    return Found("mapped", {"data.train_on_prompt": not yes(at.value)})


def _assistant_only(at: At) -> Found:
    if yes(at.value):
        return Found("mapped", {"data.train_on_prompt": False})
    return Found("ignored", {}, "false asks for nothing: see completion_only_loss")


def _chat_template(at: At) -> Found:
    local = place(text(at.value), at.folder)
    if local is None or not local.endswith((".jinja", ".jinja2", ".j2", ".txt")):
        raise Refusal("the template of another model: save it as a file", ("data.chat_template",))
    return Found("mapped", {"data.chat_template": local})


def _dtype(at: At) -> Found:
    value = str(at.value).rpartition(".")[2]
    if value == "float16":
        raise Refusal("weights in float16 without masters; train.fp16 has fp32 masters", ("train.fp16", "train.bf16"))
    if value == "bfloat16":
        return Found("differs", {"train.bf16": True}, "weitiao keeps fp32 master weights")
    return Found("ignored", {}, "weitiao keeps fp32 master weights, and computes as bf16 and fp16 say")


def _environment(at: At) -> Found:
    mapping(at.value)
    return Found("ignored", {}, "set such variables where you start weitiao")


_LORA: Rules = {
    **named({"lora_r": whole, "lora_alpha": number, "lora_modules_to_save": names}),
    "lora_dropout": lora_dropout(_has_4_bits),
    "lora_target_modules": Rule("`method.target_modules`", _targets),
    "use_rslora": to("method.use_rslora", yes),
    "use_dora": to("method.use_dora", yes),
    **refused("weitiao adapts modules, not parameters", "lora_target_parameters"),
    **refused("weitiao learns answers", "lora_task_type", off=("CAUSAL_LM",)),
}
_DATA: Rules = {
    "dataset_name": Rule("`data.train`: a local path or a hub name", _dataset),
    "datasets[].path": Rule("`data.train`, one of several", _entry),
    **refused(_SPLIT, "dataset_config datasets[].name datasets[].data_dir datasets[].data_files"),
    **refused(_SPLIT, "dataset_train_split datasets[].split", off=("train",)),
    **refused("weitiao takes #N rows of a source", "datasets[].fraction"),
    **ignored("columns are recognised by their names", "datasets[].columns"),
    **ignored("evaluation rows are held out of the training rows; give others with data.eval", "dataset_test_split"),
    "test_split_size": Rule("`data.test_size`", lambda at: Found("mapped", {"data.test_size": number(at.value)})),
    **ignored("rows are read whole, and cached on disk", "dataset_streaming streaming"),
    **ignored("only how rows are tokenized", "dataset_num_proc pad_to_multiple_of ignore_bias_buffers"),
    **refused("plain text is not learnt: weitiao learns conversations", "dataset_text_field", off=("text",)),
    **refused("rows are prepared by weitiao", "dataset_kwargs"),
    "max_length": Rule("`data.max_length`; refused: null", _length, null=True),
    "max_seq_length": Rule("`data.max_length`; refused: null", _length, null=True),
    **refused("weitiao cuts the end", "truncation_mode", off=("keep_start",)),
    **ignored("weitiao always shuffles", "shuffle_dataset"),
    "packing": Rule("`train.packing`; differs with `packing_strategy` wrapped", _packing),
    **ignored("read with packing", "packing_strategy"),
    **ignored(SCORED, "eval_packing"),
    "padding_free": to(
        "train.padding_free", lambda value: "auto" if yes(value) else False, note="auto where it is true"
    ),
    "completion_only_loss": Rule("the opposite of `data.train_on_prompt`", _completion_only),
    "assistant_only_loss": Rule("true: `data.train_on_prompt` is false", _assistant_only),
    "chat_template_path": Rule("`data.chat_template`, where it is a file", _chat_template),
    **refused("the tokenizer's own tokens are kept", "eos_token"),
    **ignored("padding carries no loss and is not seen", "pad_token"),
    **refused("weitiao has the cross entropy alone", "loss_type", off=("nll", "chunked_nll")),
    **refused("weitiao has no such loss", "router_aux_loss_coef", off=(0.001,)),
}
_MODEL: Rules = {
    **named({"model_name_or_path": text}),
    "activation_offloading": to("train.activation_offloading", yes),
    "use_peft": Rule("`method.type`: lora or full", _method),
    "load_in_4bit": Rule("`method.load_in_4bit`", _bits),
    "attn_implementation": Rule("`train.attention`, of `eager` and `sdpa`; the others give the same result", attention),
    "dtype": Rule("`train.bf16` of `bfloat16`: differs, with fp32 masters; refused: `float16`", _dtype),
    "torch_dtype": Rule("as dtype", _dtype),
    **refused("weitiao packs the base in 4 bits (NF4) or not at all", "load_in_8bit", settles=("method.load_in_4bit",)),
    **refused("weitiao packs in NF4", "bnb_4bit_quant_type", off=("nf4",)),
    "use_bnb_nested_quant": Rule("differs where false: weitiao quantizes the scales as well", _nested),
    **ignored(SPEED, "bnb_4bit_quant_storage"),
    **refused("weitiao reads the newest version of a model", "model_revision", off=("main",)),
    **refused("models are loaded by weitiao", "model_init_kwargs"),
    **ignored("weitiao runs no code of a model", "trust_remote_code"),
    "env": Rule("ignored: set such variables where you start weitiao", _environment),
}
_ELSEWHERE = (
    "beta epsilon num_generations max_completion_length reward_funcs reward_weights reward_model_name_or_path ref_model desirable_weight "
    "undesirable_weight label_smoothing precompute_ref_log_probs sync_ref_model max_prompt_length center_rewards_coefficient loss_weights "
    "f_divergence_type reference_free rpo_alpha use_vllm vllm_mode num_iterations scale_rewards"
)
RULES: Rules = {
    **trainer.rules(),
    **_MODEL,
    **_DATA,
    **only_if(_is_lora, "belongs to LoRA, and this run trains fully", _LORA),
    **refused("weitiao learns no preferences or rewards", _ELSEWHERE),
    "per_device_train_batch_size": Rule("the same; with `packing` `train.tokens_per_batch`", _batch),
}


def finish(top: Mapping[str, Any], options: Mapping[str, Any], rest: Rest) -> None:
    """What TRL does unless a key says otherwise."""
    default = f"default of {TITLE}"
    rest.default("task", "causal_lm", f"{TITLE} learns to write")
    rest.default("method.type", "full", f"{default}: use_peft false")
    if _is_lora(top):
        if _has_4_bits(top):
            rest.ask(
                "method.lora_dropout", f"{TITLE} drops 0.05, and weitiao has no dropout on a base in 4 bits: give 0"
            )
        else:
            rest.default("method.lora_dropout", 0.05, default)
        rest.ask("method.target_modules", "peft chooses by the family: of llama, mistral and qwen [q_proj,v_proj]")
    rest.default("data.max_length", 1024, default)
    rest.default("train.learning_rate", 2e-5, default)
    if options.get("train.packing"):
        rest.default("train.tokens_per_batch", 8 * _longest(top), f"{default}: 8 packed rows")
    else:
        rest.default("train.per_device_train_batch_size", 8, default)
    if not options.get("train.fp16"):
        rest.default("train.bf16", True, default)
    rest.default("train.weight_decay", 0.0, default)
    rest.default("train.warmup_ratio", 0.0, default)
    rest.default("train.eval_strategy", "no", default)
    _what_carries_loss(options, rest)
    shared_defaults(TITLE, {"task": "causal_lm", **options}, rest)
    rest.default("output.dir", "trainer_output", default)
    if not top.get("dataset_name") and not top.get("datasets"):
        rest.ask("data.train", "no data set is named")
    if not top.get("model_name_or_path"):
        rest.ask("model", "no model is named")


def _what_carries_loss(options: Mapping[str, Any], rest: Rest) -> None:
    """Without a key TRL learns completions alone of prompt and completion, and every token of messages and texts."""
    sources = options.get("data.train")
    forms = [
        form_of(one, "sft")[0] for one in ([sources] if isinstance(sources, str) else sources or []) if place_here(one)
    ]
    if not forms or any(form is None for form in forms):
        reason = f"{TITLE} learns every token of messages and only the completion of prompt and completion; these columns are not known"
        rest.ask("data.train_on_prompt", reason)
        return
    split = {form is not None and form.columns[:2] == ("prompt", "completion") for form in forms}
    if len(split) > 1:
        rest.ask("data.train_on_prompt", "some sources have prompt and completion, others do not")
        return
    only = split == {True}
    why = "the completion alone of prompt and completion" if only else "every token of messages"
    rest.default("data.train_on_prompt", not only, f"default of {TITLE}: {why}")


def place_here(name: str) -> bool:
    """Whether a source lies on this machine."""
    from pathlib import Path

    return Path(name).exists()


_NO = "weitiao learns answers: trl sft"
TOOL = Tool(
    name="trl",
    title=TITLE,
    rules=RULES,
    finish=finish,
    commands={
        ("trl", "sft"): None,
        ("sft.py",): None,
        **{("trl", name): _NO for name in ("dpo", "grpo", "kto", "reward", "rloo", "orpo", "cpo", "ppo")},
    },
)
