"""The model of a run as shapes alone, prepared by the same functions as the real one; no weight is read."""

import contextlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from weitiao.config.method import AdaloraConfig, FullConfig
from weitiao.config.run import RunConfig
from weitiao.kernels.checkpointing import checkpoint_layers
from weitiao.kernels.first_token import use_first_token
from weitiao.kernels.frozen_layers import BATCH_KEY, Prefix, depth, layers
from weitiao.kernels.head import fix_chunk
from weitiao.kernels.layers import fuse_layers
from weitiao.kernels.lora import FusedForward, fuse_lora
from weitiao.kernels.offload import Offload
from weitiao.kernels.rows import KnownRows, RowsEmbedding, embedding_names
from weitiao.measure.cost import StepCost, Trace, held_bytes, safetensors_bytes, step_cost, storage_key
from weitiao.methods import METHODS
from weitiao.methods.adalora import IMPORTANCE_BYTES, SMOOTHED_BYTES
from weitiao.planning.rows import keeps_rows_apart
from weitiao.pretrained.architecture import is_fp32, model_type
from weitiao.pretrained.load import load_model, set_dropout
from weitiao.pretrained.locate import locate
from weitiao.pretrained.place import place
from weitiao.rundir.files import size_bytes
from weitiao.training.adapt import count_parameters, lora_base, occurring_rows, packed_layers
from weitiao.training.inputs import Inputs
from weitiao.training.optim import device_bytes, host_bytes
from weitiao.training.unpadding import why_padded


@dataclass(frozen=True)
class Placing:
    """Bytes on the device while the model is placed there (pretrained/place.py), counted by placing its shapes."""

    before: int  # what moves as it is: fp32 parameters that train, buffers
    frozen_peak: int  # frozen parameters, with the one that is being cast or packed
    frozen: int  # as they stay


@dataclass(frozen=True)
class Blueprint:
    """A model on the meta device, ready to be traced."""

    model: Any
    inputs: Inputs
    counts: dict[str, Any]
    frozen_bytes: int  # in the run's compute dtype, without a table of untrained embedding rows
    table_bytes: int  # the checkpoint's embedding, where only the occurring rows are held
    keeps_table: bool  # its other rows are still wanted at the end
    trained: int  # parameters that the optimizer holds: of an embedding the occurring rows
    resting: int  # of them without gradient and moments at a time
    moment_bytes: int  # of the optimizer and of a method's own account
    paged_bytes: int  # of them what lies in the host's memory beside a GPU
    unsaved_bytes: int  # of them what no checkpoint holds
    trained_tensors: int
    largest_trained: int
    loads_bytes: int  # the checkpoint's fp32 parameters
    maps_checkpoint: bool  # it is fp32, and mapped; else it is widened in memory
    placing: Placing
    dtype: torch.dtype
    artifact_bytes: int
    int8_weights: set[int]
    stored_state_bytes: int  # outputs of frozen layers that are kept on disk
    prefix: Prefix | None  # those layers, which the traced model leaves out
    masks_packed_rows: bool  # packed rows are one row with a mask
    padding_free: bool
    notes: tuple[str, ...]
    offload: Offload | None = None

    def cost(self, rows: int, length: int) -> StepCost:
        """One step of a batch of ``rows`` rows, the longest of ``length`` tokens."""
        task = self.inputs.task
        batch = task.shapes(self.inputs.train, rows, length)
        if self.padding_free:
            batch.pop("attention_mask", None)
        if self.stored_state_bytes:
            width = self.model.config.get_text_config().hidden_size
            batch[BATCH_KEY] = torch.zeros(rows, length, width, dtype=self.dtype, device="meta")

        def loss() -> torch.Tensor:
            with self.offload or contextlib.nullcontext():
                return task.loss(self.model, batch)

        return step_cost(
            self.model, loss, self.int8_weights, self.inputs.resolved.device,
            padded="attention_mask" in batch or self.masks_packed_rows,
        )  # fmt: skip

    def whole_cost(self, rows: int, length: int) -> StepCost:
        """As :meth:`cost`, with the frozen layers whose outputs are stored."""
        if self.prefix is None:
            return self.cost(rows, length)
        self.prefix.restore()
        try:
            return replace(self, stored_state_bytes=0, prefix=None).cost(rows, length)
        finally:
            self.prefix.replay()


