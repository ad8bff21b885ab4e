"""Answers to many conversations, computed together: what `weitiao predict` does with a file, by the server's decoder."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from weitiao.data.chat import Chat, Talk
from weitiao.inference.adapter import open_writer
from weitiao.inference.decoder import Decoder, Memory, Part, Unfit
from weitiao.inference.mixed import CannotShare
from weitiao.inference.predictor import Predictor
from weitiao.inference.sharing import shares_base
from weitiao.pretrained.locate import NO_FOREIGN_CODE, locate
from weitiao.rundir.folder import RunDir

log = logging.getLogger("weitiao")
AT_ONCE = 16
_PROMPT_TOKENS = 512  # of prompts a step


@dataclass
class _Row:
    """A conversation that is answered."""

    number: int
    prompt: Sequence[int]
    written: list[int] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    @property
    def next_ids(self) -> list[int]:
        """Tokens that the model has not read."""
        return [*self.prompt, *self.written][len(self.memory.ids) :]


def write_together(
    decoder: Decoder,
    prompts: Iterable[Sequence[int]],
    ends: set[int],
    most: int,
    *,
    adapter: str = "",
    at_once: int = AT_ONCE,
) -> Iterator[list[int]]:
    """The likeliest tokens after each prompt, in order, with the one that ends them; a new one begins where another ends.

    Args:
        adapter: the name under which the decoder knows it; others are the base.
        most: tokens of an answer.
    """
    waiting = deque(_Row(number, prompt) for number, prompt in enumerate(prompts))
    running: list[_Row] = []
    done: dict[int, list[int]] = {}
    handed = 0
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(waiting.popleft())
        room, parts = _PROMPT_TOKENS, []
        for row in running:
            ids = row.next_ids
            if len(ids) > 1:
                ids = ids[:room]
                room -= len(ids)
            if ids:
                parts.append((row, Part(adapter, row.memory, ids)))
        for (row, _), logits in zip(parts, decoder.next_logits([part for _, part in parts]), strict=True):
            if row.next_ids:
                continue  # more of its prompt comes
            row.written.append(int(logits.argmax()))
            if row.written[-1] in ends or len(row.written) == most:
                done[row.number] = row.written
                running.remove(row)
        while handed in done:
            yield done.pop(handed)
            handed += 1


class Writers:
    """A finished run that answers many conversations; its model is loaded for the first ones, on the CPU."""

    def __init__(self, run: RunDir) -> None:
        self.run = run

    @cached_property
    def _decoder(self) -> Decoder | None:
        """None where a model must answer one conversation at a time; the log says why."""
        method = self.run.config.method
        if method.saves_adapter and not method.merges:
            return None
        try:
            if shares_base(self.run.config):
                try:
                    decoder = Decoder.load(locate(self.run.config.model))
                    adapter = open_writer(self.run)
                    decoder.add(self.run.path.name, adapter.pairs, adapter.whole)
                    return decoder
                except CannotShare as reason:
                    log.info("the adapter is summed into its base, since %s", reason)
            return Decoder.alone(self.run)
        except Unfit as error:
            log.info("one conversation at a time: %s", str(error).partition("\n")[0])
            return None

    @cached_property
    def _chat(self) -> Chat:
        from transformers import AutoTokenizer

        return Chat.of(AutoTokenizer.from_pretrained(self.run.model, **NO_FOREIGN_CODE), None)

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.run)

    def load(self) -> None:
        """Bring the model into memory."""
        if self._decoder is None:
            self._predictor  # noqa: B018

    def replies(self, conversations: Sequence[Talk], max_new_tokens: int | None) -> Iterator[dict[str, Any]]:
        """{"answer"} a conversation, as :meth:`Predictor.replies`."""
        prompts = [self._chat.question(one) for one in conversations]
        most = max_new_tokens or self.run.config.train.max_new_tokens
        if self._decoder is None or max(map(len, prompts)) + most > self._decoder.context:
            yield from self._predictor.replies(conversations, max_new_tokens)
            return
        ends = self._decoder.ends | set(self._chat.end_ids())
        for ids in write_together(self._decoder, prompts, ends, most, adapter=self.run.path.name):
            yield {"answer": str(self._chat.tokenizer.decode(ids, skip_special_tokens=True)).rstrip("\ufffd")}
