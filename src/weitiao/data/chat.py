"""Conversations -> token ids and which of them are learnt, through a chat template.

    <|im_start|>user\\n 什么是ai <|im_end|>\\n <|im_start|>assistant\\n 人工智能。<|im_end|> \\n
    ------------------------- not learnt --------------------------- ---- learnt ------- not

Learnt are the assistant's turns, each with the token that ends it. Where a turn begins and ends is seen by rendering the
conversation up to it, so no template has to be known. Where a template puts nothing behind the last answer, the tokenizer's
end token is put there, or the model would never learn to stop.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from weitiao.data.chat_template import template_text
from weitiao.data.conversations import Conversation, conversation_of
from weitiao.data.detect import detect
from weitiao.data.turns import Message
from weitiao.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
Span = tuple[int, int]
Talk = Conversation | Sequence[Message]
_CALL = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
_OPTIONAL = ("tool_calls", "reasoning_content")


@dataclass(frozen=True)
class Chat:
    """How conversations become tokens.

    Args:
        template: Jinja, instead of the tokenizer's own.
        train_on_prompt: learn every token instead of the assistant's turns alone.
        skip_refused: leave out conversations that the template refuses, and say so, instead of stopping at the first.
    """

    tokenizer: "PreTrainedTokenizerBase"
    template: str | None = None
    train_on_prompt: bool = False
    skip_refused: bool = False

    @classmethod
    def of(
        cls,
        tokenizer: "PreTrainedTokenizerBase",
        template: str | None,
        train_on_prompt: bool = False,
        skip_refused: bool = False,
    ) -> "Chat":
        """``template``: Jinja, or the name of a file with it.

        Raises:
            DataError: there is no template at all, or no such file.
        """
        if template is None and not tokenizer.chat_template:
            raise DataError(
                "The tokenizer has no chat template.\nExpected a model made for instructions, or a template.\n"
                "Name a Jinja file: data.chat_template=FILE"
            )
        return cls(tokenizer, template_text(template), train_on_prompt, skip_refused)

    def render(self, talk: Talk, *, ask: bool = False) -> str:
        """The text of a conversation; ``ask``: with the beginning of the assistant's next turn.

        Raises:
            DataError: the template refuses the conversation.
        """
        from jinja2 import TemplateError

        conversation = Conversation.of(talk)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [_for_template(message) for message in conversation.messages],
                    tools=list(conversation.tools) or None,
                    chat_template=self.template,
                    add_generation_prompt=ask,
                    tokenize=False,
                )
            )
        except (TemplateError, TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
            roles = ", ".join(message["role"] for message in conversation.messages)
            raise DataError(
                f"The chat template cannot render turns of {roles}: {error}.\nExpected turns that it knows.\n"
                "Correct the row, or give another template: data.chat_template=FILE"
            ) from None

    def turns(self, talk: Talk) -> tuple[str, list[Span]]:
        """The text, and where in it the answers to be learnt are: from behind their header to their end token.

        Raises:
            DataError: the template leaves something out, or renders an earlier turn otherwise once a later one follows; or a
                turn that is not to be learnt meets ``train_on_prompt``.
        """
        conversation = Conversation.of(talk)
        text = self.render(conversation)
        self.refuse_unshown(conversation)
        if self.train_on_prompt and any(message.get("learn") is False for message in conversation.messages):
            raise DataError(
                "a turn is marked as not to be learnt, and data.train_on_prompt=true learns every token.\nExpected one of them.\n"
                "Leave data.train_on_prompt out, or take the mark out."
            )
        spans = []
        for i, message in enumerate(conversation.messages):
            if message["role"] != "assistant" or not message.get("learn", True):
                continue
            before, through = self._before(conversation, i, text), self.render(conversation.up_to(i + 1))
            end = len(through) if text.startswith(through) else self._end_of(conversation, i, text, len(before))
            spans.append((len(before), self._without_blanks(text, len(before), end)))
        return text, spans

    def refuse_unshown(self, conversation: Conversation) -> None:
        """Raise DataError for tools, calls, thoughts or turns without which the text would be the same."""
        messages, text = conversation.messages, self.render(conversation)
        without: dict[str, Conversation] = {}
        if conversation.tools:
            without["tools"] = Conversation(messages)
        for key in _OPTIONAL:
            if any(key in message for message in messages):
                bare = [{k: v for k, v in message.items() if k != key} for message in messages]
                without[key] = Conversation(bare, conversation.tools)
        for i, message in enumerate(messages):
            if message["content"].strip() and message["content"].strip() not in text:
                rest = Conversation([*messages[:i], *messages[i + 1 :]], conversation.tools)
                without[f"turn {i + 1} ({message['role']})"] = rest
        if hidden := next(
            (m["role"] for m in messages if m["role"] in self._hidden_roles and m["content"].strip()), None
        ):
            raise _unshown(f"turns of {hidden}")
        for name, other in without.items():
            try:
                is_shown = self.render(other) != text
            except DataError:  # it cannot do without
                continue
            if not is_shown:
                raise _unshown(name)

    @cached_property
    def _hidden_roles(self) -> frozenset[str]:
        """Roles whose turns the template leaves out."""
        mark, hidden = "q7x9z", set()
        called: Message = {"role": "assistant", "content": "", "tool_calls": _CALL}
        asked: list[Message] = [{"role": "user", "content": "a"}, called]
        for role, before in (("system", asked[:0]), ("tool", asked)):
            turns: list[Message] = [*before, {"role": role, "content": mark}, {"role": "user", "content": "b"}]
            try:
                if mark not in self.render(turns):
                    hidden.add(role)
            except DataError:  # it refuses them itself
                continue
        return frozenset(hidden)

    def _before(self, conversation: Conversation, i: int, text: str) -> str:
        """The text up to where turn i, an answer, begins."""
        if i == 0:  # nothing was asked, and many templates render no empty conversation
            trials = (Conversation([{"role": "assistant", "content": one}], conversation.tools) for one in "ab")
            before = _common_beginning(*(self.render(trial) for trial in trials))
        else:
            before = self.render(conversation.up_to(i), ask=True)
        if not text.startswith(before):
            what = (
                "once others follow it"
                if i + 1 < len(conversation.messages)
                else "than it begins an answer when asked for one"
            )
            raise DataError(
                f"The chat template renders turn {i + 1} otherwise {what}.\nExpected a template that appends turns.\n"
                "Give one: data.chat_template=FILE"
            )
        return before

    def _ends_no_answer(self) -> bool:
        """Whether the template puts nothing behind the last answer. One that does not render such a trial is left alone."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        for trial in (turns, [{"role": "system", "content": "c"}, *turns]):
            try:
                return self.tokenizer.eos_token_id is not None and self.render(trial).rstrip().endswith("b")
            except DataError:
                continue
        return False

    def _end_of(self, conversation: Conversation, i: int, text: str, start: int) -> int:
        """The end of the special token behind turn i, which is rendered apart when it is the last one.

        What follows an answer both here and at the end of a conversation is what ends it: the next turn's header, and an end
        token of the whole conversation, follow in one of them alone.
        """
        messages = conversation.messages
        through, content = self.render(conversation.up_to(i + 1)), messages[i]["content"].strip()
        here, there = text.find(content, start), through.rfind(content)
        if messages[i].get("tool_calls"):
            shared = _common_beginning(text[start:], through[start:])
            if shared.strip():
                return start + len(shared)
        elif here >= 0 and there >= 0:
            behind = here + len(content)
            after = _common_beginning(text[behind:], through[there + len(content) :])
            return self._first_end(behind, after)
        # a thought that the template cut
        later = next((j for j in range(i + 1, len(messages)) if messages[j]["role"] == "assistant"), len(messages))
        return self._first_end(
            start, text[start : len(self.render(conversation.up_to(later), ask=later < len(messages)))]
        )

    def _first_end(self, behind: int, after: str) -> int:
        """The end of the first special token of ``after``, which begins at ``behind``."""
        ends = [behind + at + len(token) for token in self._specials if (at := after.find(token)) >= 0]
        return min(ends, default=behind)

    def _without_blanks(self, text: str, start: int, end: int) -> int:
        """Where the end token ends: the line break that templates put behind it belongs to the next turn."""
        stripped = text[start:end].rstrip()
        return start + len(stripped) if stripped.endswith(tuple(self._specials)) else end

    @cached_property
    def _specials(self) -> list[str]:
        added = (str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        return list(dict.fromkeys((*self.tokenizer.all_special_tokens, *added)))

    def tokens(
        self, conversations: Sequence[Talk], name: Callable[[int], str] | None = None
    ) -> list[tuple[list[int], list[bool]]]:
        """Token ids of each conversation and which of them are learnt, uncut. The first token is never predicted.

        Args:
            name: of the conversation with a number, for messages.

        With ``skip_refused`` a conversation that the template refuses has no tokens at all.

        Raises:
            DataError: the template cannot render a conversation, or renders its turns otherwise as it grows.
        """
        rendered, refused = [], list[str]()
        for i, messages in enumerate(conversations):
            try:
                rendered.append(self.turns(messages))
            except DataError as error:
                told = f"{name(i)}: {error}" if name else str(error)
                if not self.skip_refused:
                    raise DataError(f"{told}\nOr leave such rows out, counted: data.bad_rows=skip") from None
                refused.append(told.split("\n")[0])
                rendered.append(("", []))
        if refused:
            log.warning("left out: %d conversations that the chat template refuses. %s", len(refused), refused[0])
        open_ended, specials = self._ends_no_answer(), tuple(self._specials)
        endless = [
            open_ended and bool(spans) and _ends_learnt(talk) and not text.rstrip().endswith(specials)
            for talk, (text, spans) in zip(conversations, rendered, strict=True)
        ]
        texts = [text.rstrip() if is_endless else text for (text, _), is_endless in zip(rendered, endless, strict=True)]
        done = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        rows = []
        for ids, offsets, (_, spans), is_endless in zip(
            done["input_ids"], done["offset_mapping"], rendered, endless, strict=True
        ):
            starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
            learnt = np.full(len(ids), self.train_on_prompt)
            for start, end in spans:
                # a token that holds the header's last blank and the answer's first word is the answer's
                learnt |= (ends > start) & (starts < end)
            learnt[:1] = False
            closing = [self.tokenizer.eos_token_id] if is_endless else []
            rows.append(([*ids, *closing], learnt.tolist() + [True] * len(closing)))
        return rows

    def end_ids(self) -> list[int]:
        """The token that ends an assistant's turn; none where the template has no such token."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            ((ids, learnt),) = replace(self, train_on_prompt=False, skip_refused=False).tokens([turns])
        except DataError:  # a template that wants other turns, such as a system's
            return []
        last = [token for token, is_learnt in zip(ids, learnt, strict=True) if is_learnt][-1]
        return [last] if self.tokenizer.convert_ids_to_tokens(last) in self._specials else []

    def question(self, talk: Talk) -> list[int]:
        """The token ids after which the model writes the next turn."""
        ids: list[int] = self.tokenizer(self.render(talk, ask=True), add_special_tokens=False)["input_ids"]
        return ids


def question_of(fields: Mapping[str, Any]) -> Conversation:
    """The conversation of a record up to its last answer, if it has one; a single text is a user's turn.

    Raises:
        DataError: no known columns, or nothing is asked.
    """
    for ask, answer in (("instruction", "output"), ("prompt", "completion"), ("question", "answer")):
        if ask in fields and answer not in fields:
            fields = {**fields, answer: ""}
    form = detect(fields, asked="sft")
    if form.kind == "sft":
        asked = conversation_of(fields, form)
        while asked.messages and asked.messages[-1]["role"] == "assistant":
            asked = asked.up_to(len(asked.messages) - 1)
    else:
        asked = Conversation([{"role": "user", "content": str(fields[form.columns[0]])}])
    if not asked.messages or not asked.messages[-1]["content"].strip():
        raise DataError(
            f"no question in the columns {', '.join(map(str, fields))}.\nExpected a last turn of the user.\nCorrect the row."
        )
    return asked


def chat_of(config: Any, tokenizer: "PreTrainedTokenizerBase") -> Chat:
    """The chat that data options ask for. Raises DataError: see :meth:`Chat.of`."""
    return Chat.of(tokenizer, config.chat_template, config.train_on_prompt, config.bad_rows == "skip")


def _unshown(what: str) -> DataError:
    return DataError(
        f"The chat template does not show {what}.\nExpected a template that does.\n"
        "Give one: data.chat_template=FILE, or the one that comes with weitiao: data.chat_template=chatml"
    )


def _for_template(message: Message) -> Message:
    """A message under the names that templates read: thoughts have two."""
    told = {key: value for key, value in message.items() if key != "learn"}
    return told | ({"thinking": told["reasoning_content"]} if "reasoning_content" in told else {})


def _ends_learnt(talk: Talk) -> bool:
    """Whether the last turn is an answer that is learnt."""
    last = Conversation.of(talk).messages[-1]
    return last["role"] == "assistant" and bool(last.get("learn", True))


def _common_beginning(one: str, other: str) -> str:
    pairs = zip(one, other, strict=False)
    return one[: next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))]
