"""A Python script or notebook that trains with transformers' Trainer -> its keys. It is read and never run.

TrainingArguments' keys stand at the top. The other calls are groups of their name: LoraConfig, from_pretrained, tokenizer,
load_dataset, train_test_split, Trainer. Code that changes the rows, or what of the model trains, has keys of its own.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

_ARGUMENTS = ("TrainingArguments", "Seq2SeqTrainingArguments")
_MODEL = re.compile(r"(Auto)?Model(For\w+)?|\w+For\w+")
_TRAINERS = ("Trainer", "Seq2SeqTrainer")
# Calls that change the rows of a data set, and configurations of peft that are not LoRA's.
_ROWS = (
    "select",
    "filter",
    "map",
    "shuffle",
    "sort",
    "rename_column",
    "rename_columns",
    "cast_column",
    "class_encode_column",
)
_PEFT = (
    "AdaLoraConfig", "IA3Config", "PrefixTuningConfig", "PromptTuningConfig", "PromptEncoderConfig", "VeraConfig", "LoHaConfig",
    "LoKrConfig", "OFTConfig", "BOFTConfig", "LNTuningConfig", "FourierFTConfig", "XLoraConfig", "MissConfig", "BoneConfig",
)  # fmt: skip
_POSITIONS = {
    "TrainingArguments": ("output_dir",), "from_pretrained": ("name",), "load_dataset": ("path", "name"),
    "tokenizer": ("text", "text_pair"), "Trainer": ("model", "args"), "LoraConfig": (), "train_test_split": ("test_size",),
}  # fmt: skip


class Unreadable(Exception):
    """Why a script has no keys: what was found."""


class Code(str):
    """What a script computes. Its value is not known before it runs."""


def keys_of(text: str, is_notebook: bool) -> dict[str, Any]:
    """The keys of a script.

    Raises:
        Unreadable: no Python, no notebook, no TrainingArguments, or two different calls of a kind.
    """
    try:
        tree = ast.parse(_of_notebook(text) if is_notebook else text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last: nested too deeply
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise Unreadable(f"Found no valid Python{line}") from None
    script = _Script(tree)
    arguments = script.one("TrainingArguments", _named(*_ARGUMENTS))
    if arguments is None:
        raise Unreadable("Found no TrainingArguments")
    keys = dict(arguments)
    for group, chosen in (
        ("from_pretrained", script.loads_model), ("LoraConfig", _named("LoraConfig")), ("tokenizer", script.cuts_rows),
        ("load_dataset", _named("load_dataset")), ("train_test_split", script.splits), ("Trainer", _named(*_TRAINERS)),
    ):  # fmt: skip
        if found := script.one(group, chosen):
            keys[group] = found
    for name, code in script.others():
        keys[name] = Code(f"{keys[name]}; {code}" if name in keys else code)
    return keys


def _of_notebook(text: str) -> str:
    """The code of its cells, without the lines that are commands of the notebook or the shell."""
    found = json.loads(text)
    cells = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ValueError("no cells")
    code = ["".join(cell.get("source", "")) for cell in cells if cell.get("cell_type") == "code"]
    lines = "\n".join(code).splitlines()
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


Chosen = Callable[[ast.Call], bool]


def _name(node: ast.expr) -> str:
    """The last name of what is called."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _named(*names: str) -> Chosen:
    return lambda call: _name(call.func) in names


def _owner(call: ast.Call) -> str:
    return _name(call.func.value) if isinstance(call.func, ast.Attribute) else ""


