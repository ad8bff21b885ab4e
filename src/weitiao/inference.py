"""predict and eval: what a finished run says about new rows. Reads the run folder only."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from weitiao import pretrained
from weitiao.artifact import RunDir
from weitiao.config import RunConfig
from weitiao.data.encode import Encoded
from weitiao.data.prepare import labelled
from weitiao.data.read import read_rows
from weitiao.errors import DataError

_ROWS_AT_ONCE = 4096


class Predictor:
    """A run's model, loaded once the way plain transformers or peft load it."""

    def __init__(self, run: RunDir) -> None:
        from transformers import AutoTokenizer

        from weitiao.methods import METHODS
        from weitiao.tasks import TASKS

        self.config: RunConfig = run.config
        self.task: ModuleType = TASKS[self.config.task]
        self.names: list[str] = run.summary["label_names"]
        self.tokenizer = AutoTokenizer.from_pretrained(run.model)
        self.max_length = min(self.config.data.max_length, pretrained.max_positions(self.config.model, self.tokenizer))
        resolved = pretrained.resolve("auto", "auto")
        self.model = METHODS[self.config.method.type].load(run.model, self.task.AUTO_MODEL).to(resolved.device)

    def scores(self, texts: Sequence[str], labels: Sequence[str] = ()) -> tuple[Any, Encoded]:
        """Logits [N, C] in the order of ``texts``, and the encoded rows."""
        from weitiao.training.evaluate import score

        encoded = self.task.encode(texts, labels, self.names, self.tokenizer, self.max_length)
        budget = self.config.train.eval_tokens_per_batch
        return score(self.model, self.task, encoded, self.tokenizer.pad_token_id, budget), encoded

    def answers(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """{"label", "score", "probabilities"} a text."""
        if not texts:
            return []
        return self.task.decode(self.scores(texts)[0], self.names)  # type: ignore[no-any-return]


def predict(
    run: str | Path,
    *,
    text: str | Sequence[str] | None = None,
    input: str | Path | None = None,
    output: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Label texts with a finished run.

    Args:
        run: the run folder.
        text: one text or several. Or
        input: a data file (or catalogue name) with the run's text column; its rows are read and answered in blocks.
        output: write one JSON object a line there instead of returning them; each is the input row plus the answer.

    Returns:
        One {"label", "score", "probabilities"} a row; with ``output`` an empty list.

    Raises:
        RunError: no finished run.  DataError: both or neither of text and input, or a row without text.
    """
    if (text is None) == (input is None):
        raise DataError("Found neither or both of --text and --input.\nExpected one of them.\nExample: --text '很好看'")
    if text is not None and output is not None:
        raise DataError("Found --output with --text.\nExpected --output together with --input.\nLeave --output out.")
    opened = RunDir.open(run)
    if text is not None:
        texts = [text] if isinstance(text, str) else list(text)
        _check_texts(texts)
        return Predictor(opened).answers(texts)
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise DataError(
            f"No folder for {output}.\nExpected an existing folder.\nMake it: mkdir -p {Path(output).parent}"
        )
    predictor = Predictor(opened)
    answers = _answer_file(predictor, str(input))
    if output is None:
        return list(answers)
    temporary = Path(output).with_name(f".{Path(output).name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(answer, ensure_ascii=False, default=str) + "\n" for answer in answers)
    temporary.replace(output)
    return []


def eval(run: str | Path, *, data: str | Path | None = None) -> dict[str, Any]:
    """Metrics of a finished run: on its own evaluation rows (as stored), or on ``data``, whose rows are all used.

    Raises:
        RunError: no finished run.  DataError: a row of ``data`` lacks a column or has an unknown label.
    """
    opened = RunDir.open(run)
    if data is None:
        return {"run_dir": str(run), "data": "the run's own evaluation rows", "metrics": opened.summary["metrics"]}
    config, names = opened.config, opened.summary["label_names"]
    examples = labelled(str(data), config.data, names)
    predictor = Predictor(opened)
    scores, encoded = predictor.scores([e.text for e in examples], [e.label for e in examples])
    return {
        "run_dir": str(run),
        "data": str(data),
        "rows_truncated": encoded.num_truncated,
        "metrics": predictor.task.metrics(scores, encoded.labels, names),
    }


def _answer_file(predictor: Predictor, source: str) -> Iterator[dict[str, Any]]:
    column = predictor.config.data.text
    rows = iter(read_rows(source))
    while block := list(_take(rows, _ROWS_AT_ONCE)):
        for row in block:
            if not isinstance(row.fields.get(column), str) or not row.fields[column].strip():
                raise DataError(
                    f"{row.id}: no text in the column '{column}'. Found: {', '.join(map(str, row.fields))}.\n"
                    f"Expected the run's text column.\nRename the column to '{column}'."
                )
        answers = predictor.answers([row.fields[column] for row in block])
        yield from ({**row.fields, **answer} for row, answer in zip(block, answers, strict=True))


def _check_texts(texts: Iterable[str]) -> None:
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise DataError(f"Text {number} is empty.\nExpected visible characters.\nExample: --text '很好看'")


def _take(rows: Iterator[Any], count: int) -> Iterator[Any]:
    for _, row in zip(range(count), rows, strict=False):
        yield row
