"""A run's model as an ONNX graph: written, quantised, and run by onnxruntime behind the same face as a model of torch."""

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from weitiao.errors import ModelError

FILE, INT8_FILE = "model.onnx", "model_int8.onnx"
_ONE_FILE_BYTES = 1_900_000_000  # protobuf ends at 2 GiB
_ROWS, _LENGTH = 2, 9  # of the rows that are traced; no other size of a model is likely to be the same


def graph_inputs(model: Any, tokenizer: Any) -> list[str]:
    """Names of what the graph takes: all that the tokenizer gives and the model reads."""
    read = inspect.signature(model.forward).parameters
    return [name for name in tokenizer.model_input_names if name in read]


def build_graph(model: Any, names: Sequence[str], pad_id: int) -> Any:
    """An ``onnx_ir.Model`` with the inputs ``names`` [rows, length] int64 and the output ``logits``.

    transformers' own exporter traces the model by torch.export. Rows and length are free, and padded places are masked.

    Raises:
        ModelError: the model cannot be traced with free sizes.
    """
    from transformers.exporters import OnnxConfig, OnnxExporter

    free = torch.export.Dim.AUTO
    ids = torch.full((_ROWS, _LENGTH), 1 if pad_id != 1 else 2)
    mask = torch.ones_like(ids)
    ids[-1, -2:], mask[-1, -2:] = pad_id, 0
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    sample = {name: given[name] for name in names}
    config = OnnxConfig(dynamic_shapes={name: {0: free, 1: free} for name in names})
    try:
        with _quiet():
            graph, _ = OnnxExporter().export_program(model, sample, config)
    except Exception as error:  # torch.export has errors of many kinds
        raise ModelError(
            f"{type(model).__name__} cannot be written as ONNX: {str(error).strip().splitlines()[0][:300]}\nExpected a model that "
            "torch.export can trace.\nUse --format safetensors."
        ) from error
    fixed = [
        f"{value.name} {value.shape}" for value in graph.graph.inputs if any(isinstance(d, int) for d in value.shape)
    ]
    if fixed:
        raise ModelError(
            f"{type(model).__name__} was traced with fixed sizes: {', '.join(fixed)}.\nExpected rows and lengths of any number.\n"
            "Use --format safetensors."
        )
    return graph


def save_graph(graph: Any, file: Path) -> None:
    """Write it, with the weights in a file of their own (FILE.data) where one file could not hold them."""
    import onnx_ir

    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    onnx_ir.save(graph, str(file), external_data=f"{file.name}.data" if size > _ONE_FILE_BYTES else None)


def quantised(graph: Any) -> Any:
    """The graph with the weights of its matrix products in int8, a scale a channel; activations are quantised as they come.

    Weights take 7 of the 8 bits: on x86 without VNNI the sums of 8-bit products overflow without a word.
    Source: onnxruntime's dynamic quantisation (``quantize_dynamic``), through transformers.
    """
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
    from transformers.exporters.configs import ExportFormat

    config = OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, reduce_range=True)
    with _quiet():
        return OnnxRuntimeQuantizer(config).quantize(graph, {}, ExportFormat.ONNX)


class OnnxModel(torch.nn.Module):
    """A file of :func:`save_graph` on the CPU, called as transformers' model is."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]
        self.place = torch.nn.Parameter(torch.zeros(()))  # says that it is on the CPU

    def forward(self, input_ids: torch.Tensor, **given: torch.Tensor) -> SimpleNamespace:
        """{"logits"}; a mask that is not given is all ones, token types are all zeros."""
        given = {"attention_mask": torch.ones_like(input_ids), "token_type_ids": torch.zeros_like(input_ids)} | given
        feed = {name: ({"input_ids": input_ids} | given)[name].numpy() for name in self.names}
        return SimpleNamespace(logits=torch.from_numpy(self.session.run(["logits"], feed)[0]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print their steps and log what only their makers can use."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
