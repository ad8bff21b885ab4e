"""Answers of many conversations at once: each step computes the next tokens of all of them, and new ones join at any step."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import torch

from weitiao.inference.adapter import Adapter, open_writer
from weitiao.inference.decoder import Decoder, Memory, Part
from weitiao.inference.mixed import Given
from weitiao.inference.said import Said
from weitiao.inference.sampling import Asked, Token, pick
from weitiao.serving.residents import Residents
from weitiao.serving.served import Speaker
from weitiao.serving.turns import Turns
from weitiao.serving.worker import Stopping, Worker
from weitiao.system import threads

log = logging.getLogger("weitiao")
Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """What a step adds to an answer."""

    text: str = ""
    token: Token | None = None
    finish: Finish | None = None
    error: BaseException | None = None


@dataclass(eq=False)
class Answer:
    """One answer that is being written.

    Args:
        ids: the prompt's tokens.
        hear: called from the engine's thread with each piece; the last one has ``finish`` or ``error``.
    """

    speaker: Speaker
    ids: Sequence[int]
    asked: Asked
    hear: Callable[[Piece], None]
    said: Said = field(init=False)
    memory: Memory = field(init=False, default_factory=Memory)
    known: int = field(init=False, default=0)  # tokens of the prompt that an earlier answer's memory had
    tokens: list[int] = field(init=False, default_factory=list)
    cancelled: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.said = Said(self.speaker.tokenizer, self.asked.stop)
        self.chance = self.asked.generator()

    @property
    def next_ids(self) -> list[int]:
        """Tokens that the model has not read."""
        return [*self.ids, *self.tokens][len(self.memory.ids) :]

    @property
    def most_tokens(self) -> int:
        return len(self.ids) + self.asked.max_new_tokens

    def take(self, logits: torch.Tensor, ends: set[int]) -> bool:
        """The next token from its logits; whether it is the last one."""
        token = pick(logits, self.asked, self.chance)
        self.tokens.append(token.id)
        text, finish = "", None
        if token.id in ends:
            finish = "stop"
        else:
            text = self.said.add(token.id)
            if self.said.stopped:
                finish = "stop"
            elif len(self.tokens) >= self.asked.max_new_tokens:
                finish = "length"
        if finish is not None and not self.said.stopped:
            text += self.said.end()
            finish = "stop" if self.said.stopped else finish
        self.hear(Piece(text, token, finish))  # type: ignore[arg-type]
        return finish is not None


class Writer(Worker[Answer]):
    """Writes answers of runs and bases, in a thread of its own.

    Args:
        resident: adapters and models of their own that stay in memory.
        most_waiting: requests that may wait; a request that comes later is refused.
        at_once: answers that are written at the same time.
        memory_bytes: of keys and values: of answers that are written, and of earlier ones whose beginning others may share.
        prompt_tokens: of prompts a step, so that a long prompt does not hold up answers that are on their way.
        turns: where answers are written, all places are taken.
    """

    def __init__(
        self,
        *,
        resident: int = 1000,
        most_waiting: int = 1024,
        at_once: int = 16,
        memory_bytes: int = 1 << 30,
        prompt_tokens: int = 256,
        turns: Turns | None = None,
    ) -> None:
        super().__init__("weitiao-writer", most_waiting, turns)
        self.residents = Residents(resident, Decoder.load, _adapter, _alone)
        self.at_once, self.memory_bytes = at_once, memory_bytes
        self.prompt_tokens = prompt_tokens
        self.steps = self.tokens = self.reused = 0
        self.gone = 0  # answers that were cancelled before their end
        self.running: list[Answer] = []
        self._kept: OrderedDict[int, tuple[str, Memory]] = OrderedDict()
        self._number = count()
        self._ends: dict[str, set[int]] = {}
        self._start()

    def submit(self, answer: Answer) -> None:
        """Begin an answer as soon as there is room.

        Raises:
            Full: too much waits already.  Stopping: after :meth:`stop`.
        """
        self._accept([answer])

    def stop(self, *, drop: bool = False) -> int:
        """Finish what was accepted, or ``drop`` it, then end. Returns how many answers were dropped."""
        with self._changed:
            self._stopping = True
            left = [*self._waiting, *self.running] if drop else []
            for answer in left:
                answer.cancelled = True
            self._changed.notify()
        self._join()
        self._refuse_errands()
        for answer in left:
            answer.hear(Piece(error=Stopping()))
        return len(left)

    def load(self, speaker: Speaker) -> "Future[None]":
        """Bring a model into memory before it is asked."""
        return self._errand(lambda: self._load(speaker))

    def unload(self, speaker: Speaker | None = None) -> "Future[None]":
        """Let a model go once its answers are written; without one, those that the registry has removed."""
        return self._errand(lambda: self._unload(speaker))

    def _load(self, speaker: Speaker) -> None:
        with self._turns.take():
            self.residents.use(speaker)

    def _unload(self, speaker: Speaker | None) -> None:
        if speaker is not None:
            self.residents.unload(speaker)
        self._trim()
        for number, (key, _) in list(self._kept.items()):
            if key not in self.residents.recent:
                del self._kept[number]

    def _trim(self) -> None:
        self.residents.trim({answer.speaker.key for answer in (*self.running, *self._waiting[:1])})

    def _work(self) -> None:
        threads.settle()
        while self._admit():
            for base in dict.fromkeys(answer.speaker.base for answer in self.running):
                with self._turns.take():
                    self._step([answer for answer in self.running if answer.speaker.base == base])
            self._trim()

    def _admit(self) -> bool:
        """Let go of answers that nobody waits for, and begin others; False at the end."""
        while True:
            with self._changed:
                while not self._waiting and not self.running and not self._errands:
                    if self._stopping:
                        return False
                    self._changed.wait()
                self.gone += sum(answer.cancelled for answer in (*self.running, *self._waiting))
                self.running = [answer for answer in self.running if not answer.cancelled]
                self._waiting = [answer for answer in self._waiting if not answer.cancelled]
                first = self._waiting[0] if self._waiting and len(self.running) < self.at_once else None
            self._run_errands()
            if first is None or not self._begin(first):
                if self.running:
                    return True
                continue
            with self._changed:
                self.running.append(first)
                self._waiting.remove(first)

    def _begin(self, answer: Answer) -> bool:
        """Bring the model and a memory for an answer; whether there is room."""
        speaker = answer.speaker
        try:
            with self._turns.take():
                self.residents.use(speaker)
                decoder = self._decoder(speaker)
                if speaker.key not in self._ends:
                    self._ends[speaker.key] = decoder.ends | set(speaker.chat.end_ids() if speaker.chat else ())
        except Exception as error:  # of one model; the others go on
            with self._changed:
                self._waiting.remove(answer)
            answer.hear(Piece(error=error))
            return False
        asked = answer.most_tokens * decoder.bytes_per_token
        taken = sum(one.most_tokens * self._decoder(one.speaker).bytes_per_token for one in self.running)
        if self.running and taken + asked > self.memory_bytes:
            return False
        self._reuse(answer)
        answer.memory.most = answer.most_tokens
        while self._kept and taken + asked + sum(m.num_bytes for _, m in self._kept.values()) > self.memory_bytes:
            self._kept.popitem(last=False)
        return True

    def _reuse(self, answer: Answer) -> None:
        """Take over the memory of an earlier answer of the same model that begins as this one does."""
        best, known = -1, 0
        for number, (name, memory) in self._kept.items():
            shared = _shared(memory.ids, answer.ids) if name == answer.speaker.key else 0
            if shared > known:
                best, known = number, shared
        known = min(known, len(answer.ids) - 1)  # the last token gives the first logits
        if known < 1:
            return
        memory = self._kept[best][1]
        if known < len(memory.ids):  # another conversation with the same beginning, which may go on as well
            answer.memory = memory.beginning(known)
            self._kept.move_to_end(best)
        else:
            answer.memory = self._kept.pop(best)[1]
        answer.known = known
        self.reused += known

    def _decoder(self, speaker: Speaker) -> Decoder:
        found: Decoder = speaker.own or self.residents.bodies[speaker.base]
        return found

    def _step(self, answers: list[Answer]) -> None:
        """The next tokens of answers on one body: one each, and of prompts as many as a step has room for."""
        room, chosen = self.prompt_tokens, []
        for answer in answers:  # as they came: a prompt never waits for later ones
            ids = answer.next_ids
            if len(ids) > 1:
                ids = ids[:room]
                room -= len(ids)
            if ids:
                chosen.append((answer, Part(answer.speaker.key, answer.memory, ids)))
        self.steps += 1
        self._try(sorted(chosen, key=lambda one: one[1].adapter))

    def _try(self, chosen: Sequence[tuple[Answer, Part]]) -> None:
        """A step; where it fails each answer by itself, so that one's fault is not another's."""
        decoder = self._decoder(chosen[0][0].speaker)
        try:
            logits = decoder.next_logits([part for _, part in chosen])
        except BaseException as error:  # whatever it is: a dead engine would let every request wait for ever
            if len(chosen) == 1:
                self._end(chosen[0][0], error)
                return
            log.warning("a step of %d answers failed, now one by one: %s", len(chosen), error)
            for one in chosen:
                self._try([one])
            return
        for (answer, part), row in zip(chosen, logits, strict=True):
            self.tokens += len(part.ids)
            if answer.next_ids:
                continue  # more of its prompt comes
            try:
                if answer.take(row, self._ends[answer.speaker.key]):
                    self._end(answer)
            except Exception as error:
                self._end(answer, error)

    def _end(self, answer: Answer, error: BaseException | None = None) -> None:
        self.running = [one for one in self.running if one is not answer]
        if error is not None:
            answer.hear(Piece(error=error))
        else:
            self._keep(answer.speaker.key, answer.memory)

    def _keep(self, name: str, memory: Memory) -> None:
        """Keep a memory for later answers; those that it covers are of no use any more."""
        for number, (other, known) in list(self._kept.items()):
            if other == name and _shared(known.ids, memory.ids) == len(known.ids):
                del self._kept[number]
        self._kept[next(self._number)] = (name, memory)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens at the beginning that are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _adapter(speaker: Speaker) -> Adapter:
    if speaker.run is None:
        return Adapter({}, {}, None, Given())
    return open_writer(speaker.run)


def _alone(speaker: Speaker) -> Decoder:
    assert speaker.run is not None
    return Decoder.alone(speaker.run)
