"""predict(run): labels, entities, numbers or answers for new rows."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from weitiao.config.task import TASK_OPTIONS
from weitiao.data.read import Row, read_rows
from weitiao.errors import DataError
from weitiao.inference.predictor import Predictor
from weitiao.rundir.files import to_plain
from weitiao.rundir.folder import RunDir

_ROWS_AT_ONCE = 4096


def predict(
    run: str | Path,
    *,
    text: str | Sequence[str] | None = None,
    text_pair: str | Sequence[str] | None = None,
    input: str | Path | None = None,
    output: str | Path | None = None,
    max_new_tokens: int | None = None,
    told: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Label texts with a finished run, or (causal_lm) answer them.

    Args:
        run: the run folder.
        text: one text or several; with ``text_pair`` when the run was trained on pairs. Or
        input: a data file (or catalogue name) with the run's text columns; its rows are read and answered in blocks.
        output: write one JSON object a line there instead of returning them. The file must not exist yet.
        max_new_tokens: causal_lm: longest answer; without it the run's own.
        told: causal_lm: called with pieces of the answers as they are made.

    Returns:
        One {"label", "score", "probabilities"} a text, or {"answer"}, or {"labels", "probabilities"} (multi_label), or
        {"number"} (regression), or {"text", "entities", "words", "tags"}, where an entity has its type, text, start and end
        (characters of the text) and score; for rows of a file also their "id" and the row as "input". With ``output`` an empty
        list.

    Raises:
        RunError: no finished run.  DataError: both or neither of text and input, or a row without text.
    """
    if (text is None) == (input is None):
        raise DataError("Found neither or both of --text and --input.\nExpected one of them.\nExample: --text '很好看'")
    if text is not None and output is not None:
        raise DataError("Found --output with --text.\nExpected --output together with --input.\nLeave --output out.")
    opened = RunDir.open(run)
    columns = opened.summary["text_columns"]
    chats = TASK_OPTIONS[opened.config.task].generates
    if not chats and (max_new_tokens or told):
        raise DataError(
            f"Found options for answers, and {run} labels texts.\nExpected them with a run of task=causal_lm alone.\n"
            "Leave --max-new-tokens out."
        )
    if text is not None and chats:
        asked = _questions(text, text_pair)
        return list(Predictor(opened).replies(asked, max_new_tokens, told))
    if text is not None:
        parts = _parts(text, text_pair, columns)
        return Predictor(opened).answers(*parts)
    if output is not None:
        _check_output(Path(output))
    if chats:
        answers = _reply_rows(Predictor(opened), read_rows(str(input)), max_new_tokens, told)
    else:
        answers = _answer_rows(Predictor(opened), read_rows(str(input)), columns)
    if output is None:
        return list(answers)
    _write(answers, Path(output))
    return []


def _questions(text: str | Sequence[str], text_pair: str | Sequence[str] | None) -> list[list[dict[str, str]]]:
    """Texts as one turn each."""
    texts = _as_list(text)
    _check_texts(texts)
    if text_pair is not None:
        raise DataError("Found --text-pair.\nExpected --text alone: a question has no second text.\nLeave it out.")
    return [[{"role": "user", "content": one}] for one in texts]


def _parts(text: str | Sequence[str], text_pair: str | Sequence[str] | None, columns: Sequence[str]) -> list[list[str]]:
    """Texts and second texts, as many of each as the run's columns ask for."""
    parts = [_as_list(part) for part in (text, text_pair) if part is not None]
    if len(parts) != len(columns) or len({len(part) for part in parts}) > 1:
        raise DataError(
            f"Found {' and '.join(f'{len(p)} texts' for p in parts)}.\nExpected as many of each: {', '.join(columns)}.\n"
            "Give --text (and --text-pair, when the run was trained on pairs) the same number of times."
        )
    for part in parts:
        _check_texts(part)
    return parts


def _write(answers: Iterator[dict[str, Any]], output: Path) -> None:
    """One JSON object a line; the file is there whole or not at all."""
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n" for answer in answers)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _check_output(output: Path) -> None:
    if output.exists():
        raise DataError(f"{output} exists already.\nExpected a new file.\nName another one, or remove it.")
    if not output.resolve().parent.is_dir():
        raise DataError(f"No folder for {output}.\nExpected an existing folder.\nMake it: mkdir -p {output.parent}")


def _answer_rows(predictor: Predictor, rows: Iterator[Row], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    while block := list(islice(rows, _ROWS_AT_ONCE)):
        for row in block:
            for column in columns:
                if problem := predictor.task.input_problem(row.fields, column):
                    raise DataError(_cannot_predict(row, problem, column, columns))
        answers = predictor.answers(*([_text_of(row, column) for row in block] for column in columns))
        yield from (
            {"id": row.id, **answer, "input": to_plain(row.fields)} for row, answer in zip(block, answers, strict=True)
        )


def _cannot_predict(row: Row, problem: str, column: str, columns: Sequence[str]) -> str:
    if "\n" in problem:  # it says itself what was expected
        return f"{row.id}: {problem}"
    return (
        f"{row.id}: {problem}. Found: {', '.join(map(str, row.fields))}.\n"
        f"Expected the columns that the run was trained on: {', '.join(columns)}.\n"
        f"Rename the column to '{column}'."
    )


def _text_of(row: Row, column: str) -> Any:
    """The column's value; ``text`` stands in for words that are not there."""
    return row.fields.get(column, row.fields.get("text"))


def _reply_rows(
    predictor: Predictor, rows: Iterator[Row], max_new_tokens: int | None, told: Callable[[str], None] | None
) -> Iterator[dict[str, Any]]:
    from weitiao.data.chat import question_of

    for row in rows:
        try:
            question = question_of(row.fields)
        except DataError as error:
            raise DataError(f"{row.id}: {error}") from None
        for answer in predictor.replies([question], max_new_tokens, told):
            yield {"id": row.id, **answer, "input": to_plain(row.fields)}


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _check_texts(texts: Sequence[str]) -> None:
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise DataError(f"Text {number} is empty.\nExpected visible characters.\nExample: --text '很好看'")
