"""The model ready to train: method applied, kernels in place, compute dtype set, master weights made."""

import contextlib
import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed

from weitiao.config.method_section import MethodSection
from weitiao.config.run import RunConfig
from weitiao.config.train import TrainConfig
from weitiao.data.encode import Encoded
from weitiao.errors import ConfigError, ModelError
from weitiao.kernels.checkpointing import checkpoint_layers
from weitiao.kernels.first_token import use_first_token
from weitiao.kernels.frozen_layers import Prefix, depth, layers
from weitiao.kernels.gpu import takes_liger, use_liger
from weitiao.kernels.layers import fuse_layers
from weitiao.kernels.lora import Base, fuse_lora, layers_to_pack
from weitiao.kernels.offload import Offload
from weitiao.kernels.rows import RowsEmbedding, embedding_names, keep_known_rows, shrink_embedding
from weitiao.methods import METHODS, rate_factor
from weitiao.methods.eva import start_from_data
from weitiao.methods.galore import GaLore
from weitiao.methods.parent import find
from weitiao.methods.starts import starts_on
from weitiao.pretrained.in_file import LayersInFile
from weitiao.pretrained.load import drops, load_model, set_dropout
from weitiao.pretrained.locate import locate
from weitiao.pretrained.place import cast_shared_buffers, place, streamed
from weitiao.training.events import EventLog
from weitiao.training.inputs import Inputs
from weitiao.training.masters import Masters, masters_of
from weitiao.training.optim import MasterAdamW
from weitiao.training.probe import probe_top_k
from weitiao.training.shards import local, settle, start_reads_layers
from weitiao.training.stored_layers import with_states
from weitiao.training.unpadding import without_padding
from weitiao.training.world import World

PACKED_WITH = (8, 64)  # rows and tokens that an int8 base sees first
log = logging.getLogger("weitiao")


@dataclass(frozen=True)
class Adapted:
    """The model ready to train."""

    model: Any
    masters: Masters
    projection: GaLore | None  # of the moments of some parameters
    rows: RowsEmbedding | None  # the embedding, where only the rows that occur train
    counts: dict[str, Any]
    inputs: Inputs
    prefix: Prefix | None = None  # frozen layers whose outputs are stored
    offload: Offload | None = None  # of what a forward pass keeps

    def optimizer(self, config: RunConfig, total_steps: int) -> MasterAdamW:
        """The optimizer of a run of so many steps."""
        method = config.method
        hooks = METHODS[method.type].step_hooks(
            method, self.model, self.masters.tensors, total_steps=total_steps, seed=config.train.seed
        )
        return MasterAdamW(
            self.masters,
            config.train,
            rate_factor=partial(rate_factor, method),
            projection=self.projection,
            hooks=hooks,
            in_fp32=embedding_names(self.model),  # as in the paper: rare rows have moments that blocks would lose
        )


def adapt(config: RunConfig, inputs: Inputs, world: World, events: EventLog, *, resuming: bool = False) -> Adapted:
    """The model on its device: method applied, kernels in place, compute dtype set, sharded if asked.

    Raises:
        ConfigError: the model cannot take the method.  ModelError: it cannot be loaded.
    """
    options, resolved, device = config.train, inputs.resolved, world.accelerator.device
    set_seed(options.seed)  # before loading, so that a new head starts the same for every method
    held = _layers_in_file(config) if world.shards else None
    starts_at = torch.device("cpu") if world.shards else device  # a device that shares must not hold the whole
    model, new = _load(config, inputs, held)
    method = _with_probed_layers(config.method, model, inputs, starts_at)
    model = _apply(method, model, new, config, inputs, device=starts_at)
    counts = count_parameters(model)
    if resolved.device == "cuda":
        is_liger = takes_liger(options, "cuda", model.config.model_type)
        counts["layer_functions"] = "liger" if is_liger else "weitiao" if options.fused_layers else "model"
    rows = None
    if options.sparse_embedding and inputs.stream is None:
        rows = occurring_rows(model, method, inputs)
    if lora_base(config) == "int8":  # layer by layer from the file, before the others are copied
        _fuse_adapters(model, config, resolved.dtype, resuming)
        _pack_with_tokens(model, inputs)
    if not world.shards:
        place(model, resolved.dtype, device, packed_layers(model, config))
    if method.starts_from_rows and starts_at.type != "cpu":
        _start_from_rows(model, config, inputs)
        counts = _with_trained_ranks(counts, model)
    counts |= _facts(method, counts)
    _use_kernels(model, config, inputs)
    if world.shards:
        _share_out(model, held, getattr(torch, resolved.dtype), world)
    projection = METHODS[method.type].projection(method, model)
    masters = masters_of(model.named_parameters(), options, getattr(torch, resolved.dtype))
    if resolved.dtype == "float16":
        _refuse_infinite(model, config.model)
    prefix = None
    if isinstance(method.top_k, int) and not world.shards:
        prefix, inputs = _stored_prefix(model, method.top_k, options, inputs, events)
    if without_padding(model, config, inputs, stores_prefix=prefix is not None):
        counts["padding_free"] = True
        inputs = replace(inputs, train=replace(inputs.train, packed=True))
    offload = Offload(model) if options.activation_offloading else None
    return Adapted(model, masters, projection, rows, counts, inputs=inputs, prefix=prefix, offload=offload)


