"""The next token of an answer from its logits, as a request asks for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from weitiao.errors import ModelError

_COLD = 1e-5  # temperatures below take the likeliest token: fp32 cannot divide by them
_LIKELY = 1024  # tokens that are sorted first; all of them only where these hold too little


@dataclass(frozen=True)
class Asked:
    """What a request says of its answer.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: the fewest tokens whose probabilities reach it, likeliest first, are drawn from (Holtzman et al. 2020,
            arXiv 1904.09751).
        stop: texts that end the answer, and are left out of it.
        seed: equal seeds draw equal tokens from equal logits; None draws anew each time.
        logprobs: how many likely tokens are named at each place; None: no log-probabilities at all.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: Sequence[str] = ()
    seed: int | None = None
    logprobs: int | None = None

    def generator(self) -> torch.Generator:
        """The source of chance of one answer."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed % 2**63)
        return generator


@dataclass(frozen=True)
class Token:
    """A token of an answer. ``likely``: ids and natural log-probabilities of the likeliest tokens there."""

    id: int
    logprob: float | None = None
    likely: Sequence[tuple[int, float]] = ()


def pick(logits: torch.Tensor, asked: Asked, generator: torch.Generator) -> Token:
    """Draw a token from logits [V]. Log-probabilities are of the model itself: temperature and top_p do not change them.

    Raises:
        ModelError: the logits are not finite.
    """
    if not bool(logits.isfinite().all()):
        raise ModelError("The model computes numbers that are not finite. Train it again.")
    chosen = int(logits.argmax()) if asked.temperature < _COLD else _drawn(logits, asked, generator)
    if asked.logprobs is None:
        return Token(chosen)
    found = logits.log_softmax(-1)
    values, places = found.topk(min(asked.logprobs, len(found)))
    return Token(chosen, float(found[chosen]), list(zip(places.tolist(), values.tolist(), strict=True)))


def _drawn(logits: torch.Tensor, asked: Asked, generator: torch.Generator) -> int:
    shares = (logits / asked.temperature).softmax(-1)
    if asked.top_p >= 1:
        return int(torch.multinomial(shares, 1, generator=generator))
    values, places = shares.topk(min(_LIKELY, len(shares)))
    if float(values.sum()) < asked.top_p:
        values, places = shares.sort(descending=True)
    before = values.cumsum(-1) - values
    kept = values[: max(1, int((before < asked.top_p).sum()))]
    return int(places[torch.multinomial(kept, 1, generator=generator)])
