"""A configuration of another tool as one of weitiao, and what became of every key."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.config.loading import read_words, validate
from weitiao.config.run import RunConfig
from weitiao.converting import axolotl, hf_trainer, llamafactory, swift, trl
from weitiao.converting.reading import Source, read
from weitiao.converting.rows import two_kinds
from weitiao.converting.rules import At, Fate, Found, Refusal
from weitiao.converting.schema import Conversion, ConvertedKey
from weitiao.converting.tool import Rest, Tool
from weitiao.converting.values import BadValue, said
from weitiao.converting.writing import Line, as_tree, as_yaml, write
from weitiao.errors import ConfigError

TOOLS: dict[str, Tool] = {
    tool.name: tool for tool in (llamafactory.TOOL, swift.TOOL, trl.TOOL, axolotl.TOOL, hf_trainer.TOOL)
}
_LISTS = ("data.train", "data.eval", "train.report_to")  # that several keys add to
_FATES: tuple[Fate, ...] = ("mapped", "differs", "ignored", "replaced", "left out", "refused", "unknown")


@dataclass
class _Key:
    """A key of the file and what became of it."""

    name: str
    value: Any
    found: Found


@dataclass
class _Work:
    """The options so far, with the keys that they come from."""

    tool: Tool
    words: Mapping[str, Any]
    without: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def convert(
    source: str | Path,
    tool: str,
    words: Sequence[str] = (),
    without: Sequence[str] = (),
    output: str | Path | None = None,
) -> Conversion:
    """Read a configuration of ``tool`` and write it as one of weitiao.

    Args:
        source: its file: YAML, JSON or a shell script with one training command; for trainer a Python script or notebook.
        tool: llamafactory, swift, trl, axolotl or trainer.
        words: weitiao's own options, as ``data.train=rows.jsonl``; they win, and settle what a key cannot.
        without: keys to leave out.
        output: a new file for the YAML.

    Raises:
        ConfigError: the file cannot be read, a key is refused or unknown, a question is open, or ``output`` exists.
    """
    made = examine(source, tool, words, without)
    if reason := refusal(made):
        raise ConfigError(reason)
    if output is not None and made["yaml"] is not None:
        write(Path(output), made["yaml"])
        made["output"] = str(output)
    return made


def examine(source: str | Path, tool: str, words: Sequence[str] = (), without: Sequence[str] = ()) -> Conversion:
    """The same without an error for keys that cannot be kept: ``config`` is then null, and ``keys`` says why."""
    if tool not in TOOLS:
        raise ConfigError(
            f"Found --from {tool}.\nExpected one of: {', '.join(TOOLS)}.\nName the tool that the file is of."
        )
    path = Path(source)
    file = read(path, TOOLS[tool])
    work = _Work(TOOLS[tool], dict(read_words(RunConfig, words)), frozenset(without))
    names = [label for label, *_ in _entries(file, TOOLS[tool], work.without)]
    if strange := sorted(work.without - set(names)):
        raise ConfigError(
            f"Found --without {', '.join(strange)}.\nExpected keys of {path}.\nIt has: {', '.join(names)}."
        )
    keys = [_Key(label, value, _decide(work, at)) for label, value, at in _entries(file, TOOLS[tool], work.without)]
    keys += [_Key(name, value, _of_environment()) for name, value in file.environment.items()]
    _merge(work, keys)
    return _conversion(path, file, work, keys)


def _entries(file: Source, tool: Tool, without: frozenset[str]) -> Iterator[tuple[str, Any, At]]:
    """Every key with its label, value and place; mappings that the table opens are opened."""
    top = {key: value for key, value in file.keys.items() if value is not None and key not in without}
    for key, value in file.keys.items():
        inner = value if isinstance(value, list) else [value]
        opened = f"{key}[]." if isinstance(value, list) else f"{key}."
        if (
            not any(name.startswith(opened) for name in tool.rules)
            or not inner
            or not all(isinstance(one, dict) for one in inner)
        ):
            yield key, value, At(key, value, top, top, file.folder)
            continue
        for number, group in enumerate(inner):
            shown = f"{key}[{number}]" if isinstance(value, list) else key
            if not group:
                yield shown, group, At(opened.rstrip("."), group, top, top, file.folder)
            for name, one in group.items():
                yield f"{shown}.{name}", one, At(f"{opened}{name}", one, group, top, file.folder)


def _of_environment() -> Found:
    return Found("ignored", {}, "a variable of the shell: set it where you start weitiao, if it has a part there")


def _decide(work: _Work, at: At) -> Found:
    """What becomes of one key, before keys meet."""
    label = at.name
    rule = work.tool.rules.get(label)
    opens = any(name.startswith((f"{label}.", f"{label}[].")) for name in work.tool.rules)
    if at.value is None and (opens or (rule is not None and not rule.null)):
        return Found("ignored", {}, "null, so not set")
    if opens and at.value in ({}, []):
        return Found("ignored", {}, "empty, so not set")
    if rule is None:
        return _unknown(at)
    try:
        return rule.read(at)
    except Refusal as refusal:
        if answers := [path for path in refusal.settles if path in work.words]:
            return Found("replaced", {}, _by_word(work, answers))
        more = f". Settled by {' or '.join(f'{path}=VALUE' for path in refusal.settles)}" if refusal.settles else ""
        return Found("refused", {}, refusal.reason + more)
    except BadValue as error:
        return Found("refused", {}, str(error))


def _unknown(at: At) -> Found:
    return Found("unknown", {}, "not known to this version; nothing was done with it")


def _by_word(work: _Work, paths: Sequence[str]) -> str:
    return ", ".join(f"{path}={said(work.words[path])}" for path in paths) + " on the command line"


def _merge(work: _Work, keys: list[_Key]) -> None:
    """Options of all keys together; two keys that contradict each other are refused, words win, --without leaves out."""
    for key in keys:
        if key.name in work.without:
            key.found = Found("left out", {}, f"--without: {key.found.reason}".removesuffix(": "))
            continue
        given = dict(key.found.options)
        paths = [*given, *([key.found.within] if key.found.within else [])]
        if paths and all(path in work.words for path in paths):
            key.found = Found("replaced", {}, _by_word(work, paths))
            continue
        clash = next(
            (path for path, value in given.items() if path not in _LISTS and work.options.get(path, value) != value),
            None,
        )
        if clash is not None:
            others = ", ".join(work.origins[clash])
            reason = f"{clash} is {said(work.options[clash])} by {others}, and {said(given[clash])} by this key"
            key.found = Found("refused", {}, f"{reason}. Settled by {clash}=VALUE")
            continue
        if mixed := _mixed(work, given):
            key.found = Found("refused", {}, f"{mixed[1]}. Settled by {mixed[0]}=VALUE")
            continue
        for path, value in given.items():
            if path in _LISTS and path in work.options:
                value = _joined(work, path, value)
            work.options[path] = value
            work.origins.setdefault(path, []).append(key.name)
            if key.found.fate == "differs":
                work.notes.setdefault(path, []).append(f"differs: {key.found.reason}")


def _joined(work: _Work, path: str, value: Any) -> list[Any]:
    return list(dict.fromkeys([*_listed(work.options.get(path, [])), *_listed(value)]))


def _mixed(work: _Work, given: Mapping[str, Any]) -> tuple[str, str] | None:
    """The option whose sources hold rows of two kinds, and which."""
    asked = "sft" if work.options.get("task", "causal_lm") == "causal_lm" else "classification"
    for path in _LISTS[:2]:
        if path in given and (why := two_kinds(_joined(work, path, given[path]), asked)):
            return path, why
    return None


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _conversion(path: Path, file: Source, work: _Work, keys: list[_Key]) -> Conversion:
    top = {key: value for key, value in file.keys.items() if value is not None and key not in work.without}
    known = {
        path: value[0] if isinstance(value, list) and len(value) == 1 and path in _LISTS[:2] else value
        for path, value in work.options.items()
    }
    rest = Rest()
    with suppress(BadValue, Refusal):  # the key itself is refused
        work.tool.finish(top, known | dict(work.words), rest)
    settled = {**known, **work.words}
    defaults = [one for one in rest.defaults if one.option not in settled]
    held = {*settled, *(one.option for one in defaults)}
    questions = [one for one in rest.questions if one.option not in held and not _refuses(keys, one.option)]
    made: Conversion = {
        "tool": work.tool.name,  # type: ignore[typeddict-item]
        "source": str(path),
        "output": None,
        "config": None,
        "yaml": None,
        "keys": [_plain(key) for key in keys],
        "counts": {fate: sum(key.found.fate == fate for key in keys) for fate in _FATES},
        "defaults": [{"option": one.option, "value": one.value, "reason": one.reason} for one in defaults],
        "questions": [{"option": one.option, "reason": one.reason} for one in questions],
        "unused_commands": list(file.unused),
    }
    if made["counts"]["refused"] or made["counts"]["unknown"] or questions:
        return made
    lines = [
        Line(name, value, ", ".join([*work.origins[name], *work.notes.get(name, [])]))
        for name, value in known.items()
        if name not in work.words
    ]
    lines += [Line(one.option, one.value, one.reason) for one in defaults]
    lines += [Line(name, value, "given on the command line") for name, value in work.words.items()]
    tree = as_tree(lines)
    validate(RunConfig, tree)
    made["config"], made["yaml"] = tree, as_yaml(lines, _head(path, work.tool, keys))
    return made


def _refuses(keys: list[_Key], option: str) -> bool:
    """Whether a refused key says already that ``option`` is to be given."""
    return any(key.found.fate == "refused" and f"{option}=" in key.found.reason for key in keys)


def _plain(key: _Key) -> ConvertedKey:
    found = key.found
    return {
        "key": key.name,
        "value": key.value,
        "fate": found.fate,
        "options": dict(found.options),
        "reason": found.reason,
    }


def _head(path: Path, tool: Tool, keys: list[_Key]) -> list[str]:
    lines = [
        f"Made by weitiao convert from {path.name} of {tool.title}. Behind each option: the key that it comes from."
    ]
    lines += [
        f"Not the same: {key.name}: {key.found.reason}."
        for key in keys
        if key.found.fate == "differs" and not key.found.options
    ]
    return lines + [f"Left out: {key.name}." for key in keys if key.found.fate == "left out"]


def refusal(made: Conversion) -> str | None:
    """The message of a configuration that cannot be converted as it is, in three lines; None where it can."""
    bad = [key["key"] for key in made["keys"] if key["fate"] in ("refused", "unknown")]
    asked = [f"{one['option']} ({one['reason']})" for one in made["questions"]]
    if not bad and not asked:
        return None
    found = [f"{len(bad)} key{'s' * (len(bad) > 1)} that cannot be kept: {', '.join(bad)}"] if bad else []
    found += [f"nothing that decides {'; '.join(asked)}"] if asked else []
    what = "Give weitiao's own option behind the command (data.train=FILE)"
    what += ", or leave a key out (--without KEY)" if bad else ""
    what += _other_tool(made)
    reasons = [f"{key['key']}: {key['reason']}" for key in made["keys"] if key["fate"] in ("refused", "unknown")]
    why = (
        f"Expected keys that weitiao can keep. {'; '.join(reasons)}"
        if bad
        else "Expected each option that is trained with to be said"
    )
    return f"Found {' and '.join(found)}.\n{why}.\n{what}."


def _other_tool(made: Conversion) -> str:
    """Where most keys are unknown and another tool knows more of them: its name."""
    names = [key["key"].partition(".")[0].partition("[")[0] for key in made["keys"]]
    known = Counter(
        {
            tool.name: sum(
                any(rule.partition(".")[0].removesuffix("[]") == name for rule in tool.rules) for name in names
            )
            for tool in TOOLS.values()
            if tool.reads_python == TOOLS[made["tool"]].reads_python
        }
    )
    best, count = known.most_common(1)[0]
    if made["counts"]["unknown"] == 0 or count <= known[made["tool"]]:
        return ""
    return f". {count} of {len(names)} keys are {TOOLS[best].title}'s: --from {best}?"