def _refuse_infinite(model: Any, name: str) -> None:
    """Raise ModelError where a weight is beyond float16's largest number."""
    beyond = [
        n for n, p in model.named_parameters() if p.is_floating_point() and not torch.isfinite(local(p.detach())).all()
    ]
    if beyond:
        raise ModelError(
            f"{len(beyond)} of the weights of '{name}' hold values that are infinite in float16, the first in {beyond[0]}.\nExpected "
            "values up to 65,504.\nCompute in fp32 (train.bf16=false, train.fp16=false) or in bfloat16."
        )


def _layers_in_file(config: RunConfig) -> LayersInFile | None:
    """What leaves the layers in their file until they are shared out; None, with the reason in the log, where that cannot be."""
    if why := start_reads_layers(config):
        log.info("FSDP2: each process reads the whole model first: %s", why)
        return None
    return LayersInFile()


def _share_out(model: Any, held: LayersInFile | None, dtype: torch.dtype, world: World) -> None:
    """FSDP2, layer by layer: no process ever holds more than its part and one layer."""
    if held is not None:
        held.refuse_early_reading(model)
    cast_shared_buffers(model, dtype)
    share = (world.rank, world.size)
    ready = partial(settle, held=held, dtype=dtype, device=world.accelerator.device, share=share)
    world.shard(model, list(layers(model)[1]), ready)
    log.info("FSDP2: the weights are shared out among %d processes", world.size)


def _load(config: RunConfig, inputs: Inputs, held: LayersInFile | None) -> tuple[Any, tuple[str, ...]]:
    """The model in fp32, and the parameters that the checkpoint lacked."""
    model, new = load_model(
        config.model, inputs.task.AUTO_MODEL, inputs.label_names, inputs.pad_id, inputs.resolved, in_file=held
    )
    if new:
        log.info("newly initialised, so trained and saved: %s", ", ".join(new))
    if config.train.dropout != "model":
        set_dropout(model, config.train.dropout)
    if takes_liger(config.train, inputs.resolved.device, model.config.model_type):
        use_liger(model)
        log.info("norms and gated layers: Liger's")
    return model, new


def _with_probed_layers(method: MethodSection, model: Any, inputs: Inputs, device: torch.device) -> MethodSection:
    """``top_k=auto`` as a number."""
    if method.top_k != "auto":
        return method
    with streamed(model, device):
        return method.model_copy(update={"top_k": probe_top_k(model, inputs.task, inputs.train, inputs.pad_id, device)})


def _apply(
    method: MethodSection, model: Any, new: tuple[str, ...], config: RunConfig, inputs: Inputs, device: torch.device
) -> Any:
    """The model with the method, and a head that starts and trains in the task's units."""
    task = inputs.task
    task.start_head(model, new, inputs.train)
    starts: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if method.reads_weights and device.type != "cpu":
        starts = starts_on(device, getattr(torch, inputs.resolved.dtype), method.packs_base)
    with starts:
        model = METHODS[method.type].apply(model, method, new, locate(config.model))
    if line := task.scale_head(model, inputs.train.labels):
        log.info("%s", line)
    if method.starts_from_rows and device.type == "cpu":  # elsewhere once the model is there
        _start_from_rows(model, config, inputs)
    return model


def _start_from_rows(model: Any, config: RunConfig, inputs: Inputs) -> None:
    start_from_data(model, inputs.train, inputs.pad_id, config.train.seed)


def _with_trained_ranks(counts: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """``counts``, made before the model was placed and packed, after a start has given layers other ranks."""
    trained = count_parameters(model)["num_trainable_params"]
    total = counts["num_params"] + trained - counts["num_trainable_params"]
    return {"num_params": total, "num_trainable_params": trained, "trainable_percent": 100 * trained / total}


def count_parameters(model: torch.nn.Module) -> dict[str, Any]:
    """Parameters, trainable ones and their share. The frozen twin that peft keeps of a saved module is not counted."""
    own = [p for name, p in model.named_parameters() if ".original_module." not in name]
    total, trainable = sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)
    return {"num_params": total, "num_trainable_params": trainable, "trainable_percent": 100 * trainable / total}


def _facts(method: MethodSection, counts: dict[str, Any]) -> dict[str, Any]:
    """What else the summary says of the trained model before it trains."""
    facts: dict[str, Any] = {} if method.top_k is None else {"top_k": method.top_k}
    if method.parent is not None:
        facts["init_from"] = find(method.parent, "method.init_from").facts
    log.info(
        "trainable params: %s || all params: %s || trainable%%: %.4f",
        *(f"{counts[key]:,}" for key in ("num_trainable_params", "num_params")),
        counts["trainable_percent"],
    )
    return facts


