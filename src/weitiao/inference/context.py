"""The tokens that a question and its answer share: what the model reads at once."""

from typing import Any

from weitiao.errors import DataError
from weitiao.pretrained.architecture import context_of


def decoders_context_of(config: Any) -> int:
    """Those that our decoder takes: longrope turns all tokens of a pass otherwise once one is behind its first context."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(one for one in rope.values() if isinstance(one, dict))]
    first = [one["original_max_position_embeddings"] for one in kinds if one.get("rope_type") == "longrope"]
    return int(min(context_of(config), *first, 1 << 30))


def room_of(prompt: int, context: int, asked: int | None, usual: int) -> int:
    """The most tokens that an answer may have: what was asked for, or the usual number where the context has room for it.

    Args:
        prompt: tokens of the question.

    Raises:
        DataError: no room for one token, or for what was asked for.
    """
    room = context - prompt
    if room < (asked or 1):
        raise DataError(
            f"the question has {prompt:,} tokens, and the model reads {context:,} of question and answer together.\nExpected room for "
            f"{asked or 1:,} of the answer.\nShorten the question, or ask for less: --max-new-tokens"
        )
    return asked or min(room, usual)