def draw(config: RunConfig, inputs: Inputs, room_bytes: int | None = None) -> Blueprint:
    """The blueprint of ``config``'s run on these rows, on a device with so much free memory.

    Raises:
        WeitiaoError: what the run itself would refuse.
    """
    options, method = config.train, config.method
    dtype = getattr(torch, inputs.resolved.dtype)
    METHODS[method.type].refuse(method, model_type(config.model), inputs.task.OPTIONS.generates)
    model, new = load_model(
        config.model, inputs.task.AUTO_MODEL, inputs.label_names, inputs.pad_id, inputs.resolved, meta=True
    )
    if options.dropout != "model":
        set_dropout(model, options.dropout)
    method, notes = _planned_method(method, model)
    loads = sum(p.numel() for p in model.parameters()) * 4
    base = locate(config.model)
    model = METHODS[method.type].apply(model, method, new, base)
    counts = count_parameters(model)
    artifact = 0 if method.saves_adapter else _artifact_bytes(model, False)
    if options.sparse_embedding and not config.data.streaming:
        occurring_rows(model, method, inputs)
    placing = _place(model, config, inputs)
    if method.saves_adapter:
        artifact = _artifact_bytes(model, True)
    _prepare(model, config, inputs, method)
    if inputs.resolved.device == "cuda" and room_bytes is not None:
        fix_chunk(model, room_bytes)
    int8 = _fused_weights(model) if options.int8_base else set()
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    resting, moments, paged = _moments(model, config, method, trained)
    ranked = sum(n for name, n in trained.items() if ".lora_" in name) if isinstance(method, AdaloraConfig) else 0
    table, keeps_table = _table(model) if options.sparse_embedding else (0, False)
    frozen = held_bytes(model) - sum(trained.values()) * dtype.itemsize - table * keeps_table
    maps = is_fp32(config.model)
    if not maps:  # then the table is a copy in memory, not the file
        frozen, table = frozen + table * keeps_table, 0
    states, prefix = _stored_states(model, config, inputs, method)
    if method.packs_base and (
        left := sum(p.numel() for p in model.parameters() if p.dim() > 2 and not p.requires_grad)
    ):
        notes += (
            f"the experts' {left / 1e9:.1f} billion weights are no linear layers: they stay in {8 * dtype.itemsize} bits",
        )
    if paged:
        notes += (
            f"paged_adamw_8bit: {paged / 1e9:.1f} GB of moments lie in the host's memory, pinned; their way is not timed",
        )
    model.train()
    is_free = why_padded(model, config, inputs, stores_prefix=states > 0) is None
    return Blueprint(
        model=model, inputs=inputs, counts=counts, frozen_bytes=frozen, table_bytes=table, keeps_table=keeps_table, trained=sum(trained.values()), resting=resting, moment_bytes=moments + ranked * (SMOOTHED_BYTES + IMPORTANCE_BYTES), paged_bytes=paged, unsaved_bytes=ranked * IMPORTANCE_BYTES, trained_tensors=len(trained), largest_trained=max(trained.values(), default=0), loads_bytes=loads, maps_checkpoint=maps, placing=placing, dtype=dtype, artifact_bytes=artifact,
        int8_weights=int8, stored_state_bytes=states, prefix=prefix, notes=notes,
        offload=Offload(model) if options.activation_offloading else None,
        masks_packed_rows=options.packing and not (is_free or keeps_rows_apart(config.model, inputs.resolved)),
        padding_free=is_free,
    )  # fmt: skip


def _planned_method(method: Any, model: Any) -> tuple[Any, tuple[str, ...]]:
    """The options to plan with, and what a reader of the plan should know of them."""
    notes: tuple[str, ...] = ()
    if method.top_k == "auto":
        method = method.model_copy(update={"top_k": len(layers(model)[1])})
        notes = ("top_k=auto is chosen from the weights: planned with all layers, the most it can be",)
    method, own = METHODS[method.type].planned(method)
    return method, notes + own


def _place(model: Any, config: RunConfig, inputs: Inputs) -> Placing:
    """As in the run, on shapes."""
    model.to("meta")  # the index of embedding rows was made of values
    before = held_bytes(model) - sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    with Trace() as trace:
        place(model, inputs.resolved.dtype, "meta", packed_layers(model, config))
    return Placing(before, frozen_peak=trace.peak_bytes, frozen=trace.held_bytes)


