"""Names of a Python script: what each stands for, where that can be known without running it."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_BRANCHES = (ast.If, ast.IfExp, ast.BoolOp, ast.Try, ast.TryStar, ast.Match, *_LOOPS)
_ENUMS = ("TaskType", "IntervalStrategy", "EvaluationStrategy", "SaveStrategy", "SchedulerType", "OptimizerNames", "HubStrategy")  # fmt: skip


_LIBRARIES = ("transformers", "peft", "datasets", "__future__")
READ = ("TrainingArguments", "Seq2SeqTrainingArguments", "Trainer", "Seq2SeqTrainer", "LoraConfig", "get_peft_model", "load_dataset", "AutoTokenizer")  # fmt: skip


_MODELS = re.compile(r"(Auto|[a-z])?(Model$|For(Sequence|Token)Classification$|ForCausalLM$)")


PARAMETER = ast.Name("a parameter")  # what a function's own name stands for


class Code(str):
    """What a script computes. Its value is not known before it runs."""


def code(node: ast.AST) -> Code:
    """The source of a node, or its line where it is too deep to be written."""
    try:
        found = ast.unparse(node)
    except (RecursionError, ValueError):
        found = f"line {getattr(node, 'lineno', '?')}"
    return Code(found)


def last_name(node: ast.AST) -> str:
    """The last name of a, a.b or a().b."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def root(node: ast.AST) -> str:
    """The first name of a.b[0].c; that of a call is what is called upon."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def is_main_guard(node: ast.AST) -> bool:
    """if __name__ == "__main__": which a script that is run always enters."""
    return (
        isinstance(node, ast.If) and root(node.test.left if isinstance(node.test, ast.Compare) else node) == "__name__"
    )


class Names:
    """What a module's names stand for, and which code stands in a branch or a loop."""

    def __init__(self, tree: ast.Module) -> None:
        self.aliases: dict[str, str] = {}
        self.bound: dict[str, list[ast.expr | None]] = {}  # None: a value that is not known
        self.in_branch: set[ast.AST] = set()
        self.in_loop: set[ast.AST] = set()
        self.in_function: set[ast.AST] = set()
        self.imported: set[str] = set()
        self.modules: dict[str, str] = {}  # name -> the module that it stands for
        self.foreign: list[str] = []  # imports that may stand for a name of the libraries, or for any
        self._walk(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute | ast.Subscript) and (name := self._changed(node)):
                self.bound.setdefault(name, []).append(None)

    def _walk(self, start: ast.AST) -> None:
        waiting = [(start, False, False, False)]
        while waiting:
            node, branch, loop, function = waiting.pop()
            for place, is_in in ((self.in_branch, branch), (self.in_loop, loop), (self.in_function, function)):
                if is_in:
                    place.add(node)
            for name, value in _bindings(node):
                self.bound.setdefault(name, []).append(None if branch else value)
            if isinstance(node, ast.ImportFrom | ast.Import):
                self._import(node)
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Name)
                and isinstance(node.targets[0], ast.Name)
            ):
                self.aliases[node.targets[0].id] = self.aliases.get(node.value.id, node.value.id)
            deeper = branch or (isinstance(node, _BRANCHES) and not is_main_guard(node))
            around = loop or isinstance(node, _LOOPS)
            inside = function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            waiting += [(child, deeper, around, inside) for child in ast.iter_child_nodes(node)]

    def _import(self, node: ast.ImportFrom | ast.Import) -> None:
        self.aliases |= {one.asname: one.name.rpartition(".")[2] for one in node.names if one.asname}
        self.imported |= {one.asname or one.name.partition(".")[0] for one in node.names}
        from_libraries = isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _LIBRARIES
        if isinstance(node, ast.Import):
            self.modules |= {one.asname or one.name.partition(".")[0]: one.name.partition(".")[0] for one in node.names}
        elif not from_libraries:
            taken = [one.name for one in node.names if one.name in (*READ, "*") or _MODELS.search(one.name)]
            self.foreign += [f"from {node.module} import {name}" for name in taken]

    def is_foreign(self, func: ast.AST) -> bool:
        """a.Trainer of another module than the libraries."""
        return isinstance(func, ast.Attribute) and self.modules.get(root(func), "transformers") not in _LIBRARIES

    def _changed(self, node: ast.Attribute | ast.Subscript) -> str:
        """The name of a list or mapping of the script that is changed in place, or might be: x.append, x[0] = 1."""
        first = root(node)
        values = self.bound.get(first, [])
        if not any(isinstance(value, ast.List | ast.Dict | ast.Set) for value in values):
            return ""
        return first if isinstance(node, ast.Attribute) or isinstance(node.ctx, ast.Store | ast.Del) else ""

    def named(self, node: ast.AST) -> str:
        """The last name of what is called, behind its alias."""
        found = last_name(node)
        return self.aliases.get(found, found) if isinstance(node, ast.Name) else found

    def only(self, name: str) -> ast.expr | None:
        """The one value that a name is given in the whole script, outside branches; None where there is more to it."""
        found = self.bound.get(name, [])
        return found[0] if len(found) == 1 and found[0] is not PARAMETER else None

    def value(self, node: ast.expr) -> Any:
        """A literal: itself, behind a name that is given once, behind Path(...), or a member of a library's enumeration. Else Code."""
        seen: set[str] = set()
        found: ast.expr | None = node
        while found is not None:
            if isinstance(found, ast.Name) and found.id not in seen:
                seen.add(found.id)
                found = self.only(found.id)
            elif isinstance(found, ast.Call) and self.named(found.func) == "Path" and len(found.args) == 1:
                found = found.args[0]
            else:
                break
        if found is None or isinstance(found, ast.Name):
            return code(node)
        if isinstance(found, ast.Attribute) and self.named(found.value) in _ENUMS:
            return found.attr
        if (
            isinstance(found, ast.Attribute)
            and root(found) == "torch"
            and found.attr in ("float32", "float16", "bfloat16")
        ):
            return found.attr
        try:
            literal = ast.literal_eval(found)
            literal = sorted(literal) if isinstance(literal, set) else literal
            json.dumps(literal, ensure_ascii=False).encode()  # no bytes, no lone surrogates
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return code(found)
        return list(literal) if isinstance(literal, tuple) else literal


def _bindings(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Names that a node gives a value, and the value where it is one expression."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                yield target.id, node.value
            else:
                yield from ((one.id, None) for one in ast.walk(target) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store))  # fmt: skip
    elif isinstance(node, ast.AugAssign | ast.NamedExpr | ast.For | ast.AsyncFor | ast.Delete | ast.withitem):
        for one in ast.walk(node.optional_vars or node.context_expr if isinstance(node, ast.withitem) else node):
            if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store | ast.Del):
                yield one.id, None
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, None
    elif isinstance(node, ast.ImportFrom | ast.Import):
        yield from ((one.asname or one.name.partition(".")[0], None) for one in node.names)
    elif isinstance(node, ast.arg):
        yield node.arg, PARAMETER
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar | ast.Global | ast.Nonlocal):
        names = node.names if isinstance(node, ast.Global | ast.Nonlocal) else [node.name]
        yield from ((name, None) for name in names if name)
