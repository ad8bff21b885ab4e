"""A Python script or notebook that trains with transformers' Trainer -> its keys. It is read and never run.

TrainingArguments' keys stand at the top. The other calls are groups of their name: LoraConfig, from_pretrained, AutoTokenizer,
tokenizer, load_dataset, train_test_split, Trainer. What else is done to their results has keys of its own, and what is not known to
leave the run alone is `other code`.
"""

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any

from weitiao.converting.notebook import NotebookError, code_of
from weitiao.converting.python_names import READ, Code, Names, code, last_name
from weitiao.converting.python_objects import MODEL, TOKENIZES, Objects

_ARGUMENTS = ("TrainingArguments", "Seq2SeqTrainingArguments")
_TRAINERS = ("Trainer", "Seq2SeqTrainer")
_POSITIONS = {
    "TrainingArguments": ("output_dir",), "from_pretrained": ("name",), "AutoTokenizer": ("name",), "load_dataset": ("path", "name"),
    "tokenizer": ("text", "text_pair"), "Trainer": ("model", "args", "data_collator", "train_dataset", "eval_dataset"),
    "LoraConfig": (), "train_test_split": ("test_size",),
}  # fmt: skip
_LARGEST = 1_000_000  # characters of code
Chosen = Callable[[ast.Call], bool]


class Unreadable(Exception):
    """Why a script has no keys: what was found."""


def keys_of(text: str, is_notebook: bool) -> dict[str, Any]:
    """The keys of a script.

    Raises:
        Unreadable: no Python, no notebook, no TrainingArguments, more than one run, or two different calls of a kind.
    """
    try:
        text = code_of(text) if is_notebook else text
        if len(text) > _LARGEST:
            raise Unreadable(f"Found {len(text):,} characters of code, and the most is {_LARGEST:,}")
        return _keys(_Script(ast.parse(text)))
    except NotebookError as error:
        raise Unreadable(f"Found no valid notebook: {error}") from None
    except SyntaxError as error:
        raise Unreadable(f"Found no valid Python, line {error.lineno}") from None
    except ValueError:
        raise Unreadable("Found no valid Python") from None
    except (RecursionError, MemoryError):
        raise Unreadable("Found code that is nested too deeply, or no valid Python") from None


def _keys(script: "_Script") -> dict[str, Any]:
    arguments = script.one("TrainingArguments", _ARGUMENTS)
    if arguments is None:
        raise Unreadable("Found no TrainingArguments")
    script.refuse_more_than_one_run()
    keys = dict(arguments)
    groups: dict[str, tuple[str, ...] | Chosen] = {
        "from_pretrained": script.loads_model, "LoraConfig": ("LoraConfig",), "AutoTokenizer": script.loads_tokenizer,
        "tokenizer": script.cuts_rows, "load_dataset": ("load_dataset",), "train_test_split": script.splits, "Trainer": _TRAINERS,
    }  # fmt: skip
    for group, chosen in groups.items():
        try:
            found = script.one(group, chosen)
        except Unreadable as error:
            if group != "load_dataset":
                raise
            keys["select"] = Code(str(error))  # of two sources only the user knows what each is for
            continue
        if found is not None:
            keys[group] = found
    for name, value in script.others():
        if isinstance(value, dict):
            before = keys.setdefault(name, {})  # a column that is renamed twice
            keys[name] |= {new: before.pop(old, old) for new, old in value.items()}
        else:
            keys[name] = Code(f"{keys[name]}; {value}" if name in keys else value)
    return keys


