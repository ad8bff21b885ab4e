"""LLaMA-Factory's data sets: a name in `dataset_info.json` -> a file or hub name, read as the entry says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weitiao.converting.rows import TRAIN, form_of, hub_name, is_there
from weitiao.converting.rules import At, Found, Refusal
from weitiao.converting.values import names, said, whole
from weitiao.data.turns import message_of
from weitiao.errors import DataError

_FILE = "dataset_info.json"
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_BESIDE = ("history", "system", "tools")
_MEDIA = ("images", "videos", "audios", "chosen", "rejected", "kto_tag")
_TAGS = {
    "user_tag": ("human", "user"), "assistant_tag": ("gpt", "assistant"), "system_tag": ("system", "system"),
    "observation_tag": ("observation", "tool"), "function_tag": ("function_call", "assistant"),
}  # fmt: skip


def datasets(option: str) -> Any:
    """The rule of `dataset` or `eval_dataset`."""

    def read(at: At) -> Found:
        found, folder = registry(at)
        specs, notes = list[str](), list[str]()
        for name in names(at.value):
            spec, note = _one(name, found, folder, at.top)
            specs.append(spec)
            notes += [note] if note else []
        value: Any = specs[0] if len(specs) == 1 else specs
        if not specs:
            raise Refusal("no data set is named", (option,))
        return Found("mapped", {option: value}, "; ".join([f"{folder / _FILE}", *notes]))

    def settled(at: At) -> Found:
        try:
            return read(at)
        except Refusal as refusal:
            raise Refusal(refusal.reason, (option,)) from None

    return settled


def registry(at: At) -> tuple[Mapping[str, Any], Path]:
    """The entries of dataset_info.json and its folder: `dataset_dir` from here, from the configuration or a folder above it."""
    wanted = Path(str(at.top.get("dataset_dir", "data"))).expanduser()
    near = [at.folder.resolve(), *list(at.folder.resolve().parents)[:3]]
    for folder in (wanted, *(above / wanted for above in near), at.folder):
        path = folder / _FILE
        if is_there(path):
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                raise Refusal(f"{path} is no JSON that can be read", TRAIN) from None
            if not isinstance(found, dict):
                raise Refusal(f"{path} holds no mapping", TRAIN)
            return found, _from_here(folder)
    raise Refusal(f"no {_FILE} in {wanted}, here or beside the configuration, so its rows are not known", TRAIN)


def _from_here(folder: Path) -> Path:
    here = Path.cwd()
    return folder.resolve().relative_to(here) if folder.resolve().is_relative_to(here) else folder


def _one(name: str, found: Mapping[str, Any], folder: Path, top: Mapping[str, Any]) -> tuple[str, str]:
    """A data set's source with the rows that are taken of it, and what a reader should know."""
    entry = found.get(name)
    if not isinstance(entry, dict):
        raise Refusal(f"'{name}' is not in {folder / _FILE}", TRAIN)
    _refuse(name, entry)
    url = next((str(entry[key]) for key in ("hf_hub_url", "ms_hub_url", "om_hub_url") if key in entry), None)
    note = ""
    if url is not None:
        source, note = hub_name(url), f"{url} comes from a hub: check its columns with weitiao data check"
    else:
        path = folder / str(entry.get("file_name", ""))
        if "file_name" not in entry or not is_there(path):
            raise Refusal(f"'{name}': no file {path}", TRAIN)
        source = str(path)
        _same_rows(name, entry, source)
    return source + _share(name, entry, top), note


def _share(name: str, entry: Mapping[str, Any], top: Mapping[str, Any]) -> str:
    first, lot = top.get("max_samples"), entry.get("num_samples")
    if first is not None and lot is not None:
        raise Refusal(f"'{name}' has num_samples, and the configuration max_samples", TRAIN)
    return f"#{whole(first)}:head" if first is not None else f"#{whole(lot)}" if lot is not None else ""


def _refuse(name: str, entry: Mapping[str, Any]) -> None:
    columns = entry.get("columns") or {}
    if not isinstance(columns, dict) or not isinstance(entry.get("tags") or {}, dict):
        raise Refusal(f"'{name}': its columns and tags are no mappings", TRAIN)
    for key in ("script_url", "cloud_file_name", "subset", "folder"):
        if entry.get(key):
            raise Refusal(f"'{name}' has {key}, which weitiao does not read", TRAIN)
    if entry.get("split", "train") != "train":
        raise Refusal(f"'{name}' takes the split {said(entry['split'])}; weitiao reads train", TRAIN)
    if entry.get("ranking") or (media := [key for key in _MEDIA if columns.get(key)]):
        what = "pairs of a better and a worse answer" if entry.get("ranking") else ", ".join(media)
        raise Refusal(f"'{name}' holds {what}; weitiao learns texts", TRAIN)
    if entry.get("formatting", "alpaca") not in ("alpaca", "sharegpt", "openai"):
        raise Refusal(f"'{name}' has the formatting {said(entry['formatting'])}", TRAIN)


def _same_rows(name: str, entry: Mapping[str, Any], source: str) -> None:
    """Raise Refusal where weitiao would read other columns, or other speakers, than the entry names."""
    form, first = form_of(source, "sft")
    columns = entry.get("columns")
    if form is None:
        return
    if form.kind != "sft":
        raise Refusal(f"'{name}': weitiao finds no conversations in the columns {', '.join(first)}", TRAIN)
    if entry.get("formatting", "alpaca") == "alpaca":
        named = _ALPACA if columns is None else {key: columns[key] for key in (*_ALPACA, *_BESIDE) if columns.get(key)}
        wanted = {str(column) for column in named.values()} & set(first)
        _compare(name, wanted, {column for column in form.columns if column in first})
        if (named.get("prompt"), named.get("response")) != form.columns[:2]:
            asked, answered = form.columns[:2]
            raise Refusal(f"'{name}': weitiao reads the columns {asked} as questions and {answered} as answers", TRAIN)
        return
    messages = str((columns or {}).get("messages", "conversations"))
    wanted = {messages, *(str(columns[key]) for key in _BESIDE if columns and columns.get(key))} & set(first)
    _compare(name, wanted, {column for column in form.columns if column in first})
    tags = entry.get("tags") or {}
    for key, (usual, role) in _TAGS.items():
        turn = {tags.get("role_tag", "from"): tags.get(key, usual), tags.get("content_tag", "value"): "{}"}
        if key == "function_tag":
            turn[tags.get("content_tag", "value")] = '{"name": "a", "arguments": {}}'
        try:
            known = message_of(turn)["role"]
        except DataError:
            known = None
        if known != role:
            raise Refusal(f"'{name}': weitiao does not read {said(turn)} as a turn of {role}", TRAIN)


def _compare(name: str, wanted: set[str], read: set[str]) -> None:
    if wanted != read:
        theirs, here = ", ".join(sorted(wanted)) or "none", ", ".join(sorted(read))
        raise Refusal(f"'{name}' uses the columns {theirs}; weitiao would read {here}: rename them in the file", TRAIN)
