"""The model ready to train: method applied, kernels in place, compute dtype set, optimizer made."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from weitiao.config.run import RunConfig
from weitiao.config.train import TrainConfig
from weitiao.data.encode import Encoded
from weitiao.errors import ConfigError
from weitiao.kernels.first_token import use_first_token
from weitiao.kernels.frozen_layers import Prefix, depth, layers
from weitiao.kernels.gpu import use_liger
from weitiao.kernels.int8 import is_supported as int8_is_supported
from weitiao.kernels.layers import fuse_layers
from weitiao.kernels.lora import Base, fuse_lora
from weitiao.kernels.rows import RowsEmbedding, keep_known_rows, shrink_embedding
from weitiao.methods import METHODS, rate_factor
from weitiao.methods.eva import start_from_data
from weitiao.methods.galore import GaLore
from weitiao.methods.parent import find
from weitiao.pretrained.load import load_model, set_dropout, to_compute_dtype
from weitiao.pretrained.locate import locate
from weitiao.pretrained.resolve import Resolved
from weitiao.training.events import EventLog
from weitiao.training.inputs import Inputs
from weitiao.training.optim import MasterAdamW
from weitiao.training.probe import probe_top_k
from weitiao.training.stored_layers import with_states
from weitiao.training.world import World

log = logging.getLogger("weitiao")


@dataclass(frozen=True)
class Adapted:
    """The model ready to train."""

    model: Any
    optimizer: MasterAdamW
    rows: RowsEmbedding | None
    counts: dict[str, Any]
    inputs: Inputs
    prefix: Prefix | None = None


def count_parameters(model: torch.nn.Module) -> dict[str, Any]:
    """Parameters, trainable ones and their share. The frozen twin that peft keeps of a saved module is not counted."""
    own = [p for name, p in model.named_parameters() if ".original_module." not in name]
    total, trainable = sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)
    return {"num_params": total, "num_trainable_params": trainable, "trainable_percent": 100 * trainable / total}


def adapt(config: RunConfig, inputs: Inputs, accelerator: Accelerator, events: EventLog, world: World) -> Adapted:
    """The model on its device: method applied, kernels in place, compute dtype set, sharded if asked, optimizer made."""
    options, resolved = config.train, inputs.resolved
    sharded = world.size > 1 and world.strategy == "fsdp2"
    if options.int8_base and (problem := _int8_problem(config, resolved)):
        raise ConfigError(
            f"train.int8_base=true, and {problem}.\nExpected LoRA with the fused kernel on a CPU with VNNI.\n"
            "Leave train.int8_base out."
        )
    if options.stochastic_rounding and resolved.dtype != "bfloat16":
        raise ConfigError(
            f"train.stochastic_rounding=true, and the run computes in {resolved.dtype}.\nExpected bfloat16 weights to round "
            "to.\nSet train.bf16=true if this machine has bf16, or leave train.stochastic_rounding out."
        )
    if sharded and lora_base(config) == "nf4":
        raise ConfigError(
            "method.load_in_4bit=true with FSDP2, which cannot share packed weights out.\nExpected DDP or one process.\n"
            "Use train.distributed=ddp."
        )
    if sharded and getattr(config.method, "galore_rank", None) is not None:
        raise ConfigError(
            "method.galore_rank with FSDP2, whose processes hold parts of a matrix.\nExpected DDP or one process.\n"
            "Use train.distributed=ddp."
        )
    if options.optimizer_in_backward and world.size > 1:
        raise ConfigError(
            f"train.optimizer_in_backward=true with {world.size} processes, whose gradients are summed first.\nExpected one "
            "process.\nLeave train.optimizer_in_backward out."
        )
    set_seed(options.seed)  # before loading, so that a new head starts the same for every method
    model, new = load_model(config.model, inputs.task.AUTO_MODEL, inputs.label_names, inputs.pad_id, resolved)
    if new:
        log.info("newly initialised, so trained and saved: %s", ", ".join(new))
    if options.dropout != "model":
        set_dropout(model, options.dropout)
    if options.liger:
        use_liger(model, resolved.device)
    method = config.method
    if method.top_k == "auto":
        top_k = probe_top_k(model, inputs.task, inputs.train, inputs.pad_id)
        method = method.model_copy(update={"top_k": top_k})
    if hasattr(inputs.task, "start_head"):
        inputs.task.start_head(model, new, inputs.train.labels)
    model = METHODS[method.type].apply(model, method, new, locate(config.model))
    if hasattr(inputs.task, "scale_head"):
        log.info("%s", inputs.task.scale_head(model, inputs.train.labels))
    if getattr(method, "init_lora_weights", None) == "eva":
        start_from_data(model, inputs.train, inputs.pad_id, options.seed)
    counts = count_parameters(model) | ({} if method.top_k is None else {"top_k": method.top_k})
    if (earlier := getattr(method, "init_from", None)) is not None:
        counts["init_from"] = find(earlier, "method.init_from").facts
    log.info(
        "trainable params: %s || all params: %s || trainable%%: %.4f",
        *(f"{counts[key]:,}" for key in ("num_trainable_params", "num_params")),
        counts["trainable_percent"],
    )
    rows = None
    if options.sparse_embedding and inputs.stream is None:
        rows = occurring_rows(model, config.method.type, inputs)
    model = model.to(accelerator.device)
    to_compute_dtype(model, resolved.dtype)
    if told := inputs.task.prepare_model(model):
        log.info("%s", told)
    if options.first_token and use_first_token(model):
        log.info("last layer: computed for the first token, the only one that the classifier reads")
    if options.fused_layers and not options.liger and (count := fuse_layers(model)):
        log.info("norms, gated layers and activations: %d with our own functions", count)
    if options.fused_lora and config.method.type == "lora":
        base = lora_base(config)
        fused, left = fuse(model, base)
        log.info("LoRA layers: %d with the fused kernel (base %s), %d with peft's own", fused, base, left)
    if options.compile:
        model.compile(dynamic=True)  # in place: names in the state dict stay
    if sharded:
        world.shard(model, list(layers(model)[1]))
        log.info("FSDP2: the weights are shared out among %d processes", world.size)
    galore = GaLore.of(method, model) if method.type == "full" else None
    optimizer = MasterAdamW(
        model.named_parameters(), options, getattr(torch, resolved.dtype), partial(rate_factor, config.method), galore
    )
    prefix = None
    if isinstance(method.top_k, int) and not sharded:
        prefix, inputs = _stored_prefix(model, method.top_k, options, inputs, events)
    return Adapted(model, optimizer, rows, counts, inputs, prefix)


def fuse(model: Any, base: Base) -> tuple[int, int]:
    """:func:`fuse_lora`. Raises ConfigError where layers are left that cannot be held in 4 bits."""
    fused, left = fuse_lora(model, base)
    if base == "nf4" and left:
        raise ConfigError(
            f"method.load_in_4bit=true (qlora), and {left} of {fused + left} adapted layers of this model are no plain linear "
            "ones.\nExpected linear layers, which are held in 4 bits.\nUse method.type=lora."
        )
    return fused, left


def lora_base(config: RunConfig) -> Base:
    """How the frozen weights under adapters are held."""
    if getattr(config.method, "load_in_4bit", False):
        return "nf4"
    return "int8" if config.train.int8_base else "as it is"


def occurring_rows(model: Any, method: str, inputs: Inputs) -> RowsEmbedding | None:
    """The embedding cut down to the rows that occur: trained ones are returned, of a frozen one the others are let go."""
    ids = [inputs.pad_id, *np.unique(inputs.train.flat).tolist()]
    if (rows := shrink_embedding(model, ids)) is not None:
        log.info("embedding: the %s of %s rows that occur are trained", f"{len(rows.rows):,}", f"{len(rows.place):,}")
    elif method != "full":  # an adapter is saved without the embedding
        known = keep_known_rows(model, [*ids, *np.unique(inputs.eval.flat).tolist()])
        if known is not None:
            log.info(
                "embedding: the %s of %s rows that occur are held", f"{len(known.weight):,}", f"{len(known.place):,}"
            )
    return rows


def _stored_prefix(
    model: Any, top_k: int, options: TrainConfig, inputs: Inputs, events: EventLog
) -> tuple[Prefix | None, Inputs]:
    """The frozen layers replaced by their stored outputs, where that is exact."""
    prefix = Prefix(model, depth(model, top_k))
    if prefix.frozen == 0 or not options.cache_prefix or inputs.stream is not None or options.dropout != 0:
        log.info("frozen layers: %d, computed in every step", prefix.frozen)
        return None, inputs

    def stored(what: str, rows: Encoded) -> Encoded:
        def progress(done: int, total: int) -> None:
            events.write("progress", what=f"frozen layers of the {what} rows", done=done, total=total)

        return with_states(prefix, inputs.task, rows, inputs.pad_id, options.eval_tokens_per_batch, progress)

    inputs = replace(inputs, train=stored("training", inputs.train), eval=stored("evaluation", inputs.eval))
    prefix.replay()
    log.info("frozen layers: %d, computed once and read from disk", prefix.frozen)
    return prefix, inputs


def _int8_problem(config: RunConfig, resolved: Resolved) -> str | None:
    if config.method.type != "lora" or not config.train.fused_lora:
        return "full fine-tuning needs the base's own weights" if config.method.type != "lora" else "fused_lora is off"
    if resolved.device != "cpu":
        return f"the run computes on {resolved.device}"
    return None if int8_is_supported() else "this CPU or this torch has no int8 product"
