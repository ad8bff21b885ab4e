"""Values of other tools' options as ours. Each raises BadValue for what it cannot be."""

import json
import math
from collections.abc import Mapping
from typing import Any


class BadValue(Exception):
    """A value of the wrong kind, or one that weitiao does not have."""


def said(value: Any) -> str:
    """A value in one short line."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool) or value is None:
        text = json.dumps(value)
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return " ".join(text.split())


def is_off(value: Any) -> bool:
    """Whether a value asks for nothing: null, false, 0, an empty text, list or mapping, or `none`."""
    return value in (None, False, 0, "", "none", "None", "null", "false", "False") or value in ([], {}, ())


def number(value: Any) -> float:
    """A finite number, also as the text that YAML makes of 1e-4."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise BadValue(f"expected a number, found {said(value)}")
    return value if isinstance(value, int) else found


def whole(value: Any) -> int:
    """A whole number; 3.0 is one."""
    found = number(value)
    if found != int(found):
        raise BadValue(f"expected a whole number, found {said(value)}")
    return int(found)


def yes(value: Any) -> bool:
    """True or false, also as a text."""
    found = value.strip().lower() if isinstance(value, str) else value
    if found in (True, "true", "yes", "1"):
        return True
    if found in (False, "false", "no", "0"):
        return False
    raise BadValue(f"expected true or false, found {said(value)}")


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str | int | float) or isinstance(value, bool) or str(value).strip() == "":
        raise BadValue(f"expected a text, found {said(value)}")
    return str(value)


def names(value: Any) -> list[str]:
    """A list of texts, also with commas between them or as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise BadValue(f"expected a list, found {said(value)}") from None
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(one, str | int | float) for one in found):
        raise BadValue(f"expected names, found {said(value)}")
    return [str(one).strip() for one in found if str(one).strip()]


def mapping(value: Any) -> dict[str, Any]:
    """A mapping, also as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise BadValue(f"expected a mapping, found {said(value)}") from None
    if not isinstance(value, Mapping):
        raise BadValue(f"expected a mapping, found {said(value)}")
    return dict(value)


_OPTIMIZERS = {
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"), "adamw"),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit", "adamw_torch_xla", "adamw_torch_npu_fused"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "adamw_torch_8bit"), "adamw_8bit"),
    "paged_adamw_8bit": "paged_adamw_8bit",
}
_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}


def _one_of(known: Mapping[str, str], what: str, value: Any) -> str:
    found = known.get(str(value).lower().rpartition(".")[2])
    if found is None:
        raise BadValue(f"weitiao has {what} {', '.join(dict.fromkeys(known.values()))}, found {said(value)}")
    return found


def optimizer(value: Any) -> str:
    """AdamW in one of its forms; paged and fused ones take the same steps."""
    return _one_of(_OPTIMIZERS, "the optimizers", value)


def schedule(value: Any) -> str:
    """A schedule after warm-up."""
    return _one_of(_SCHEDULES, "the schedules", value)
