"""Functions are short and calls are readable. `python tests/test_shape.py` prints the longest functions and calls."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "weitiao"
MOST_LINES = 60
MOST_POSITIONAL = 5
ROOMS = ("training", "comparison", "data", "run.py")  # where length is held to MOST_LINES


def parsed() -> Iterator[tuple[Path, ast.AST]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE), ast.parse(path.read_text(encoding="utf-8"))


def functions() -> list[tuple[int, Path, str]]:
    """(lines, file, name) of every function, the longest first. A docstring counts, decorators do not."""
    found = []
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append(((node.end_lineno or node.lineno) - node.lineno + 1, path, node.name))
    return sorted(found, key=lambda row: (-row[0], str(row[1])))


def calls() -> list[tuple[int, Path, int, str]]:
    """(positional arguments, file, line, what is called) of every call, the most arguments first."""
    found = []
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and not any(isinstance(argument, ast.Starred) for argument in node.args):
                found.append((len(node.args), path, node.lineno, ast.unparse(node.func)))
    return sorted(found, key=lambda row: (-row[0], str(row[1])))


def test_functions_are_short() -> None:
    long = [row for row in functions() if row[0] > MOST_LINES and row[1].parts[0] in ROOMS]
    assert not long, "\n".join(f"{lines} lines: {path} {name}" for lines, path, name in long)


def test_no_call_has_many_positional_arguments() -> None:
    # logging, and what torch compiles or differentiates, take their values by position only
    by_position_only = re.compile(r"^(log|torch\.ops)\.|\.apply$")
    many = [row for row in calls() if row[0] > MOST_POSITIONAL and not by_position_only.search(row[3])]
    assert not many, "\n".join(f"{count} arguments: {path}:{line} {name}" for count, path, line, name in many)


def main() -> None:
    print("lines  function")
    for lines, path, name in functions()[:15]:
        print(f"{lines:5}  {path} {name}")
    print("positional arguments  call")
    for count, path, line, name in calls()[:10]:
        print(f"{count:20}  {path}:{line} {name}")


if __name__ == "__main__":
    sys.exit(main())
