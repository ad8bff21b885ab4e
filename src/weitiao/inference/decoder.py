"""One pass of a causal model over the next tokens of many conversations: some begin, some go on, each with its adapter.

Every token is a row of its own, [N, 1], so layers see no padding, and an adapter's tokens are rows next to each other. Attention
alone knows which rows belong together: it keeps their keys and values, and each conversation meets its own (iteration-level
batches: Yu et al. 2022, Orca, OSDI).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from weitiao.errors import ModelError
from weitiao.inference.context import decoders_context_of
from weitiao.inference.mixed import Body, Given, Pair, Segments, grouped
from weitiao.inference.packed import pack
from weitiao.inference.predictor import Predictor
from weitiao.rundir.folder import RunDir

log = logging.getLogger("weitiao")
NAME = "weitiao_decode"
_GROW = 256  # tokens
_SAME = 1e-3  # of the largest logit
_WITHOUT_EFFECT = {"dropout", "position_ids", "use_cache", "is_causal", "output_attentions", "output_hidden_states"}
KeysAndValues = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Memory:
    """Keys and values of one conversation, [heads, capacity, D] a layer, and the tokens that they are of.

    Args:
        most: tokens that are expected; no room is made for more.
    """

    ids: list[int] = field(default_factory=list)
    layers: dict[int, KeysAndValues] = field(default_factory=dict)
    most: int = 1 << 30

    @property
    def num_bytes(self) -> int:
        return sum(t.nbytes for pair in self.layers.values() for t in pair)

    def beginning(self, tokens: int) -> "Memory":
        """A memory of its own of the first ``tokens`` tokens."""
        layers = {
            i: (keys[:, :tokens].clone(), values[:, :tokens].clone()) for i, (keys, values) in self.layers.items()
        }
        return Memory(self.ids[:tokens], layers)

    def keep(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> KeysAndValues:
        """Put new keys and values [T, heads, D] behind the known ones; returns all, [heads, L, D]."""
        known = len(self.ids)
        length = known + len(keys)
        pair = self.layers.get(layer)
        if pair is None or pair[0].shape[1] < length:
            pair = self.layers[layer] = self._wider(pair, length, keys)
        for kept, new in zip(pair, (keys, values), strict=True):
            kept[:, known:length] = new.transpose(0, 1)
        return pair[0][:, :length], pair[1][:, :length]

    def _wider(self, pair: KeysAndValues | None, length: int, like: torch.Tensor) -> KeysAndValues:
        """Room for ``length`` tokens and some more, with the known ones in it."""
        wanted = max(-(-length // _GROW) * _GROW, 0 if pair is None else pair[0].shape[1] * 3 // 2)
        capacity = max(min(wanted, self.most), length)
        new = tuple(like.new_empty(like.shape[1], capacity, like.shape[2]) for _ in range(2))
        if pair is not None:
            for room, kept in zip(new, pair, strict=True):
                room[:, : len(self.ids)] = kept[:, : len(self.ids)]
        return new[0], new[1]


class Unfit(ModelError):
    """A model that the decoder does not know."""


@dataclass(frozen=True)
class Part:
    """The next tokens of one conversation."""

    adapter: str
    memory: Memory
    ids: Sequence[int]


@dataclass
class _Pass:
    """What attention needs to know of the pass that runs."""

    spans: Sequence[tuple[Memory, int, int]] = ()


_now = _Pass()


class Decoder:
    """A causal model with keys and values of its conversations.

    Args:
        body: the whole model, in fp32, whose attention is :func:`attend`.
    """

    def __init__(self, body: Body) -> None:
        self.body = body
        self.given = Given()
        self.bytes_per_token = self._check()

    @classmethod
    def load(cls, base: str) -> "Decoder":
        """Raises Unfit for a model that keeps more than keys and values."""
        import transformers

        from weitiao.pretrained.locate import NO_FOREIGN_CODE

        transformers.AttentionInterface.register(NAME, attend)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, attn_implementation=NAME, **NO_FOREIGN_CODE
        )
        pack(model)
        return cls(Body(model.eval()))

    @classmethod
    def alone(cls, run: RunDir) -> "Decoder":
        """A run as a model of its own, its adapter summed into it. Raises Unfit, ModelError, RunError."""
        import transformers

        transformers.AttentionInterface.register(NAME, attend)
        model: Any = Predictor(run, device="cpu").model
        if run.config.method.saves_adapter:
            model = model.merge_and_unload()
        model.set_attn_implementation(NAME)
        pack(model)
        return cls(Body(model.eval()))

    def add(self, name: str, pairs: Mapping[str, Pair], whole: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take an adapter in, as :meth:`Body.add`."""
        self.body.add(name, pairs, whole)

    def remove(self, name: str) -> None:
        """Let an adapter go."""
        self.body.remove(name)

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return decoders_context_of(self.body.model.config.get_text_config())

    @property
    def ends(self) -> set[int]:
        """Tokens that end an answer, as the model's files say."""
        own = self.body.model.generation_config.eos_token_id
        return {own} if isinstance(own, int) else set(own or ())

    def next_logits(self, parts: Sequence[Part]) -> torch.Tensor:
        """Logits of the token that follows each part [S, vocabulary].

        Their memories hold the tokens afterwards; where this raises, what they held before.

        Args:
            parts: those of one adapter next to each other.
        """
        bounds = [0]
        for part in parts:
            bounds.append(bounds[-1] + len(part.ids))
        ids = torch.tensor([token for part in parts for token in part.ids])[:, None]
        places = [
            place for part in parts for place in range(len(part.memory.ids), len(part.memory.ids) + len(part.ids))
        ]
        _now.spans = [(p.memory, first, end) for p, first, end in zip(parts, bounds[:-1], bounds[1:], strict=True)]
        names = [part.adapter for part in parts]
        model, segments = self.body.model, self.body.segments
        place = model.base_model_prefix
        inner = model.get_submodule(place)
        with torch.inference_mode():
            _set(segments, names, [len(part.ids) for part in parts])
            found = inner(input_ids=ids, position_ids=torch.tensor(places)[:, None], use_cache=False)
            ends = torch.tensor(bounds[1:]) - 1
            self.given.known.outputs = type(found)(last_hidden_state=found.last_hidden_state[ends])
            _set(segments, names, [1] * len(parts))
            model._modules[place] = self.given  # what the model makes of the states, such as caps, is its own
            try:
                logits: torch.Tensor = model(input_ids=ids[ends], use_cache=False).logits[:, 0]
            finally:
                model._modules[place] = inner
        for part in parts:
            part.memory.ids += part.ids
        return logits

    def _check(self) -> int:
        """Compare a few tokens in parts with the model's own pass over all of them. Raises ModelError.

        Returns the bytes of keys and values a token.
        """
        model = self.body.model
        size = model.config.get_text_config().vocab_size
        ids = [(i * 7919 + 11) % size for i in range(12)]
        memory, other = Memory(), Memory()
        found = [self.next_logits([Part("", memory, ids[:5])])[0]]
        found += [self.next_logits([Part("", memory, ids[5:8]), Part("", other, ids[:3])])[0]]
        found += [self.next_logits([Part("", other, ids[3:4]), Part("", memory, ids[8:9])])[1]]
        own = model.config._attn_implementation
        model.set_attn_implementation("eager")
        try:
            with torch.inference_mode():
                _set(self.body.segments, [""], [1])
                expected = model(input_ids=torch.tensor([ids[:9]]), use_cache=False).logits[0]
        finally:
            model.set_attn_implementation(own)
        apart = max(float((one - expected[place]).abs().max()) for one, place in zip(found, (4, 7, 8), strict=True))
        if not apart <= _SAME * max(1.0, float(expected.abs().max())):
            raise Unfit(
                f"{type(model).__name__} does not answer in parts as it does at once: logits differ by {apart:.3g}.\n"
                "Expected a model that keeps keys and values alone.\nUse weitiao predict with this run."
            )
        return memory.num_bytes // _GROW