class _Script:
    """The calls of a script up to its last training, and what its names stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self.names = Names(tree)
        nodes = list(ast.walk(tree))
        self.objects = Objects(nodes, self.names)
        self.after = self._after_training(tree)
        self.nodes = [node for node in nodes if node not in self.after]
        calls = [node for node in self.nodes if isinstance(node, ast.Call)]
        self.calls = sorted(calls, key=lambda call: (call.end_lineno or 0, call.end_col_offset or 0))
        self.functions = any(
            call in self.names.in_function and self.objects.kind(call.func) == "tokenizer" for call in self.calls
        )
        self.defined = {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)}

    def _trains(self, node: ast.AST) -> bool:
        """trainer.train() or Trainer(...).train()."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "train":
            return False
        made = node.func.value
        direct = isinstance(made, ast.Call) and self.names.named(made.func) in _TRAINERS
        return direct or self.objects.kind(made) == "trainer"

    def _after_training(self, tree: ast.Module) -> set[ast.AST]:
        """What stands behind the last training in the same block: it uses the model, and changes no run."""
        found: set[ast.AST] = set()
        for node in ast.walk(tree):
            for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
                if not isinstance(block, list):
                    continue
                last = max((i for i, one in enumerate(block) if any(map(self._trains, ast.walk(one)))), default=None)
                if last is not None and not self._defines_training(block[last]):
                    found.update(inner for one in block[last + 1 :] for inner in ast.walk(one))
        return found

    def _defines_training(self, statement: ast.AST) -> bool:
        """A function or class that trains when it is called, which may be later."""
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
        inside = (one for one in ast.walk(statement) if isinstance(one, kinds))
        return any(self._trains(inner) for one in inside for inner in ast.walk(one))

    def refuse_more_than_one_run(self) -> None:
        """Raise Unreadable for a second training, or one in a loop."""
        runs = [call for call in self.calls if self._trains(call)]
        if len(runs) > 1:
            raise Unreadable(f"Found {len(runs)} trainings, in lines {', '.join(str(run.lineno) for run in runs)}")
        made = [call for call in self.calls if self.names.named(call.func) in (*_ARGUMENTS, *_TRAINERS)]
        if around := next((call for call in [*runs, *made] if call in self.names.in_loop), None):
            raise Unreadable(f"Found a training in a loop, line {around.lineno}: more than one run")

    def one(self, group: str, chosen: tuple[str, ...] | Chosen) -> dict[str, Any] | None:
        """The arguments of the calls of a kind, which must all have the same ones; None without a call."""
        is_one = chosen if callable(chosen) else lambda call: self.names.named(call.func) in chosen
        found = [(call.lineno, self._arguments(group, call)) for call in self.calls if is_one(call)]
        if any(arguments != found[0][1] for _, arguments in found):
            lines = ", ".join(str(line) for line, _ in found)
            raise Unreadable(f"Found {len(found)} different calls of {group}, in lines {lines}: more than one run")
        return found[0][1] if found else None

    def loads_model(self, call: ast.Call) -> bool:
        is_adapter = isinstance(call.func, ast.Attribute) and "Peft" in self.names.named(call.func.value)
        return self.objects.made_by(call) == "model" and last_name(call.func) == "from_pretrained" and not is_adapter

    def loads_tokenizer(self, call: ast.Call) -> bool:
        return self.objects.made_by(call) == "tokenizer"

    def cuts_rows(self, call: ast.Call) -> bool:
        """A tokenizer that is called inside a function: tokenizer(examples["text"], ...)."""
        called = (
            call.func.value if last_name(call.func) in TOKENIZES and isinstance(call.func, ast.Attribute) else call.func
        )
        if self.functions and call not in self.names.in_function:
            return False  # a look at one text, next to the function that is mapped
        has_text = bool(call.args) or any(keyword.arg == "text" for keyword in call.keywords)
        return has_text and self.objects.kind(called) == "tokenizer"

    def splits(self, call: ast.Call) -> bool:
        """rows.train_test_split(...) of the rows that train."""
        return (
            isinstance(call.func, ast.Attribute)
            and call.func.attr == "train_test_split"
            and self.objects.trains_on(call.func.value)
        )

    def others(self) -> Iterator[tuple[str, Any]]:
        """What else decides how a run trains, as (name of its rule, code)."""
        yield from (("other code", found) for found in self.names.foreign)
        if not any(map(self._trains, self.calls)):
            yield "other code", "no call of Trainer's train()"
        for name in ("Trainer", "TrainingArguments", "LoraConfig", *_ARGUMENTS):
            if name in self.defined:
                yield "other code", f"{name} of the script's own"
        for call in self.calls:
            yield from self._call(call)
        for node in self.nodes:
            if isinstance(node, ast.ClassDef):
                yield from self._class(node)
            if found := self.objects.change(node):
                yield found, str(code(node))
        yield from self._unused()
        adapted = any(self.names.named(call.func) == "get_peft_model" for call in self.calls)
        configured = any(self.names.named(call.func) == "LoraConfig" for call in self.calls)
        if configured != adapted:
            yield (
                "other code",
                "LoraConfig without get_peft_model" if configured else "get_peft_model without LoraConfig",
            )

    def _unused(self) -> Iterator[tuple[str, str]]:
        """Functions that decide a run and are never called."""
        used = {node.id for node in self.nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        used |= {node.attr for node in self.nodes if isinstance(node, ast.Attribute)}
        for node in self.nodes:
            if isinstance(node, ast.FunctionDef) and node.name not in used:
                calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
                if any(self.names.named(one.func) in (*READ, "from_pretrained") for one in calls):
                    yield "other code", f"{node.name}() is not called"

    def _class(self, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
        bases = [self.names.named(base) for base in node.bases]
        if any(name.endswith("Trainer") for name in bases):
            yield "other Trainer", f"class {node.name}"
        elif any(name == "Module" or name.endswith("PreTrainedModel") or MODEL.fullmatch(name) for name in bases):
            yield "other code", f"class {node.name}, a model of the script's own"

    def _call(self, call: ast.Call) -> Iterator[tuple[str, Any]]:
        name = self.names.named(call.func)
        if call in self.names.in_branch and name in (
            "LoraConfig",
            "get_peft_model",
            "from_pretrained",
            *_ARGUMENTS,
            *_TRAINERS,
        ):
            yield "other code", f"{name} in a branch, line {call.lineno}"
        if name in READ and self.names.is_foreign(call.func):
            yield "other code", str(code(call.func))
        if name == "rename_column" and isinstance(call.func, ast.Attribute):
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            given |= dict(zip(("original_column_name", "new_column_name"), call.args, strict=False))
            old, new = (self.names.value(given.get(f"{one}_column_name", call)) for one in ("original", "new"))
            if type(old) is type(new) is str:
                yield name, {new: old}
            else:
                yield "other code", str(code(call))
        elif name.endswith("Trainer") and name not in _TRAINERS and self.objects.made_by(call) is None:
            yield "other Trainer", str(code(call))
        elif self._trains(call) and any(self.names.value(given) not in (None, False) for given in (*call.args, *(k.value for k in call.keywords))):  # fmt: skip
            yield "other code", str(code(call))
        elif (found := self.objects.call(call)) is not None:
            yield found, str(code(call))

    def _arguments(self, group: str, call: ast.Call) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if group == "from_pretrained" and isinstance(call.func, ast.Attribute):
            owner = self.names.named(call.func.value)
            found["class"] = Code(f"{owner} of the script's own") if owner in self.defined else owner
        if group == "LoraConfig":
            found["task_type"] = None
        names = _POSITIONS[group]
        for number, given in enumerate(call.args):
            name = (
                names[number]
                if number < len(names) and not isinstance(given, ast.Starred)
                else f"argument {number + 1}"
            )
            found[name] = self._column(given) if group == "tokenizer" else self._value(group, name, given)
        for keyword in call.keywords:
            value = self._value(group, keyword.arg, keyword.value)
            if keyword.arg is None and isinstance(value, dict) and all(isinstance(name, str) for name in value):
                found |= value
                continue
            name = keyword.arg or f"**{code(keyword.value)}"
            name = "name" if name == "pretrained_model_name_or_path" else name
            is_column = group == "tokenizer" and name in ("text", "text_pair")
            found[name] = self._column(keyword.value) if is_column else value if keyword.arg else Code(name)
        return found

    def _value(self, group: str, name: str | None, node: ast.expr) -> Any:
        """Rows stay as the call has them, and are Code where they may be others than the part `train`."""
        if group != "Trainer" or name not in ("train_dataset", "eval_dataset"):
            return self.names.value(node)
        return "".join(code(node)) if self.objects.is_train_part(node) else code(node)

    def _column(self, node: ast.expr) -> Any:
        """examples["text"], also inside list(...): the column. Else Code."""
        columns = {
            one.slice.value
            for one in ast.walk(node)
            if isinstance(one, ast.Subscript)
            and isinstance(one.slice, ast.Constant)
            and isinstance(one.slice.value, str)
        }
        plain = re.fullmatch(r"(list\()?\w+\[[^\[\]]+\](\.tolist\(\)|\.to_list\(\))?\)?", str(code(node)))
        return columns.pop() if len(columns) == 1 and plain else code(node)
