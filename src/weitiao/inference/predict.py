"""predict(run): labels, entities, numbers or answers for new rows."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from weitiao.data.keys import is_visible
from weitiao.data.read import read_records
from weitiao.data.records import Skipped
from weitiao.data.source import Sources, find
from weitiao.errors import DataError, Stopped
from weitiao.inference.answering import Answerer, Record
from weitiao.inference.outputs import form_of
from weitiao.inference.part import Part, stamp_of
from weitiao.rundir.folder import RunDir

log = logging.getLogger("weitiao")
Listener = Callable[[dict[str, Any]], None]


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
    listener: Listener | None = None,
) -> list[dict[str, Any]]:
    """Label texts with a finished run, or (causal_lm) answer them.

    Args:
        run: the run folder.
        text: one text or several; with ``text_pair`` when the run was trained on pairs. Or
        input: a data file (or catalogue name) with the run's text columns; its rows are read and answered in blocks.
        output: write the answers there instead of returning them, by its ending as JSON lines, csv or parquet. The file must
            not exist yet. It appears whole at the end; until then OUTPUT.part holds what is answered, and the same call goes
            on there.
        max_new_tokens: causal_lm: longest answer; without it the run's own.
        bad_rows: rows of ``input`` that cannot be answered: refuse them by name, or answer {"id", "error"} in their place.
        told: causal_lm: called with pieces of the answers as they are made.
        listener: called with events: {"event": "stage", "message"}, and of the rows of a file {"event": "progress", "what",
            "done", "total", "rows_per_s", "eta_s"}.

    Returns:
        One {"label", "score", "probabilities"} a text, or {"answer"}, or {"labels", "probabilities"} (multi_label), or
        {"number"} (regression), or {"text", "entities", "words", "tags"}, where an entity has its type, text, start and end
        (characters of the text) and score; for rows of a file also their "id" and the row as "input". "tokens_cut" counts the
        tokens of a text that are behind the longest row and were not read. With ``output`` an empty list.

    Raises:
        RunError: no finished run, or an output that cannot be written.  DataError: both or neither of text and input, a row
            without text, or a part file of other answers.  Stopped: Ctrl-C, with what is answered in the part file.
    """
    _refuse_sources(text, input, output)
    answerer = Answerer(RunDir.open(run), max_new_tokens, told)
    if not answerer.generates and (max_new_tokens or told):
        raise DataError(
            f"Found options for answers, and {run} labels texts.\nExpected them with a run of task=causal_lm alone.\n"
            "Leave --max-new-tokens out."
        )
    if text is not None and answerer.generates:
        asked = _questions(text, text_pair)
        return list(answerer.predictor.replies(asked, max_new_tokens, told))
    if text is not None:
        parts = _parts(text, text_pair, answerer.columns)
        return answerer.predictor.answers(*parts)
    if output is not None:
        _check_output(Path(output))
    return _of_file(answerer, find(str(input)), Path(output) if output else None, bad_rows == "skip", listener)


def _of_file(
    answerer: Answerer, sources: Sources, output: Path | None, skips: bool, listener: Listener | None
) -> list[dict[str, Any]]:
    """The answers to all rows of files, in order; none where they go into ``output``."""
    say = listener or (lambda event: None)
    say({"event": "stage", "message": "reading the rows"})
    before = _sizes_and_times(sources)
    total = _checked(answerer, _records(sources), skips)
    found: list[dict[str, Any]] = []
    if output is None:
        for answers in _blocks(answerer, sources, 0, total, say):
            found += answers
    else:
        stamp = stamp_of(answerer.run, sources, max_new_tokens=answerer.max_new_tokens)
        with Part(output, form_of(output), stamp, block=answerer.rows_at_once, total=total) as part:
            if part.num_done:
                log.info("%s: %d of %d rows are answered already", part.path, part.num_done, total)
            try:
                for answers in _blocks(answerer, sources, part.num_done, total, say):
                    part.add(answers)
            except KeyboardInterrupt:
                raise _stopped(part, total) from None
            if _sizes_and_times(sources) != before:
                raise DataError(
                    "The input has changed while it was read.\nExpected a file that stays as it is.\n"
                    f"Begin again: rm {part.path}"
                )
            part.finish()
    if answerer.num_cut:
        log.warning(
            "%d texts have more than %d tokens: what is behind was not read (tokens_cut)",
            answerer.num_cut,
            answerer.predictor.max_length,
        )
    return found


def _blocks(
    answerer: Answerer, sources: Sources, done: int, total: int, say: Listener
) -> Iterator[list[dict[str, Any]]]:
    """The answers of a block after the other, from row ``done`` on."""
    if done == total:
        return
    say({"event": "stage", "message": "loading the model"})
    answerer.load()  # so that the rate is that of the rows alone
    records = islice(_records(sources), done, None)
    first, started = done, time.perf_counter()
    while block := list(islice(records, answerer.rows_at_once)):
        yield answerer.answers(block)
        done += len(block)
        rate = (done - first) / (time.perf_counter() - started)
        facts = {"done": done, "total": total, "rows_per_s": rate, "eta_s": (total - done) / rate}
        say({"event": "progress", "what": "predicting", **facts})


def _records(sources: Sources) -> Iterator[Record]:
    """The records of files, those that cannot be read among them."""
    return (record for record in read_records(sources, "skip") if not isinstance(record, Skipped))


def _checked(answerer: Answerer, records: Iterator[Record], skips: bool) -> int:
    """How many records there are. Raises DataError for the first one that has no answer, unless ``skips``."""
    count = 0
    for record in records:
        if not skips and (problem := answerer.problem(record)) is not None:
            raise DataError(problem)
        count += 1
    return count


def _sizes_and_times(sources: Sources) -> list[tuple[int, int]]:
    stats = [source.path.stat() for source in sources.files]
    return [(found.st_size, found.st_mtime_ns) for found in stats]


def _stopped(part: Part, total: int) -> Stopped:
    kept = f"{part.path} keeps {part.num_done:,} of {total:,} answers. The same command goes on there."
    return Stopped(f"Stopped. {kept if part.num_done else 'Nothing is answered yet.'}", 130)


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


def _check_output(output: Path) -> None:
    form_of(output)
    if output.exists():
        raise DataError(f"{output} exists already.\nExpected a new file.\nName another one, or remove it.")
    if not output.resolve().parent.is_dir():
        raise DataError(f"No folder for {output}.\nExpected an existing folder.\nMake it: mkdir -p {output.parent}")


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