def _set(segments: Segments, names: Sequence[str], rows: Sequence[int]) -> None:
    segments.names, segments.bounds = grouped(names, rows)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface for :class:`Decoder`: query [N, H, 1, D], key and value [N, heads, 1, D].

    Raises:
        Unfit: the model gives its attention something that is not known here, such as sinks.
    """
    odd = [name for name, what in more.items() if name not in _WITHOUT_EFFECT and what is not None]
    if odd or mask is not None or more.get("is_causal") is False:
        raise Unfit(
            f"The attention of {type(module).__name__} has {', '.join(odd) or 'a mask of its own'}, which the server does not "
            "know.\nExpected plain causal attention.\nUse weitiao predict with this run."
        )
    how = _How(scaling if scaling is not None else query.shape[-1] ** -0.5, sliding_window, softcap)
    out = torch.empty(len(query), 1, query.shape[1], value.shape[-1], dtype=query.dtype)
    for memory, first, end in _now.spans:
        keys, values = memory.keep(module.layer_idx, key[first:end, :, 0], value[first:end, :, 0])
        out[first:end, 0] = _one(query[first:end, :, 0], keys, values, how)
    return out, None


@dataclass(frozen=True)
class _How:
    """A layer's attention: scale of the scores, tokens that are seen, and a cap, tanh(score / cap) * cap."""

    scale: float
    window: int | None
    cap: float | None


def _one(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, how: _How) -> torch.Tensor:
    """The last T tokens' queries [T, H, D] meet keys and values [heads, L, D]; returns [T, H, D]."""
    count, heads, size = query.shape
    shared, length = keys.shape[:2]
    first = 0 if how.window is None else max(0, length - count - how.window + 1)  # what no query sees is left out
    keys, values, length = keys[:, first:], values[:, first:], length - first
    seen = None
    if count > 1:
        places, others = torch.arange(length - count, length)[:, None], torch.arange(length)
        seen = others <= places
        if how.window is not None:
            seen &= others > places - how.window
    if how.cap is not None:
        groups = query.view(count, shared, heads // shared, size).permute(1, 2, 0, 3)  # [heads, G, T, D]
        scores = torch.tanh(groups @ keys.mT[:, None] * (how.scale / how.cap)) * how.cap
        scores = scores if seen is None else scores.masked_fill(~seen, float("-inf"))
        return (scores.softmax(-1) @ values[:, None]).permute(2, 0, 1, 3).reshape(count, heads, -1)
    if seen is None:  # the heads that share a key are queries of one product
        asks = query.view(shared, heads // shared, size)
        found = scaled_dot_product_attention(asks[None], keys[None], values[None], scale=how.scale)
        return found.view(1, heads, -1)
    whole = count == length and (how.window is None or how.window >= length)
    found = scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys[None], values[None], scale=how.scale, enable_gqa=shared != heads,
        attn_mask=None if whole else seen, is_causal=whole,
    )  # fmt: skip
    return found[0].transpose(0, 1)
