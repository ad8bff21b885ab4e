"""What a run reads, as hashes: so that a run that goes on, and the other runs of a comparison, read the same."""

import hashlib
from collections.abc import Mapping
from typing import Any

from weitiao.config.data import DataConfig
from weitiao.data.chat_template import template_text
from weitiao.data.labels import class_names
from weitiao.data.prepare import Prepared
from weitiao.data.table import Table


def tables_of(config: DataConfig, prepared: Prepared) -> dict[str, Table]:
    """The tables behind the two sides. Streamed rows have none, and a split has one."""
    train = {} if config.streaming else {"train": prepared.train.table}
    return train | ({"eval": prepared.eval.table} if config.eval else {})


def data_hashes(config: DataConfig, prepared: Prepared) -> dict[str, Any]:
    """{"train": {file: sha256}, "eval": the same}, with those of a chat template and of names that stand in a file."""
    hashes: dict[str, Any] = {side: table.facts["sha256"] for side, table in tables_of(config, prepared).items()}
    if (template := template_text(config.chat_template)) is not None:
        hashes["chat_template"] = _sha256(template)
    if isinstance(config.label_names, str):  # a path stays the same when the file is edited
        hashes["label_names"] = _sha256("\n".join(class_names(config.label_names)))
    return hashes


def same_data(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two of these say the same. Runs of earlier versions have no hash of names that stand in a file."""
    if one is None or other is None:
        return one is other
    later = {"label_names"} - (one.keys() & other.keys())
    return {k: v for k, v in one.items() if k not in later} == {k: v for k, v in other.items() if k not in later}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
