"""ms-swift's data sets: `path:subset#N`, several of them."""

from collections.abc import Callable
from pathlib import Path

from weitiao.converting.rows import count, form_of, hub_name, place
from weitiao.converting.rules import At, Found, Refusal
from weitiao.converting.values import BadValue

_PLACEHOLDERS = ("swift/self-cognition", "modelscope/self-cognition")


def datasets(option: str) -> Callable[[At], Found]:
    """The rule of `dataset` or `val_dataset`."""

    def read(at: At) -> Found:
        given = at.value if isinstance(at.value, list) else [at.value]
        specs, notes = list[str](), dict[str, None]()
        for one in given:
            if not isinstance(one, str) or not one.strip():
                raise BadValue("expected the names of data sets")
            spec, note = _one(one, at, option)
            specs.append(spec)
            notes |= {note: None} if note else {}
        return Found("mapped", {option: specs[0] if len(specs) == 1 else specs}, "; ".join(notes))

    return read


def _one(word: str, at: At, option: str) -> tuple[str, str]:
    name, _, sample = word.partition("#")
    rows = int(sample) if sample.isdecimal() and int(sample) else None
    if sample and rows is None:
        raise Refusal(f"'{word}' takes no number of rows", (option,))
    name = name.removeprefix("HF::").removeprefix("MS::")
    in_order = str(at.top.get("dataset_shuffle", True)).lower() == "false" or bool(at.top.get("streaming"))
    share = "" if rows is None else f"#{rows}" + (":head" if in_order else "")
    local = place(name, at.folder)
    if local is None:
        return _of_hub(name, option) + share, "from Hugging Face: check its columns with weitiao data check"
    kind = "classification" if at.top.get("task_type") == "seq_cls" else "sft"
    form, first = form_of(local, kind)
    if form is not None and kind == "sft" and form.kind != "sft":
        raise Refusal(f"weitiao finds no conversations in {local}, columns {', '.join(first)}", (option,))
    if form is not None and kind == "classification" and form.kind not in ("classification", "labels", "number"):
        why = f"weitiao finds no text and label in {local}, columns {', '.join(first)}"
        raise Refusal(why, (option,))
    if rows is not None and Path(local).is_file() and rows > (held := count(local)):
        raise Refusal(f"{local} has {held} rows, and ms-swift would repeat them up to {rows}", (option,))
    return local + share, ""


def _of_hub(name: str, option: str) -> str:
    base, _, subset = name.partition(":")
    if base in _PLACEHOLDERS:
        raise Refusal(
            f"{base} holds placeholders for a name and an author, which weitiao would learn as they are", (option,)
        )
    if subset:
        raise Refusal(f"'{name}' names a subset, which weitiao does not read from a hub", (option,))
    try:
        return hub_name(base)
    except Refusal as refusal:
        raise Refusal(refusal.reason, (option,)) from None
