"""A method on a model's shapes alone: what it would train, or why it cannot. No weights are read."""

from typing import TYPE_CHECKING, Any

from weitiao import pretrained
from weitiao.methods import METHODS, refuse_unfit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SVD_STARTS = ("pissa", "olora")  # what starts these needs the weights


def on_shapes(method: Any, model: str, auto_class: str) -> "PreTrainedModel":
    """The model on torch's meta device with the method applied; a classifier has two labels.

    Args:
        auto_class: of transformers, "AutoModelForCausalLM" and the like.

    Raises:
        ConfigError: the model cannot take the method.
        ModelError: no such model.
    """
    generates = auto_class == "AutoModelForCausalLM"
    refuse_unfit(method, pretrained.model_type(model), generates)
    resolved = pretrained.Resolved("cpu", "float32", "eager", {})
    drawn, new = pretrained.load_model(model, auto_class, () if generates else ("0", "1"), 0, resolved, meta=True)
    changes: dict[str, Any] = {}
    if getattr(method, "init_from", None) is not None:
        changes["init_from"] = None  # its head has the labels of the rows, which are not read yet
    if getattr(method, "init_lora_weights", None) in SVD_STARTS:
        changes["init_lora_weights"] = True
    if method.top_k == "auto":
        changes["top_k"] = 1
    method = method.model_copy(update=changes)
    applied: PreTrainedModel = METHODS[method.type].apply(drawn, method, new, pretrained.locate(model))
    return applied