class _Script:
    """The calls of a script in their order, and the names that stand for one literal."""

    def __init__(self, tree: ast.Module) -> None:
        self.nodes = list(ast.walk(tree))
        calls = [node for node in self.nodes if isinstance(node, ast.Call)]
        self.calls = sorted(calls, key=lambda call: (call.lineno, call.col_offset))
        self.values: dict[str, list[ast.expr]] = {}
        for node in self.nodes:
            for name, value in _bound(node):
                self.values.setdefault(name, []).append(value)

    def one(self, group: str, chosen: Chosen) -> dict[str, Any] | None:
        """The arguments of the calls of a kind, which must all have the same ones; None without a call."""
        found = [(call.lineno, self._arguments(group, call)) for call in self.calls if chosen(call)]
        if any(arguments != found[0][1] for _, arguments in found):
            lines = ", ".join(str(line) for line, _ in found)
            raise Unreadable(f"Found {len(found)} different calls of {group}, in lines {lines}: more than one run")
        return found[0][1] if found else None

    def loads_model(self, call: ast.Call) -> bool:
        return _name(call.func) == "from_pretrained" and bool(_MODEL.fullmatch(_owner(call)))

    def cuts_rows(self, call: ast.Call) -> bool:
        """A tokenizer that is called with a column: tokenizer(examples["text"], ...)."""
        made = self.values.get(_name(call.func), [])
        is_one = any(isinstance(one, ast.Call) and "Tokenizer" in _owner(one) for one in made)
        return is_one and bool(call.args) and isinstance(call.args[0], ast.Subscript)

    def splits(self, call: ast.Call) -> bool:
        """dataset.train_test_split(...), not scikit-learn's function, whose rows no load_dataset names."""
        return _name(call.func) == "train_test_split" and isinstance(call.func, ast.Attribute)

    def others(self) -> Iterator[tuple[str, str]]:
        """What else decides how a run trains, as (name of its rule, code)."""
        for call in self.calls:
            name, code = _name(call.func), ast.unparse(call)
            if name in _ROWS and isinstance(call.func, ast.Attribute):
                yield name, code
            elif name == "requires_grad_":
                yield "requires_grad", code
            elif name in _PEFT:
                yield "peft", code
            elif name.endswith("Trainer") and name not in _TRAINERS:
                yield "other Trainer", code
        for node in self.nodes:
            if isinstance(node, ast.ClassDef) and any(_name(base).endswith("Trainer") for base in node.bases):
                yield "other Trainer", f"class {node.name}"
            targets = node.targets if isinstance(node, ast.Assign) else ()
            if any(isinstance(target, ast.Attribute) and target.attr == "requires_grad" for target in targets):
                yield "requires_grad", ast.unparse(node)

    def _arguments(self, group: str, call: ast.Call) -> dict[str, Any]:
        found: dict[str, Any] = {"class": _owner(call)} if group == "from_pretrained" else {}
        names = _POSITIONS[group]
        for number, given in enumerate(call.args):
            name = names[number] if number < len(names) else f"argument {number + 1}"
            found[name] = self._column(given) if group == "tokenizer" else self._value(given)
        for keyword in call.keywords:
            name = keyword.arg or f"**{ast.unparse(keyword.value)}"
            found[name] = self._value(keyword.value) if keyword.arg else Code(name)
        return found

    def _value(self, node: ast.expr) -> Any:
        """A literal, also behind a name that is given once and behind Path(...); else the code."""
        if isinstance(node, ast.Name) and len(found := self.values.get(node.id, [])) == 1 and found[0] is not node:
            node = found[0] if not isinstance(found[0], ast.Name) else node
        try:
            found = ast.literal_eval(node)
            json.dumps(found)  # neither a set nor bytes
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return Code(ast.unparse(node))
        return list(found) if isinstance(found, tuple) else found

    def _column(self, node: ast.expr) -> Any:
        return self._value(node.slice) if isinstance(node, ast.Subscript) else Code(ast.unparse(node))


def _bound(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names that a statement gives a value: an assignment, a parameter's default, a changed or looped-over name."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            for one in ast.walk(target):
                if isinstance(one, ast.Name):
                    yield one.id, node.value if one is target else one
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr | ast.For):
        if isinstance(node.target, ast.Name):
            yield node.target.id, node.value if isinstance(node, ast.AnnAssign) and node.value else node.target
    elif isinstance(node, ast.arg):
        yield node.arg, ast.Name(node.arg)
