"""The columns that records have, over all of them: what a row holds is never told from the first one alone."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from weitiao.config.data import DataConfig
from weitiao.data.detect import detect
from weitiao.data.form import Format
from weitiao.data.labels import is_vector
from weitiao.data.read import Record, Row
from weitiao.errors import DataError

_EMPTY: tuple[Any, ...] = ("", [], {})  # what tells nothing of a column
_LOOKED_AT = 1000  # records before the first form; later ones may still change it


class Columns:
    """What columns are there, in how many records, and an example of what each holds."""

    def __init__(self, config: DataConfig, asked: str | None) -> None:
        self._config = config
        self._asked = asked
        self._examples: dict[str, Any] = {}
        self._told = set[str]()  # columns whose example is no empty one
        self._counts = Counter[str]()
        self._names: dict[str, None] = {}  # also of columns that hold nothing
        self._vectors: dict[str, set[int]] = {}  # lengths of a column's lists of 0 and 1; 0 for other lists
        self._records = 0
        self._first = ""

    def look_ahead(self, records: Iterable[Record]) -> Iterator[Record]:
        """The same records. The first ones are seen at once, each of the others as it passes."""
        passing = iter(records)
        block = list(itertools.islice(passing, _LOOKED_AT))
        for record in block:
            self._see(record)
        return itertools.chain(block, map(self._see, passing))

    def _see(self, record: Record) -> Record:
        if not isinstance(record, Row):
            return record
        self._records += 1
        self._first = self._first or record.id
        for name, value in record.fields.items():
            self._names[name] = None
            if value is not None:
                self._counts[name] += 1
                if value != [] and (isinstance(value, list) or (isinstance(value, str) and value[:1] == "[")):
                    length = value.count(",") + 1 if isinstance(value, str) else len(value)
                    self._vectors.setdefault(name, set()).add(length if is_vector(value) else 0)
                if name not in self._told:
                    self._examples[name] = value
                    if value not in _EMPTY:
                        self._told.add(name)
        return record

    def form(self) -> Format | None:
        """The form of the records seen so far; None where there are none.

        A column that fewer than half of the records fill makes no form: a second text in one of a hundred rows is none.

        Raises:
            DataError: a named column is missing, or no known format fits.
        """
        if not self._records:
            return None
        named = (self._config.text, self._config.label, self._config.text_pair)
        filled = {name: self._examples.get(name) for name in self._names}
        usual = {n: v for n, v in filled.items() if 2 * self._counts[n] >= self._records or n in named}
        rare = {n: v for n, v in filled.items() if n not in usual}
        try:
            form = self._detected(usual, rare)
        except DataError as error:
            raise DataError(f"{self._first}: {error}") from None
        lengths = self._vectors.get(form.columns[-1], {0})
        return replace(form, vectors=form.kind == "labels" and len(lengths) == 1 and lengths != {0})

    def _detected(self, usual: dict[str, Any], rare: dict[str, Any]) -> Format:
        """The form that the columns show; where their names are in capitals, that of the small ones."""
        named = (self._config.text, self._config.label, self._config.text_pair)
        try:
            form = detect(usual, *named, asked=self._asked, beside=rare)
        except DataError as error:
            folded = {name.strip().casefold(): name for name in usual}
            try:
                if any(named) or folded.keys() == usual.keys() or len(folded) < len(usual):
                    raise error
                form = detect({small: usual[name] for small, name in folded.items()}, asked=self._asked)
            except DataError:
                return detect(usual | rare, *named, asked=self._asked)
        folded = {name.strip().casefold(): name for name in usual}
        if form.kind == "text" and not any(named) and len(folded) == len(usual):  # a label may stand under LABEL
            form = detect({small: usual[name] for small, name in folded.items()}, asked=self._asked)
        columns = tuple(folded.get(name, name) if name not in usual else name for name in form.columns)
        if form.kind == "sft" and columns != form.columns:
            raise DataError(f"the columns {', '.join(columns)}.\nExpected {', '.join(form.columns)}.\nRename them.")
        return replace(form, columns=columns)
