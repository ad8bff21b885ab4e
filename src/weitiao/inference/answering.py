"""Records of a file -> answers, a block at a time; a record that cannot be answered keeps its place."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from weitiao.config.task import TASK_OPTIONS
from weitiao.data.chat import Chat, question_of
from weitiao.data.read import Row
from weitiao.data.records import Bad
from weitiao.errors import DataError
from weitiao.inference.context import room_of
from weitiao.inference.predictor import Predictor, Reader
from weitiao.inference.together import Writers
from weitiao.pretrained.architecture import context_of
from weitiao.pretrained.locate import NO_FOREIGN_CODE, locate
from weitiao.pretrained.resolve import resolve
from weitiao.rundir.files import to_plain
from weitiao.rundir.folder import RunDir
from weitiao.tasks import TASKS
from weitiao.tasks.task import Task

log = logging.getLogger("weitiao")
# Rows are sorted by length within a block, so larger ones pad less; what a killed command does again is one block.
_ROWS_AT_ONCE = 2048
_ANSWERS_AT_ONCE = 64  # of texts, which are minutes on a CPU
Record = Row | Bad


@dataclass
class Answerer:
    """A finished run that answers records. Its model is loaded for the first block.

    Args:
        max_new_tokens, told: see :func:`weitiao.inference.predict.predict`.
    """

    run: RunDir
    max_new_tokens: int | None = None
    told: Callable[[str], None] | None = None
    num_cut: int = field(default=0, init=False)  # texts of which not everything was read

    @cached_property
    def predictor(self) -> Predictor:
        return Predictor(self.run)

    @cached_property
    def _writers(self) -> Writers:
        return Writers(self.run)

    @cached_property
    def columns(self) -> list[str]:
        return list(self.run.summary["text_columns"])

    @cached_property
    def task(self) -> Task:
        return TASKS[self.run.config.task]

    @cached_property
    def generates(self) -> bool:
        """Whether the run answers in texts."""
        return TASK_OPTIONS[self.run.config.task].generates

    @cached_property
    def _questions(self) -> tuple[Chat, int]:
        """How questions become tokens, and how many the model reads, without the model."""
        from transformers import AutoConfig

        config = self.run.config
        place = locate(config.model) if config.method.saves_adapter else self.run.model
        known = AutoConfig.from_pretrained(place, **NO_FOREIGN_CODE).get_text_config()
        return Chat.of(Reader(self.run).tokenizer, None), context_of(known) - config.method.tokens_in_front

    @cached_property
    def _one_by_one(self) -> bool:
        """Whether somebody listens to pieces of texts, or a GPU computes, where this is not measured."""
        return self.told is not None or resolve("float32", "auto").device != "cpu"

    def load(self) -> None:
        """Bring the model into memory."""
        if self.generates and not self._one_by_one:
            self._writers.load()
        else:
            self.predictor  # noqa: B018

    @property
    def rows_at_once(self) -> int:
        """Records of a block. What a block answers depends on its rows alone."""
        return _ROWS_AT_ONCE if not self.generates else 1 if self._one_by_one else _ANSWERS_AT_ONCE

    def problem(self, record: Record) -> str | None:
        """Why a record cannot be answered, or None."""
        if isinstance(record, Bad):
            return record.message
        if self.generates:
            try:
                chat, context = self._questions
                usual = self.run.config.train.max_new_tokens
                room_of(len(chat.question(question_of(record.fields))), context, self.max_new_tokens, usual)
            except DataError as error:
                return f"{record.id}: {error}"
            return None
        for column in self.columns:
            if problem := self.task.input_problem(record.fields, column):
                return _cannot_predict(record, problem, self.columns)
        return None

    def answers(self, block: Sequence[Record]) -> list[dict[str, Any]]:
        """One answer a record, in order: {"id", ..., "input"}, or {"id", "error"}."""
        problems = [self.problem(record) for record in block]
        rows = [row for row, problem in zip(block, problems, strict=True) if problem is None and isinstance(row, Row)]
        answered = iter(self._answered(rows) if rows else ())
        found = []
        for record, problem in zip(block, problems, strict=True):
            if isinstance(record, Row) and problem is None:
                found.append({"id": record.id, **next(answered), "input": to_plain(record.fields)})
            else:
                found.append({"id": f"{record.source}:{record.line}", "error": str(problem).partition("\n")[0]})
        return found

    def _answered(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        if self.generates:
            questions = [question_of(row.fields) for row in rows]
            if self._one_by_one:
                return list(self.predictor.replies(questions, self.max_new_tokens, self.told))
            return list(self._writers.replies(questions, self.max_new_tokens))
        texts = [[_text_of(row, column) for row in rows] for column in self.columns]
        answers = self.predictor.answers(*texts)
        self.num_cut += sum("tokens_cut" in answer for answer in answers)
        return answers


def _cannot_predict(row: Row, problem: str, columns: Sequence[str]) -> str:
    if "\n" in problem:  # it says itself what was expected
        return f"{row.id}: {problem}"
    return (
        f"{row.id}: {problem}. Found: {', '.join(map(str, row.fields))}.\n"
        f"Expected the columns that the run was trained on: {', '.join(columns)}.\nRename the column."
    )


def _text_of(row: Row, column: str) -> Any:
    """The column's value; ``text`` stands in for words that are not there."""
    return row.fields.get(column, row.fields.get("text"))
