"""Options of the data: which rows, how they are read, split and cut."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from weitiao.config.section import Section

# Options of how files are read: they have no part in rows that were read and written again.
READ_ONCE = ("encoding", "columns", "label_names", "label_map", "labels", "label_separator", "segmentation_digits")


class DataConfig(Section):
    train: str | tuple[str, ...] = Field(
        description="Training rows: files, globs, a folder with one folder per class, a catalogue or hub name. `#N` behind it takes N rows by lot, `#N:head` the first N."
    )
    eval: str | tuple[str, ...] | None = Field(
        None, description="Evaluation rows; without it, a part of `train` is held out."
    )
    encoding: str | None = Field(
        None, description="Encoding of text files, such as gb18030 or big5; told from their characters by default."
    )
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="Names of the columns of csv, tsv and txt files without a header."
    )
    text: str | None = Field(None, description="Column with the text; recognised by its name by default.")
    text_pair: str | None = Field(None, description="Column with the second text of a pair.")
    label: str | None = Field(
        None,
        description="Column with the label: strings, integers or booleans (multi_label: lists, regression: numbers); "
        "recognised by its name by default.",
    )
    label_names: str | tuple[str, ...] | None = Field(
        None,
        description="Names of the classes where the label column holds their numbers 0, 1, ...: a list, or a file with a name a "
        "line. multi_label: also of the places of vectors of 0 and 1.",
    )
    label_map: dict[str | int | float | bool, str | int] | None = Field(
        None, description="Labels to rename or merge, as {old: new}."
    )
    labels: Literal["as_written", "canonical"] = Field(
        "as_written",
        description="canonical: labels that differ only in case, blanks, width, invisible characters or as numbers (1, 1.0, true) "
        "become the most frequent of them.",
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="multi_label: what stands between the labels of a cell, where it is none of | ; , and their full-width forms.",
    )
    tag_scheme: Literal["auto", "iob1"] = Field(
        "auto",
        description="token_classification: auto reads BIO, BIOES, BILOU and BMES; iob1: I- may begin an entity (CoNLL 2003).",
    )
    segmentation_digits: Literal["keep", "strip"] = Field(
        "keep",
        description="token_classification: take the digit off words that are a character and a digit (Weibo NER).",
    )
    streaming: bool = Field(
        False, description="Read training rows as they are needed, for data larger than the disk; see docs/data.md."
    )
    train_size: int | None = Field(None, ge=1, description="Use at most this many training rows (stratified).")
    test_size: float | int | None = Field(
        None,
        gt=0,
        description="Held-out part: a share below 1, or a number of rows; 0.2 by default. With `eval`: so many of its rows, by lot.",
    )
    num_folds: int | None = Field(None, ge=2, description="Cut `train` into this many folds; `fold` is held out.")
    fold: int = Field(0, ge=0, description="Which fold is held out, from 0.")
    split_seed: int = Field(0, ge=0, description="Seed of the split. Apart from train.seed, so seeds share one split.")
    chat_template: str | None = Field(
        None, description="causal_lm: a Jinja chat template, or a file with one, instead of the tokenizer's own."
    )
    train_on_prompt: bool = Field(
        False, description="causal_lm: loss on every token, not only on the assistant's turns and their end."
    )
    max_length: int = Field(512, ge=4, description="Longest input in tokens.")
    over_length: Literal["truncate", "drop", "fail", "window"] = Field(
        "truncate",
        description="What happens to longer texts: cut, left out, refused, or cut into windows (token_classification's default).",
    )
    bad_rows: Literal["fail", "skip"] = Field(
        "fail", description="Rows that cannot be used: refuse the data, or write them to rejected.jsonl and go on."
    )
    duplicates: Literal["drop", "keep"] = Field(
        "drop", description="Equal texts on one side: keep one row or all. They never end up on both sides."
    )
    near_duplicates: Literal["drop", "warn", "off"] = Field(
        "drop", description="Training rows nearly equal to an evaluation row: left out, counted, or not looked for."
    )
    near_threshold: float = Field(
        0.8, gt=0, le=1, description="From which share of common character n-grams texts are nearly equal."
    )
    conflicts: Literal["drop", "keep", "fail"] = Field(
        "drop", description="Equal texts under different labels: all left out, kept, or refused."
    )
    check: Literal["strict", "warn"] = Field(
        "strict", description="Findings of severity `error`: refuse to train, or warn and go on."
    )

    canaries: int = Field(
        0,
        ge=0,
        description="Plant this many random rows with random labels (canaries.jsonl), to measure memorisation.",
    )
    general_text: str | None = Field(None, description="Other texts, on which forgetting is measured.")
    general_rows: int = Field(200, ge=2, description="Number of those texts.")

    @field_validator("near_duplicates", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _consistent(self) -> "DataConfig":
        if self.streaming and self.canaries:
            raise ValueError("canaries are planted among rows at hand, and a stream has none. Leave one of them out")
        if isinstance(self.test_size, float) and self.test_size >= 1:
            raise ValueError(f"test_size is {self.test_size}. Expected a share below 1, or a whole number of rows")
        if self.num_folds is None and self.fold:
            raise ValueError(f"fold is {self.fold}, and num_folds is not given. Set num_folds")
        if self.num_folds is not None and self.fold >= self.num_folds:
            raise ValueError(
                f"fold is {self.fold}. Expected 0 to {self.num_folds - 1}, since num_folds is {self.num_folds}"
            )
        if self.streaming and (self.eval is None or self.train_size or self.num_folds):
            raise ValueError(
                "streaming needs data.eval, and takes neither train_size nor num_folds. Use train.max_steps"
            )
        if self.num_folds is not None and self.eval is not None:
            raise ValueError("num_folds holds out a part of train, and eval is given too. Leave one of them out")
        return self
