"""Answers of a causal language model: greedy, one conversation at a time, told piece by piece if somebody listens."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer

from weitiao.data.chat import Chat, Talk
from weitiao.data.conversations import Conversation

Told = Callable[[str], None]


@contextmanager
def without_defaults(model: Any) -> Iterator[None]:
    """Within it ``generate`` adds nothing of the model's generation_config.json, such as a penalty on repetition.

    transformers fills with it what a GenerationConfig leaves open, and the likeliest answer would be another one than the server's.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class _Streamer(TextStreamer):  # type: ignore[misc]
    """Hands pieces of text on, as soon as their characters are whole."""

    def __init__(self, chat: Chat, told: Told) -> None:
        super().__init__(chat.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.told = told

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """One more piece; a line break after the last one."""
        self.told(text + "\n" * stream_end)


def generate(
    model: Any, chat: Chat, conversations: Sequence[Talk], max_new_tokens: int, told: Told | None = None
) -> Iterator[str]:
    """The next turn of each conversation, up to the token that ends it, which is left out, as is half a character.

    Args:
        told: called with pieces of the text as they are made, and a line break at the end of each answer.
    """
    tokenizer = chat.tokenizer
    own = model.generation_config.eos_token_id
    ends = {*([own] if isinstance(own, int) else own or []), *chat.end_ids()}
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, eos_token_id=sorted(ends)
    )
    device = next(model.parameters()).device
    for messages in conversations:
        ids = torch.tensor([chat.question(messages)], device=device)
        streamer = _Streamer(chat, told) if told is not None else None
        with torch.inference_mode(), without_defaults(model):
            done = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=streamer
            )
        yield str(tokenizer.decode(done[0, ids.shape[1] :], skip_special_tokens=True)).rstrip("\ufffd")


def before_last_answer(conversation: Conversation) -> tuple[Conversation, str]:
    """A conversation up to its last answer, and that answer."""
    messages = conversation.messages
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return conversation.up_to(last), messages[last]["content"]
