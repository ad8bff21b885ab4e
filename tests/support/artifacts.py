"""Saved models as plain libraries load them."""

from typing import Any


def loaded(run: Any, base: str, names: tuple[str, ...]) -> Any:
    """The artifact by plain transformers or peft."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    if run.config.method.type == "full":
        return AutoModelForSequenceClassification.from_pretrained(run.model).eval()
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(names))
    return PeftModel.from_pretrained(model, run.model).eval()
