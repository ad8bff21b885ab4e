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


def in_new_process(code: str, *arguments: str) -> Any:
    """Run ``code`` after load_libraries(), and return the JSON that it prints last."""
    start = "from weitiao.system.imports import load_libraries\nload_libraries()\nimport json, sys\n"
    done = subprocess.run([sys.executable, "-c", start + code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_does_without(method: str, tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    """Planned, trained and evaluated."""
    run = f"""
import weitiao
options = {{
    "model": sys.argv[1], "data": {{"train": sys.argv[2], "test_size": 16}}, "method": {{"type": "{method}"}},
    "train": {{"bf16": False, "max_steps": 2}}, "output": {{"dir": sys.argv[3]}},
}}
run = weitiao.train(options)
assert (run.path / "plan.json").is_file()
weitiao.predict(run.path, text="很好看")
names = {UNUSED!r}
standing_in = [name for name in names if type(sys.modules.get(name)).__name__ == "StandIn"]
"""
    # metrics are sklearn's, which imports scipy.optimize itself
    loaded = in_new_process(
        run + "print(json.dumps([n for n in names if n in sys.modules and n not in standing_in]))",
        str(tiny_model), str(rows_file), str(tmp_path / "run"),
    )  # fmt: skip
    assert set(loaded) <= {"scipy.optimize"}


def test_what_stands_in_becomes_real_when_it_is_used() -> None:
    found = in_new_process(
        """
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
print(json.dumps({
    "compiled": compiled, "taken": taken, "square": str(sympy.expand((x + 1) ** 2)), "shard": repr(Shard(0)),
    "assigned": [part.tolist() for part in losses.linear_sum_assignment(numpy.array([[2, 1], [1, 2]]))],
    "real": linear_sum_assignment.__module__, "available": torch.distributed.is_available(),
}))
"""
    )
    assert found == {
        "compiled": [3.0, 3.0],
        "taken": 1,
        "square": "x**2 + 2*x + 1",
        "shard": "Shard(dim=0)",
        "assigned": [[0, 1], [1, 0]],
        "real": "scipy.optimize._lsap",
        "available": True,
    }


@pytest.mark.parametrize(
    "code",
    [
        "import torch._dynamo.utils as part; real = part.same",
        "from torch._dynamo.aot_compile_types import BundledAOTAutogradSerializableCallable as real",
        "import sympy.core.numbers as part; real = part.Integer",
        "import torch._dynamo.config as part; real = part.verbose",
        "from importlib.util import find_spec; assert find_spec('sympy'); from sympy import Symbol as real",
        "import torch.distributed.tensor.placement_types as part; real = part.Shard",
        "torch.use_deterministic_algorithms(True); import torch._inductor.config as part; real = part.deterministic",
    ],
)
def test_a_part_of_what_stands_in_is_imported_for_real(code: str) -> None:
    found = in_new_process(f"import torch\n{code}\nprint(json.dumps(type(real).__name__))")
    assert found != "StandIn"


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
