"""The one command of a shell script that trains, as keys: `swift sft --model X --dataset a b`."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.converting.tool import Tool
from weitiao.errors import ConfigError

_SET = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_ENDS = re.compile(r"[;&|]+")
_SUM = re.compile(r"\$\(\(\s*(\S+?)\s*([-+*/])\s*(\S+?)\s*\)\)|\$\(\s*expr\s+(\S+)\s+([-+/]|\\\*)\s+(\S+?)\s*\)")
_REDIRECTED = re.compile(r"\s(?:\d|&)?>{1,2}\s*(?:&\d|[^\s;|&]+)")
_CONFIGS = (".yaml", ".yml", ".json")


@dataclass
class Script:
    """What a script says of training."""

    keys: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()  # configurations that the command reads
    environment: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def is_script(path: Path, text: str) -> bool:
    """Whether a file is a shell script, by its name or its first line."""
    return path.suffix.lower() in (".sh", ".bash") or text.startswith("#!")


def command_of(path: Path, text: str, tool: Tool) -> Script:
    """The training command of ``tool``.

    Raises:
        ConfigError: none, several, one that trains something else, an open quotation mark, or a variable that is not set.
    """
    variables, exported = dict[str, str](), dict[str, str]()
    found, unused = list[Script](), list[str]()
    commands = (part for line in _lines(path, text) for part in _parts(_words(path, _plain(line, variables))))
    for words in commands:
        own = dict[str, str]()
        if words[0] == "export":
            words = words[1:]
            exported |= {m[1]: m[2] for word in words if (m := _SET.fullmatch(word))}
            variables |= exported
            continue
        while words and (m := _SET.fullmatch(words[0])):
            own[m[1]] = _filled(path, m[2], variables, needed=False)
            words = words[1:]
        if not words:
            variables |= own
            continue
        at = _trains(path, words, tool)
        if at is None:
            unused.append(" ".join(words[:2]))
            continue
        script = Script(environment=own)
        _read(path, script, [_filled(path, word, variables) for word in words[at:]])
        found.append(script)
    if len(found) != 1:
        names = " or ".join(" ".join(words) for words, why in tool.commands.items() if why is None)
        raise _wrong(path, f"Found {len(found)} commands of {names}", "exactly one")
    found[0].environment = exported | found[0].environment
    found[0].unused = tuple(unused)
    return found[0]


def _lines(path: Path, text: str) -> Iterator[str]:
    """Whole lines. One goes on behind a backslash or inside quotation marks."""
    held = ""
    for line in text.replace("\r\n", "\n").splitlines():
        if held and line.lstrip().startswith("#") and not _open_mark(held):
            raise _wrong(path, "Found a comment inside a command, which ends it there", "comments between commands")
        whole = _uncommented(held + line)
        if whole.endswith("\\"):
            held = whole[:-1] + " "
        elif _open_mark(whole):
            held = whole + "\n"
        else:
            held = ""
            yield whole
    if held.strip():
        if _open_mark(held):
            raise _wrong(path, "Found a quotation mark that is not closed", "whole commands")
        yield held


def _plain(line: str, variables: dict[str, str]) -> str:
    """A line without redirections, and with sums of numbers computed: $((16 / $N)) and $(expr 16 / $N)."""

    def computed(match: re.Match[str]) -> str:
        one, sign, other = (part for part in match.groups() if part is not None)
        numbers = [_VARIABLE.sub(lambda m: variables.get(m[1] or m[2], "?"), part) for part in (one, other)]
        if not all(number.isdecimal() for number in numbers) or (sign == "/" and int(numbers[1]) == 0):
            return match[0]
        a, b = map(int, numbers)
        return str({"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[sign.lstrip("\\")])

    line = _SUM.sub(computed, line)
    return _REDIRECTED.sub(lambda match: match[0] if _open_mark(line[: match.start()]) else " ", line)


def _words(path: Path, line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        return list(lexer)
    except ValueError as error:
        raise _wrong(path, f"Found a line that is no command: {error}", "whole commands") from None


def _open_mark(text: str) -> str:
    """The quotation mark that is still open at the end of a text."""
    mark, skip = "", False
    for character in text:
        if skip:
            skip = False
        elif character == "\\" and mark != "'":
            skip = True
        elif mark:
            mark = "" if character == mark else mark
        elif character in "'\"":
            mark = character
    return mark


def _uncommented(text: str) -> str:
    """A line without the comment at its end."""
    for at, character in enumerate(text):
        if character == "#" and (at == 0 or text[at - 1].isspace()) and not _open_mark(text[:at]):
            return text[:at]
    return text


def _parts(words: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in [*words, ";"]:
        if not _ENDS.fullmatch(word):
            part.append(word)
        elif part:
            yield part
            part = []


def _trains(path: Path, words: Sequence[str], tool: Tool) -> int | None:
    """Where the options of a training command begin; None of another command."""
    plain = [Path(word).name for word in words]
    for at in range(len(plain)):
        for names, why in tool.commands.items():
            if tuple(plain[at : at + len(names)]) == names:
                if why is not None:
                    raise _wrong(path, f"Found the command {' '.join(names)}", why)
                return at + len(names)
    return None


def _read(path: Path, script: Script, words: Sequence[str]) -> None:
    name: str | None = None
    values: dict[str, list[str]] = {}
    files: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, sep, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if name in values:
                raise _wrong(path, f"Found --{name} twice", "each option once")
            values[name] = [value] if sep else []
        elif name is not None and not (values[name] and _is_override(word)):
            values[name].append(word)
        elif word.endswith(_CONFIGS):
            files.append(word)
        elif _is_override(word):  # llamafactory-cli train x.yaml key=value
            key, _, value = word.partition("=")
            values[key] = [value]
        else:
            raise _wrong(path, f"Found the word {word} without an option in front", "options such as --model NAME")
    files += values.pop("config", [])
    script.files = tuple(files)
    script.keys = {key: _value(found) for key, found in values.items()}


def _is_override(word: str) -> bool:
    return bool(re.fullmatch(r"[a-z_]+=.*", word))


def _value(words: Sequence[str]) -> Any:
    """No word: true; one: what it reads as; several: a list."""
    if not words:
        return True
    found = [_scalar(word) for word in words]
    return found[0] if len(found) == 1 else found


def _scalar(word: str) -> Any:
    text = word.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text in ("None", "null"):
        return None
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            return word
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return word


def _filled(path: Path, word: str, variables: dict[str, str], needed: bool = True) -> str:
    """A word with the variables that the script itself sets."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in variables and needed:
            raise _wrong(path, f"Found the variable ${name}, which the script does not set", "its value in the script")
        return variables.get(name, match[0])

    if needed and ("$(" in word or "`" in word):
        raise _wrong(path, f"Found a command inside the command, {word}", "its value in the script")
    return _VARIABLE.sub(value, word)


def _wrong(path: Path, found: str, expected: str) -> ConfigError:
    return ConfigError(
        f"{path}: {found}.\nExpected {expected}.\nKeep that one command in the file, or write its options as YAML."
    )
