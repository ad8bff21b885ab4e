"""A model whose layers stay in their file until a process asks for its share of them.

For sharded training: what is not in the file (heads, adapters) starts as ever, and a layer's values are read when the layer is
shared out. Until then each of its tensors [N, ...] is N numbers NaN that stand for all: reading one too early shows.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger("weitiao")
_PLAIN = {"F64", "F32", "F16", "BF16"}


class LayersInFile:
    """Opens one model, and knows where the values of its layers lie."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[Path, str, torch.Tensor]] = {}  # by the memory of what stands for a tensor

    def open(
        self, where: str, auto_class: str, attention: str | None, head: dict[str, Any]
    ) -> "tuple[PreTrainedModel, dict[str, Any]]":
        """As transformers' ``from_pretrained`` in fp32, with the same random numbers; whole where its files are not plain.

        Raises:
            OSError, ValueError, KeyError, ModelError: as loading it whole does.
        """
        from weitiao.pretrained.load import _from_pretrained

        made = self._stand_ins(where)
        opened = None if made is None else self._fill(where, auto_class, attention, head, made)
        if opened is None:
            self._places = {}
            log.info(
                "each process reads the whole model: its files do not hold each layer's tensors as the model has them"
            )
            return _from_pretrained(where, auto_class, attention, head)
        return opened

    def __contains__(self, tensor: "torch.Tensor") -> bool:
        """Whether a tensor's values are still in the file."""
        return tensor.untyped_storage().data_ptr() in self._places

    def read(self, tensor: "torch.Tensor", rows: slice, dtype: "torch.dtype") -> "torch.Tensor":
        """The tensor [N, ...] with the values of ``rows``; the other rows are memory that nobody has written to, or read."""
        import torch
        from safetensors import safe_open

        path, name, _ = self._places[tensor.untyped_storage().data_ptr()]
        first = tensor.storage_offset()
        found = torch.empty(tensor.shape, dtype=dtype)
        with safe_open(path, "pt") as file:
            found[rows] = file.get_slice(name)[first + rows.start : first + rows.stop].to(dtype)
        return found

    def refuse_early_reading(self, model: "torch.nn.Module") -> None:
        """Raise ModelError where a start was computed from values that are still in the file."""
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor not in self and bool(tensor.isnan().any()):
                raise ModelError(
                    f"{name} starts with values that are not numbers.\nExpected a start that needs no weights of the layers: "
                    "with FSDP2 they are read last.\nUse train.distributed=ddp."
                )

    def _stand_ins(self, where: str) -> "dict[str, torch.Tensor] | None":
        """For each tensor of the files, one of its shape that takes next to no memory; None where there is one of another kind."""
        import torch
        from huggingface_hub import get_local_safetensors_metadata, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError

        try:
            folder = where
            if not Path(where).is_dir():
                folder = snapshot_download(where, allow_patterns=["*.safetensors", "*.json"], ignore_patterns=["*/*"])
            files = get_local_safetensors_metadata(folder).files_metadata
        except (OSError, HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError):
            return None  # whole loading says what is wrong
        made = {}
        for file, metadata in files.items():
            for name, info in metadata.tensors.items():
                if info.dtype not in _PLAIN or not info.shape or 0 in info.shape:
                    return None
                column = torch.full((info.shape[0], *(1 for _ in info.shape[1:])), float("nan"))
                made[name] = column.expand(info.shape)
                self._places[column.untyped_storage().data_ptr()] = (Path(folder, file), name, made[name])
        return made

    def _fill(
        self, where: str, auto_class: str, attention: str | None, head: dict[str, Any], made: "dict[str, torch.Tensor]"
    ) -> "tuple[PreTrainedModel, dict[str, Any]] | None":
        """The model on ``made``, and all but its layers read; None where transformers has computed with what it was given."""
        import torch

        from weitiao.kernels.frozen_layers import layers
        from weitiao.pretrained.blank import skeleton

        config, blank, options = skeleton(where, auto_class, attention, head)
        model, info = type(blank).from_pretrained(
            None, config=config, state_dict=made, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        stack = layers(model)[0] + "."
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor not in self:
                if tensor.is_floating_point() and bool(tensor.isnan().any()):
                    return None
                continue
            if not self._is_as_saved(tensor):
                return None
            if not name.startswith(stack) or not isinstance(tensor, torch.nn.Parameter):
                tensor.data = self.read(tensor, slice(0, len(tensor)), torch.float32)
        model.name_or_path = config._name_or_path = where
        _take_generation_config(model, where)
        return model, info

    def _is_as_saved(self, tensor: "torch.Tensor") -> bool:
        """Whether it has whole rows of the file's tensor, in their order: no transposed one, no part of columns."""
        saved = self._places[tensor.untyped_storage().data_ptr()][2]
        return tensor.shape[1:] == saved.shape[1:] and tensor.stride() == saved.stride()


def _take_generation_config(model: "PreTrainedModel", where: str) -> None:
    """As ``from_pretrained`` does, which was given no folder."""
    if model.can_generate() and hasattr(model, "adjust_generation_fn"):
        nothing = dict.fromkeys(("cache_dir", "proxies", "token", "revision"))
        model.adjust_generation_fn(
            None, False, None, where, force_download=False, local_files_only=False, subfolder="", trust_remote_code=False,
            **nothing,
        )  # fmt: skip
