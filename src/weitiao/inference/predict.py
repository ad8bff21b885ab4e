"""predict and eval: what a finished run says about new rows. Reads the run folder only."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors import SafetensorError

from weitiao.config.run import RunConfig
from weitiao.data.encode import Encoded
from weitiao.data.prepare import usable
from weitiao.data.read import Row, read_rows
from weitiao.data.side import Side
from weitiao.data.words import joined, split
from weitiao.errors import DataError
from weitiao.pretrained import load as pretrained
from weitiao.rundir.folder import RunDir, to_plain

_ROWS_AT_ONCE = 4096
Scored = tuple[Any, Encoded]


class Predictor:
    """A run's model, loaded once the way plain transformers or peft load it."""

    def __init__(self, run: RunDir) -> None:
        from transformers import AutoTokenizer

        from weitiao.methods import METHODS
        from weitiao.tasks import TASKS

        self.config: RunConfig = run.config
        pretrained.refuse_pickled(run.model)
        self.task: ModuleType = TASKS[self.config.task]
        self.names: list[str] = run.summary["label_names"]
        self.tokenizer = AutoTokenizer.from_pretrained(run.model, **pretrained.NO_FOREIGN_CODE)
        self.max_length: int = run.summary["max_length"]
        resolved = pretrained.resolve(False, "auto")
        method = self.config.method.type
        base = "" if method == "full" else pretrained.locate(self.config.model)
        try:
            model = METHODS[method].load(run.model, self.task.AUTO_MODEL, self.names, base)
        except (OSError, ValueError, SafetensorError) as error:
            raise pretrained.cannot_load(f"{run.model} (base {base or 'inside'})", error) from None
        self.model = model.to(resolved.device)

    def scores(
        self,
        texts: Sequence[Any],
        pairs: Sequence[str] | None = None,
        labels: Sequence[str] = (),
        ids: Sequence[str] = (),
    ) -> Scored:
        """Logits [N, C] in the order of ``texts`` (of all their words), and the encoded rows.

        Longer texts are cut, or averaged by window.
        """
        from weitiao.training.evaluate import score

        over_length = "window" if self.config.data.over_length == "window" else "truncate"
        if self.task.KIND == "tokens" and self.config.data.over_length != "truncate":
            over_length = "window"  # no word goes without an answer
        # the saved tokenizer has the chat template that the run was given
        changed = {"max_length": self.max_length, "over_length": over_length, "chat_template": None}
        data = self.config.data.model_copy(update=changed)
        encoded = self.task.encode(texts, labels, self.names, self.tokenizer, data, pairs, ids=ids)
        budget = self.config.train.eval_tokens_per_batch
        return score(self.model, self.task, encoded, self.tokenizer.pad_token_id, budget), encoded

    def answers(self, texts: Sequence[Any], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """{"label", "score", "probabilities"} a text; see :func:`predict` for the other tasks.

        With token_classification a text may be a list of words; others are cut into words, Chinese into characters.
        """
        if not texts:
            return []
        if self.task.KIND == "tokens":
            placed = [(text, split(text)) if isinstance(text, str) else joined(text) for text in texts]
            rows = [[text[start:end] for start, end in spans] for text, spans in placed]
            scores, _ = self.scores([(words, ()) for words in rows])
            return list(self.task.decode(rows, scores, self.names, placed))
        return self.task.decode(self.scores(texts, pairs)[0], self.names)  # type: ignore[no-any-return]

    def replies(
        self, conversations: Sequence[Any], max_new_tokens: int | None, told: Callable[[str], None] | None = None
    ) -> Iterator[dict[str, Any]]:
        """{"answer"} a conversation, from a run of causal_lm."""
        from weitiao.data.chat import Chat
        from weitiao.tasks.generation import generate

        most = max_new_tokens or self.config.train.max_new_tokens
        for answer in generate(self.model, Chat.of(self.tokenizer, None), conversations, most, told):
            yield {"answer": answer}


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
    chats = opened.config.task == "causal_lm"
    if not chats and (max_new_tokens or told):
        raise DataError(
            f"Found options for answers, and {run} labels texts.\nExpected them with a run of task=causal_lm alone.\n"
            "Leave --max-new-tokens out."
        )
    if text is not None and chats:
        texts = _as_list(text)
        _check_texts(texts)
        if text_pair is not None:
            raise DataError("Found --text-pair.\nExpected --text alone: a question has no second text.\nLeave it out.")
        asked = [[{"role": "user", "content": one}] for one in texts]
        return list(Predictor(opened).replies(asked, max_new_tokens, told))
    if text is not None:
        parts = [_as_list(part) for part in (text, text_pair) if part is not None]
        if len(parts) != len(columns) or len({len(part) for part in parts}) > 1:
            raise DataError(
                f"Found {' and '.join(f'{len(p)} texts' for p in parts)}.\nExpected as many of each: {', '.join(columns)}.\n"
                "Give --text (and --text-pair, when the run was trained on pairs) the same number of times."
            )
        for part in parts:
            _check_texts(part)
        return Predictor(opened).answers(*parts)
    if output is not None:
        _check_output(Path(output))
    if chats:
        answers = _reply_rows(Predictor(opened), read_rows(str(input)), max_new_tokens, told)
    else:
        answers = _answer_rows(Predictor(opened), read_rows(str(input)), columns)
    if output is None:
        return list(answers)
    temporary = Path(output).with_name(f".{Path(output).name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n" for answer in answers)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return []


def _check_output(output: Path) -> None:
    if output.exists():
        raise DataError(f"{output} exists already.\nExpected a new file.\nName another one, or remove it.")
    if not output.resolve().parent.is_dir():
        raise DataError(f"No folder for {output}.\nExpected an existing folder.\nMake it: mkdir -p {output.parent}")


def eval(run: str | Path, *, data: str | Path | None = None) -> dict[str, Any]:
    """Metrics of a finished run: on its own evaluation rows (as stored), or on ``data``, whose rows are all used.

    Raises:
        RunError: no finished run.  DataError: a row of ``data`` lacks a column or has an unknown label.
    """
    opened = RunDir.open(run)
    if data is None:
        return {"run_dir": str(run), "data": "the run's own evaluation rows", "metrics": opened.summary["metrics"]}
    config, names = opened.config, opened.summary["label_names"]
    predictor = Predictor(opened)
    table = usable(str(data), config.data, predictor.task.KIND)
    side = Side(table, np.arange(len(table)))
    labels = side.labels
    unknown = next(
        ((i, one) for i, own in enumerate(side.row_labels) for one in own if names and one not in names), None
    )
    if unknown is not None:
        found = f"{side.ids[unknown[0]]}: label '{unknown[1]}' is unknown"
        raise DataError(f"{found}.\nExpected one of: {', '.join(names)}.\nCorrect it, or evaluate another file.")
    texts, pairs = predictor.task.rows_of(side)
    scores, encoded = predictor.scores(texts, pairs, labels, side.ids)
    return {
        "run_dir": str(run),
        "data": str(data),
        "rows_over_length": encoded.num_over_length,
        "rows_left_out": len(side) - len(encoded.kept),
        "metrics": predictor.task.metrics(scores, encoded.gold, names),
    }


def _answer_rows(predictor: Predictor, rows: Iterator[Row], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    while block := list(islice(rows, _ROWS_AT_ONCE)):
        for row in block:
            for column in columns:
                value = row.fields.get(column)
                if predictor.task.KIND == "tokens" and _has_words(row, column):
                    continue
                if predictor.task.KIND == "tokens" and isinstance(value, list):
                    raise DataError(
                        f"{row.id}: '{column}' is no list of words: {value!r}.\nExpected texts, at least one.\nCorrect the row."
                    )
                if not isinstance(value, str) or not value.strip():
                    raise DataError(
                        f"{row.id}: no text in the column '{column}'. Found: {', '.join(map(str, row.fields))}.\n"
                        f"Expected the columns that the run was trained on: {', '.join(columns)}.\n"
                        f"Rename the column to '{column}'."
                    )
        answers = predictor.answers(*([_text_of(row, column) for row in block] for column in columns))
        yield from (
            {"id": row.id, **answer, "input": to_plain(row.fields)} for row, answer in zip(block, answers, strict=True)
        )


def _has_words(row: Row, column: str) -> bool:
    """Whether a row has what a run of token_classification reads: a list of words, or a text."""
    value = _text_of(row, column)
    texts = value if isinstance(value, list) else [value]
    return all(isinstance(text, str) and text for text in texts) and any(text.strip() for text in texts)


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