def _use_kernels(model: Any, config: RunConfig, inputs: Inputs) -> None:
    """Our own functions where they equal the model's, each with a line in the log."""
    options = config.train
    if line := inputs.task.prepare_model(model):
        log.info("%s", line)
    if options.first_token and use_first_token(model):
        log.info("last layer: computed for the first token, the only one that the classifier reads")
    checkpointing = options.checkpointed_layers
    own = options.fused_layers and not takes_liger(options, inputs.resolved.device, model.config.model_type)
    if own and (count := fuse_layers(model, remakes=options.remakes)):
        log.info("norms, gated layers and activations: %d with our own functions", count)
    if options.fused_lora and config.method.fuses_lora and lora_base(config) != "int8":
        _fuse_adapters(model, config, inputs.resolved.dtype)
    if checkpointing is not None:
        count = checkpoint_layers(model, checkpointing, drops(model))
        log.info("gradient checkpointing: %d of %d layers keep their inputs alone", count, len(layers(model)[1]))
    if options.compile:
        _compile(model)


def _compile(model: Any) -> None:
    """Layer by layer: they share their code, so one is compiled and the others take it. In place: names in the state dict stay."""
    try:
        parts = list(layers(model)[1])
    except ConfigError:  # no single stack of layers
        parts = [model]
    for part in parts:
        part.compile(dynamic=True)
    log.info("torch.compile: %s", f"each of {len(parts)} layers" if len(parts) > 1 else "the model")


def _fuse_adapters(model: Any, config: RunConfig, dtype: str, resuming: bool = False) -> None:
    base = lora_base(config)
    fused, left = fuse_lora(model, base, getattr(torch, dtype))
    if base == "int8" and not fused and not resuming:  # a run of an earlier version goes on as it began
        raise ConfigError(
            f"train.int8_base=true, and none of the {left} adapted layers is a plain linear one.\nExpected linear layers, whose "
            "products go into int8.\nLeave train.int8_base out."
        )
    log.info("LoRA layers: %d with the fused kernel (base %s), %d with peft's own", fused, base, left)


def _pack_with_tokens(model: Any, inputs: Inputs) -> None:
    """Let an int8 base meet its first inputs: always the same ones, so that a resumed run packs as the first one did."""
    rows, length = PACKED_WITH[0], min(PACKED_WITH[1], inputs.max_length)
    if inputs.stream is None:
        flat = torch.from_numpy(inputs.train.flat[: rows * length].astype(np.int64))
        ids = flat.view(rows, length) if len(flat) == rows * length else flat[None, :length]
    else:
        ids = torch.randint(model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    was_training = model.training
    with torch.no_grad():
        model.eval()(input_ids=ids)
    model.train(was_training)


def packed_layers(model: Any, config: RunConfig) -> list[torch.nn.Linear]:
    """The layers that are held in 4 bits. Raises ConfigError where adapted ones cannot be."""
    if lora_base(config) != "nf4":
        return []
    found, left = layers_to_pack(model)
    if left:
        raise ConfigError(
            f"method.load_in_4bit=true (qlora), and {left} adapted layers of this model are no plain linear ones.\nExpected "
            "linear layers, which are held in 4 bits.\nUse method.type=lora."
        )
    return found


def lora_base(config: RunConfig) -> Base:
    """How the frozen weights under adapters are held."""
    if config.method.packs_base:
        return "nf4"
    return "int8" if config.train.int8_base else "as it is"


def occurring_rows(model: Any, method: MethodSection, inputs: Inputs) -> RowsEmbedding | None:
    """The embedding cut down to the rows that occur: trained ones are returned, of a frozen one the others are let go."""
    ids = [inputs.pad_id, *np.unique(inputs.train.flat).tolist()]
    if (rows := shrink_embedding(model, ids)) is not None:
        log.info("embedding: the %s of %s rows that occur are trained", f"{len(rows.rows):,}", f"{len(rows.place):,}")
    elif method.saves_adapter:  # which is saved without the embedding
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
    chosen = prefix.frozen > 0 and options.cache_prefix and inputs.stream is None and options.dropout == 0
    if not chosen or not prefix.is_exact():
        log.info("frozen layers: %d, computed in every step", prefix.frozen)
        return None, inputs

    def stored(what: str, rows: Encoded) -> Encoded:
        def progress(done: int, total: int) -> None:
            events.write("progress", what=f"frozen layers of the {what} rows", done=done, total=total)

        return with_states(
            prefix,
            inputs.task,
            rows,
            pad_id=inputs.pad_id,
            tokens_per_batch=options.eval_tokens_per_batch,
            progress=progress,
        )

    inputs = replace(inputs, train=stored("training", inputs.train), eval=stored("evaluation", inputs.eval))
    prefix.replay()
    log.info("frozen layers: %d, computed once and read from disk", prefix.frozen)
    return prefix, inputs