def _prepare(model: Any, config: RunConfig, inputs: Inputs, method: Any) -> None:
    """Dtypes and kernels as in the run."""
    options, dtype = config.train, getattr(torch, inputs.resolved.dtype)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    inputs.task.prepare_model(model)
    if options.first_token:
        use_first_token(model)
    if options.fused_layers or options.liger is True:  # Liger's functions keep what ours keep
        fuse_layers(model, remakes=options.remakes)
    if options.fused_lora and method.fuses_lora:
        # int8 packs a weight twice, which weighs what bf16 did
        fuse_lora(model, "nf4" if lora_base(config) == "nf4" else "as it is")
    if options.checkpointed_layers is not None:
        checkpoint_layers(model, options.checkpointed_layers)


def _moments(model: Any, config: RunConfig, method: Any, trained: dict[str, int]) -> tuple[int, int, int]:
    """(parameters without moments at a time, bytes of the moments, of them what lies in a GPU's host)."""
    active = dict(trained)
    if isinstance(method, FullConfig) and method.lisa_layers is not None:
        METHODS[method.type].step_hooks(method, model, trained, total_steps=0, seed=config.train.seed)  # type: ignore[arg-type]
        active = {name: n for name, n in trained.items() if model.get_parameter(name).requires_grad}
    resting, projected = sum(trained.values()) - sum(active.values()), 0
    if (projection := METHODS[method.type].projection(method, model)) is not None:
        projected = projection.moment_bytes(tuple(model.get_parameter(name).shape) for name in projection.names)
        active = {name: n for name, n in active.items() if name not in projection.names}
    tables = embedding_names(model)
    paged = host_bytes(active, config.train, tables)
    return resting, device_bytes(active, config.train, tables) + paged + projected, paged


def _table(model: Any) -> tuple[int, bool]:
    """(bytes of the checkpoint's embedding where only the occurring rows are held, whether its other rows are wanted)."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, RowsEmbedding | KnownRows):
        return 0, False
    return 4 * len(embedding.place) * embedding.weight.shape[1], isinstance(embedding, RowsEmbedding)


def _stored_states(model: Any, config: RunConfig, inputs: Inputs, method: Any) -> tuple[int, Prefix | None]:
    """Bytes of the outputs of frozen layers on disk, where the run keeps them; the model then starts above those layers."""
    options = config.train
    if not isinstance(method.top_k, int):
        return 0, None
    prefix = Prefix(model, depth(model, method.top_k))
    chosen = prefix.frozen and options.cache_prefix and not config.data.streaming and options.dropout == 0
    if not chosen or not prefix.is_exact():
        return 0, None
    prefix.replay()
    tokens = len(inputs.train.flat) + len(inputs.eval.flat)
    width, item = int(model.config.get_text_config().hidden_size), int(getattr(torch, inputs.resolved.dtype).itemsize)
    return tokens * width * item, prefix


def _fused_weights(model: Any) -> set[int]:
    fused = (module.__dict__.get("forward") for module in model.modules())
    return {storage_key(f.base.weight) for f in fused if isinstance(f, FusedForward) and f.packed is None}


def _artifact_bytes(model: Any, is_adapter: bool) -> int:
    """What the method's ``save`` writes: fp32 values, small files; VeRA's shared matrices as computed with."""
    with tempfile.TemporaryDirectory() as folder:
        if is_adapter:
            import peft

            own = model.peft_config["default"]
            # peft hands a prompt over as values, and there are none here
            state = {n: p for n, p in model.named_parameters() if p.requires_grad}
            if not own.is_prompt_learning:
                state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
            model.create_or_update_model_card(folder)
            own.save_pretrained(folder)
        else:
            state = model.state_dict()
            model.config.save_pretrained(folder)
        kept = {storage_key(tensor): name for name, tensor in state.items()}  # tied ones are written once
        written = {name: state[name] if is_adapter or not state[name].is_floating_point() else state[name].float() for name in kept.values()}  # fmt: skip
        return safetensors_bytes(written, {"format": "pt"}) + size_bytes(Path(folder))
