"""Activation offloading: what the forward pass keeps waits in the host's memory until the backward pass needs it.

Pinned buffers and a second stream let both ways run beside the computation, as in torchtune's and TRL's OffloadActivations.
A storage goes once, however many operations keep it. Weights stay; so does what the last layer and the head keep, which is
needed first. With gradient checkpointing that leaves each layer's input to travel. The values come back to the bit.
"""

import weakref
from collections import deque
from typing import Any

import torch
from torch import nn

from weitiao.kernels.frozen_layers import layers
from weitiao.kernels.remake import Kept, keep

SMALLEST_BYTES = 4096  # smaller storages stay
IN_FLIGHT = 5  # storages that may still be on their way to the host: a host that runs ahead must not keep more
AHEAD = 2  # storages that are fetched before they are asked for


class _Storage:
    """All values of one storage: on the device, in the host's memory, or both."""

    def __init__(self, flat: torch.Tensor, order: "list[weakref.ref[_Storage]]") -> None:
        self.flat: torch.Tensor | None = flat
        self.count, self.dtype = flat.numel(), flat.dtype
        self.host: torch.Tensor | None = None
        self.ready: Any = None  # the event after which ``flat`` is whole again
        self.order, self.place = order, len(order)
        order.append(weakref.ref(self))


class Offload:
    """In a ``with`` block around a forward pass, what autograd keeps goes to the host. On the meta device it is counted alone.

    Raises:
        ConfigError: the model has no single stack of layers.
    """

    def __init__(self, model: nn.Module, smallest: int = SMALLEST_BYTES) -> None:
        self.model, self.smallest = model, smallest
        self.host_bytes = 0  # most that one forward pass has sent
        self._stream: Any = None
        self._sends = False
        self._copying: deque[tuple[_Storage, Any]] = deque()
        layers(model)[1][-1].register_forward_pre_hook(self._last_layer)

    def _last_layer(self, *_: Any) -> None:
        self._sends = False

    def __enter__(self) -> None:
        # read now: a method may put other values in their place between steps
        own = [*self.model.parameters(), *self.model.buffers()]
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        self._device = own[0].device
        if self._device.type == "cuda" and self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        self._known: dict[tuple[int, int], tuple[weakref.ref[Any], weakref.ref[_Storage]]] = {}
        self._order: list[weakref.ref[_Storage]] = []
        self._sent, self._sends = 0, True
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        self._copying.clear()  # the last few stay: the backward pass begins with them
        self._known.clear()
        self.host_bytes = max(self.host_bytes, self._sent)
        del self._hooks

    def _pack(self, tensor: torch.Tensor) -> Any:
        storage = tensor.untyped_storage()
        stays = not self._sends or storage.nbytes() < self.smallest or storage._cdata in self._own
        if stays or tensor.device != self._device or type(tensor) is not torch.Tensor:
            return keep(tensor)
        key = storage._cdata, tensor._version
        reference, known = self._known.get(key, (None, None))
        stored = known() if known is not None and reference is not None and reference() is storage else None
        if stored is None:
            stored = self._send(tensor.detach().as_strided((storage.nbytes() // tensor.element_size(),), (1,), 0))
            self._known[key] = weakref.ref(storage), weakref.ref(stored)
        if stored.dtype != tensor.dtype:
            return keep(tensor)
        return stored, tensor.size(), tensor.stride(), tensor.storage_offset()

    def _send(self, flat: torch.Tensor) -> _Storage:
        stored, event = _Storage(flat, self._order), None
        if self._stream is not None:
            stored.host = torch.empty(stored.count, dtype=stored.dtype, pin_memory=True)
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                stored.host.copy_(flat, non_blocking=True)
                event = self._stream.record_event()
        elif not flat.is_meta:
            stored.host = flat.clone()
        self._sent += flat.nbytes
        self._copying.append((stored, event))
        if len(self._copying) > IN_FLIGHT:
            gone, event = self._copying.popleft()
            if event is not None:  # or its memory would be another's before it is read
                torch.cuda.current_stream(self._device).wait_event(event)
            gone.flat = None
        return stored

    def _fetch(self, stored: _Storage) -> None:
        # of the computing stream's memory: freed there, in its order
        stored.flat = flat = torch.empty(stored.count, dtype=stored.dtype, device=self._device)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                flat.copy_(stored.host, non_blocking=True)  # type: ignore[arg-type]
                stored.ready = self._stream.record_event()
            flat.record_stream(self._stream)  # it may be freed without being asked for
        elif stored.host is not None:
            flat.copy_(stored.host)

    def _unpack(self, packed: Any) -> torch.Tensor:
        if isinstance(packed, Kept):
            return packed.get()
        stored, size, stride, offset = packed
        for place in range(stored.place, max(-1, stored.place - AHEAD - 1), -1):
            if (one := stored.order[place]()) is not None and one.flat is None:
                self._fetch(one)
        if stored.ready is not None:
            torch.cuda.current_stream(self._device).wait_event(stored.ready)
            stored.ready = None
        return stored.flat.as_strided(size, stride, offset)  # type: ignore[no-any-return]
