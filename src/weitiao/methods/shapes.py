"""A method on a model's shapes alone: what it would train, or why it cannot. No weights are read."""

from typing import TYPE_CHECKING, Any

from weitiao.methods import METHODS
from weitiao.pretrained.load import load_model
from weitiao.pretrained.locate import locate
from weitiao.pretrained.resolve import Resolved

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def on_shapes(method: Any, model: str, auto_class: str) -> "PreTrainedModel":
    """The model on torch's meta device with the method applied; a classifier has two labels.

    Args:
        auto_class: of transformers, "AutoModelForCausalLM" and the like.

    Raises:
        ConfigError: the model cannot take the method.
        ModelError: no such model.
    """
    names = () if auto_class == "AutoModelForCausalLM" else ("0", "1")
    resolved = Resolved("cpu", "float32", "eager", {})
    drawn, new = load_model(model, auto_class, names, None, resolved, meta=True)
    changes: dict[str, Any] = {}
    if method.parent is not None:
        changes["init_from"] = None  # its head has the labels of the rows, which are not read yet
    if method.top_k == "auto":
        changes["top_k"] = 1
    method, _ = METHODS[method.type].planned(method.model_copy(update=changes))
    applied: PreTrainedModel = METHODS[method.type].apply(drawn, method, new, locate(model))
    return applied
