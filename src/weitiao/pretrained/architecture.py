"""What a checkpoint's config.json says, without its weights."""

from typing import TYPE_CHECKING, Any

from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError
from weitiao.pretrained.locate import NO_FOREIGN_CODE, cannot_load, locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHORTEST = 4  # tokens, as data.max_length has it
_OFFSET = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "xlm-roberta-xl",
    "longformer",
)  # positions begin behind the padding id
_UNBOUNDED = 1 << 30  # tokens, of a model without position embeddings


def model_type(model: str) -> str:
    """What transformers calls the architecture: `bert`, `llama`. Raises ModelError if its config.json cannot be used."""
    return str(_config_of(model).model_type)


def is_causal_lm(model: str) -> bool:
    """Whether the checkpoint was made to write texts. Raises ModelError if its config.json cannot be used."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return any(name in known for name in _config_of(model).architectures or ())


def max_positions(model: str, tokenizer: "PreTrainedTokenizerBase | None" = None) -> int:
    """The longest input the model takes, in tokens. Raises ModelError if its config.json cannot be used."""
    config = _config_of(model)
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or 0
    if config.model_type in _OFFSET and positions:
        positions -= int(getattr(config, "pad_token_id", None) or 0) + 1
    limits = (positions, 0 if tokenizer is None else int(tokenizer.model_max_length))
    return min((int(limit) for limit in limits if limit > 0), default=_UNBOUNDED)


def context_of(config: Any) -> int:
    """Tokens of prompt and answer that a language model was made for; a large number where its config.json names none."""
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


def pad_token_id(model: str) -> int:
    """What its config.json pads with, or 0. Raises ModelError if it cannot be used."""
    return int(getattr(_config_of(model), "pad_token_id", None) or 0)


def max_row_length(config: RunConfig, tokenizer: "PreTrainedTokenizerBase") -> int:
    """The longest row of a run, in tokens: what is asked for, the model takes, and a prompt in front leaves.

    Raises:
        ConfigError: the prompt leaves no room.
    """
    front = config.method.tokens_in_front
    found = min(config.data.max_length, max_positions(config.model, tokenizer) - front)
    if found < _SHORTEST:
        raise ConfigError(
            f"method.num_virtual_tokens={front}, and the model takes {found + front} tokens.\nExpected room for a text.\n"
            "Lower method.num_virtual_tokens."
        )
    return found


def is_fp32(model: str) -> bool:
    """Whether the checkpoint's own weights are fp32, which are mapped as they are; others are converted in memory."""
    from weitiao.pretrained.blank import weights_are_fp32

    named = getattr(_config_of(model), "dtype", None)
    if named is None:  # older checkpoints do not say
        return weights_are_fp32(locate(model))
    return str(named).removeprefix("torch.") == "float32"


def _config_of(model: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(model), **NO_FOREIGN_CODE)
    except Exception as error:  # a broken file raises what its class thinks of
        raise cannot_load(model, error) from None
