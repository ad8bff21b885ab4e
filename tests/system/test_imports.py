"""A command leaves out what it never uses of torch, transformers and peft; whatever is used after all is the real thing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.beyond_check  # each starts processes

# What nobody needs for a run: torch.compile with its symbols, sharded tensors, peft's 4-bit layers, detection losses.
UNUSED = (
    "torch._dynamo.utils",
    "torch._inductor",
    "sympy.core",
    "torch.distributed.tensor",
    "bitsandbytes",
    "scipy.optimize",
)


# Each case is forked from one process that has loaded the libraries: what it imports, no other case sees.
FORKED = """
from weitiao.system.imports import load_libraries
load_libraries()
import json, os, sys
cases, arguments = json.loads(sys.argv[1]), sys.argv[2:]
for name, code in cases.items():
    if os.fork() == 0:
        sys.argv[1:] = arguments
        space = {"json": json, "sys": sys, "name": name}
        exec(code, space)
        print(json.dumps({name: space["found"]}), flush=True)
        os._exit(0)
    os.wait()
"""


def in_new_processes(cases: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run each code in a process of its own after load_libraries(). Returns the variable `found` of each, by name."""
    done = subprocess.run([sys.executable, "-c", FORKED, json.dumps(cases), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    assert found.keys() == cases.keys(), done.stderr
    return found


def test_a_run_does_without(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    """Planned, trained and evaluated, full and with LoRA."""
    run = f"""
import weitiao
options = {{
    "model": sys.argv[1], "data": {{"train": sys.argv[2], "test_size": 16}}, "method": {{"type": name}},
    "train": {{"bf16": False, "max_steps": 2}}, "output": {{"dir": sys.argv[3] + name}},
}}
run = weitiao.train(options)
assert (run.path / "plan.json").is_file()
weitiao.predict(run.path, text="很好看")
names = {UNUSED!r}
standing_in = [name for name in names if type(sys.modules.get(name)).__name__ == "StandIn"]
found = [n for n in names if n in sys.modules and n not in standing_in]
"""
    loaded = in_new_processes(dict.fromkeys(("full", "lora"), run), str(tiny_model), str(rows_file), f"{tmp_path}/")
    # metrics are sklearn's, which imports scipy.optimize itself
    assert set(loaded["full"]) | set(loaded["lora"]) <= {"scipy.optimize"}


USED = """
import numpy, torch
from torch.distributed.tensor import DTensor, Shard
import sympy
from scipy.optimize import linear_sum_assignment
from transformers.loss import loss_for_object_detection as losses
from transformers import masking_utils
x = sympy.Symbol("x")
with masking_utils.TransformGetItemToIndex():
    taken = torch.arange(3)[torch.tensor(1)].item()
compiled = torch.compile(lambda value: 2 * value + 1, backend="eager")(torch.ones(2)).tolist()
found = {
    "compiled": compiled, "taken": taken, "square": str(sympy.expand((x + 1) ** 2)), "shard": repr(Shard(0)),
    "assigned": [part.tolist() for part in losses.linear_sum_assignment(numpy.array([[2, 1], [1, 2]]))],
    "real": linear_sum_assignment.__module__, "available": torch.distributed.is_available(),
}
"""
PARTS = (
    "import torch._dynamo.utils as part; real = part.same",
    "from torch._dynamo.aot_compile_types import BundledAOTAutogradSerializableCallable as real",
    "import sympy.core.numbers as part; real = part.Integer",
    "import torch._dynamo.config as part; real = part.verbose",
    "from importlib.util import find_spec; assert find_spec('sympy'); from sympy import Symbol as real",
    "import torch.distributed.tensor.placement_types as part; real = part.Shard",
    "torch.use_deterministic_algorithms(True); import torch._inductor.config as part; real = part.deterministic",
)


@pytest.mark.beyond_test
def test_what_stands_in_and_its_parts_become_real_when_they_are_used() -> None:
    parts = {code: f"import torch\n{code}\nfound = type(real).__name__" for code in PARTS}
    found = in_new_processes({"used": USED, **parts})
    assert found.pop("used") == {
        "compiled": [3.0, 3.0],
        "taken": 1,
        "square": "x**2 + 2*x + 1",
        "shard": "Shard(dim=0)",
        "assigned": [[0, 1], [1, 0]],
        "real": "scipy.optimize._lsap",
        "available": True,
    }
    assert "StandIn" not in found.values(), found


def test_torch_compile_gets_what_it_needs() -> None:
    code = "from weitiao.system.imports import load_libraries\nload_libraries(compiles=True)\nimport torch._dynamo as found\nprint(type(found).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "module"


def test_plain_answers_are_those_of_torch() -> None:
    import torch
    from torch.fx.experimental import symbolic_shapes

    from weitiao.system.stand_ins import PLAIN_ANSWERS

    cases: dict[str, list[tuple[Any, ...]]] = {
        "expect_true": [(True,), (True, 1)],
        "guard_or_false": [(True,), (False,)],
        "guard_or_true": [(True,), (False,)],
        "statically_known_true": [(True,), (False,)],
        "is_nested_int": [(3,)],
        "sym_and": [(True,), (True, False), (True, True, True)],
        "sym_or": [(False,), (True, False), (False, False)],
        "sym_eq": [(3, 3), (3, 4), ((1, 2), (1, 2)), ((1, 2), (1, 3)), ((1,), (1, 2)), (torch.Size([2]), (2,))],
        "free_unbacked_symbols": [(torch.ones(2, 3),), (3,)],
    }
    assert cases.keys() == PLAIN_ANSWERS.keys()
    for name, values in cases.items():
        for value in values:
            plain, real = PLAIN_ANSWERS[name](*value), getattr(symbolic_shapes, name)(*value)
            assert plain == real or (not plain and not real), (name, value)


def test_the_names_of_transformers_are_remembered(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from weitiao.system.import_structure import remembered
folder = Path(sys.argv[1])
with remembered(folder):
    import transformers
from transformers.utils import import_utils
models = Path(transformers.__file__).parent / "models"
own = import_utils.create_import_structure_from_path
found = own(models)
(kept,) = folder.iterdir() if folder.is_dir() else [None]
print(json.dumps([len(found), found == own.__closure__[own.__code__.co_freevars.index("read")].cell_contents(models),
                  kept and str(kept)]))
"""
    start = "import json, sys\n"

    def names(folder: Path) -> Any:
        done = subprocess.run([sys.executable, "-c", start + code, str(folder)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    count, same, kept = names(tmp_path / "cache")
    assert count > 300
    assert same
    written = Path(kept).stat().st_mtime_ns
    assert names(tmp_path / "cache") == [count, True, kept]
    assert Path(kept).stat().st_mtime_ns == written  # read, not written again
    Path(kept).write_text("[[broken", encoding="utf-8")
    assert names(tmp_path / "cache") == [count, True, kept]
    (tmp_path / "file").touch()
    assert names(tmp_path / "file") == [count, True, None]  # no folder to keep them in: read as ever
