"""predict(run): labels, entities, numbers or answers for new rows."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from weitiao.config.task import TASK_OPTIONS
from weitiao.data.keys import is_visible
from weitiao.data.read import Row, read_records
from weitiao.data.records import Bad, Skipped
from weitiao.data.source import find
from weitiao.errors import DataError
from weitiao.inference.predictor import Predictor
from weitiao.rundir.files import to_plain
from weitiao.rundir.folder import RunDir

log = logging.getLogger("weitiao")
_ROWS_AT_ONCE = 4096


def predict(
    run: str | Path,
    *,
    text: str | Sequence[str] | None = None,
    text_pair: str | Sequence[str] | None = None,
    input: str | Path | None = None,
    output: str | Path | None = None,
    max_new_tokens: int | None = None,
    bad_rows: Literal["fail", "skip"] = "fail",
    told: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Label texts with a finished run, or (causal_lm) answer them.

    Args:
        run: the run folder.
        text: one text or several; with ``text_pair`` when the run was trained on pairs. Or
        input: a data file (or catalogue name) with the run's text columns; its rows are read and answered in blocks.
        output: write one JSON object a line there instead of returning them. The file must not exist yet.
        max_new_tokens: causal_lm: longest answer; without it the run's own.
        bad_rows: rows of ``input`` that cannot be answered: refuse them by name, or answer {"id", "error"} in their place.
        told: causal_lm: called with pieces of the answers as they are made.

    Returns:
        One {"label", "score", "probabilities"} a text, or {"answer"}, or {"labels", "probabilities"} (multi_label), or
        {"number"} (regression), or {"text", "entities", "words", "tags"}, where an entity has its type, text, start and end
        (characters of the text) and score; for rows of a file also their "id" and the row as "input". "tokens_cut" counts the
        tokens of a text that are behind the longest row and were not read. With ``output`` an empty list.

    Raises:
        RunError: no finished run.  DataError: both or neither of text and input, or a row without text.
    """
    _refuse_sources(text, input, output)
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
        predictor = Predictor(opened)
        return [*_with_cuts(predictor.answers(*parts), predictor.tokens_cut(*parts))]
    if output is not None:
        _check_output(Path(output))
    records = read_records(find(str(input)), "skip")  # so that the first problem is said, of whatever kind
    rows = (record for record in records if not isinstance(record, Skipped))
    if chats:
        answers = _reply_rows(Predictor(opened), rows, max_new_tokens, told, bad_rows == "skip")
    else:
        answers = _answer_rows(Predictor(opened), rows, columns, bad_rows == "skip")
    if output is None:
        return list(answers)
    _write(answers, Path(output))
    return []


def _refuse_sources(text: object, input: object, output: object) -> None:
    """Raise DataError for both or neither of a text and a file, and for an output of texts."""
    if (text is None) == (input is None):
        raise DataError("Found neither or both of --text and --input.\nExpected one of them.\nExample: --text '很好看'")
    if text is not None and output is not None:
        raise DataError("Found --output with --text.\nExpected --output together with --input.\nLeave --output out.")


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


def _answer_rows(
    predictor: Predictor, records: Iterator[Row | Bad], columns: Sequence[str], skips: bool
) -> Iterator[dict[str, Any]]:
    """An answer a record, in order; a record that cannot be answered keeps its place where it is skipped."""
    longer = 0
    while block := list(islice(records, _ROWS_AT_ONCE)):
        problems = [_problem(predictor, record, columns) for record in block]
        if not skips and (first := next((p for p in problems if p is not None), None)):
            raise DataError(first)
        rows = [row for row, problem in zip(block, problems, strict=True) if problem is None and isinstance(row, Row)]
        texts = [[_text_of(row, column) for row in rows] for column in columns]
        cut = predictor.tokens_cut(*texts) if rows else []
        longer += sum(count > 0 for count in cut)
        answered = iter(_with_cuts(predictor.answers(*texts) if rows else [], cut))
        for record, problem in zip(block, problems, strict=True):
            if problem is not None:
                yield {"id": f"{record.source}:{record.line}", "error": problem.partition("\n")[0]}
            elif isinstance(record, Row):
                yield {"id": record.id, **next(answered), "input": to_plain(record.fields)}
    if longer:
        log.warning(
            "%d texts have more than %d tokens: what is behind was not read (tokens_cut)", longer, predictor.max_length
        )


def _with_cuts(answers: Iterable[dict[str, Any]], cut: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Answers that say how much of their text was not read."""
    for answer, count in zip(answers, cut, strict=True):
        yield answer | ({"tokens_cut": count} if count else {})


def _problem(predictor: Predictor, record: Row | Bad, columns: Sequence[str]) -> str | None:
    """Why a record cannot be answered."""
    if isinstance(record, Bad):
        return record.message
    for column in columns:
        if problem := predictor.task.input_problem(record.fields, column):
            return _cannot_predict(record, problem, columns)
    return None


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


def _reply_rows(
    predictor: Predictor,
    records: Iterator[Row | Bad],
    max_new_tokens: int | None,
    told: Callable[[str], None] | None,
    skips: bool,
) -> Iterator[dict[str, Any]]:
    from weitiao.data.chat import question_of

    for record in records:
        name = f"{record.source}:{record.line}"
        try:
            if isinstance(record, Bad):
                raise DataError(record.reason)
            question = question_of(record.fields)
        except DataError as error:
            if not skips:
                raise DataError(f"{name}: {error}") from None
            yield {"id": name, "error": str(error).partition("\n")[0]}
            continue
        for answer in predictor.replies([question], max_new_tokens, told):
            yield {"id": name, **answer, "input": to_plain(record.fields)}


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _check_texts(texts: Sequence[str]) -> None:
    for number, text in enumerate(texts, start=1):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(
                f"Text {number} holds bytes that are no UTF-8.\nExpected valid text.\nDecode it first."
            ) from None
        if not is_visible(text):
            raise DataError(f"Text {number} is empty.\nExpected visible characters.\nExample: --text '很好看'")
