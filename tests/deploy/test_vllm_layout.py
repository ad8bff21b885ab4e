"""deploy/vllm_layout.py on folders that weitiao writes: which of them vLLM loads, and why not the others."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import weitiao

FILE = Path(__file__).parents[2] / "deploy" / "vllm_layout.py"


@pytest.fixture(scope="module")
def layout() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vllm_layout", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(tiny_chat_model: Path, chats_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a language model by different methods, and one of them merged."""
    folder = tmp_path_factory.mktemp("runs")
    train = {"bf16": False, "max_steps": 1, "tokens_per_batch": 256, "generate_rows": 0, "eval_strategy": "no"}
    data = {"train": str(chats_file), "test_size": 8, "near_duplicates": "off"}
    for name, method in {
        "lora": {"type": "lora", "r": 8},
        "rslora": {"type": "lora", "r": 20, "use_rslora": True},
        "dora": {"type": "lora", "r": 8, "use_dora": True},
        "pissa": {"type": "pissa", "r": 8},
        "ia3": {"type": "ia3"},
        "prompt": {"type": "prompt"},
        "full": {"type": "full"},
    }.items():
        weitiao.train({"model": str(tiny_chat_model), "task": "causal_lm", "data": data, "train": train, "method": method, "output": {"dir": str(folder / name)}})  # fmt: skip
    weitiao.merge(folder / "dora", output=folder / "merged")
    return folder


def test_a_lora_run_is_loaded(layout: ModuleType, runs: Path, tiny_chat_model: Path) -> None:
    problems, command = layout.check(runs / "lora" / "model", "chats")
    assert problems == []
    assert command == ["vllm", "serve", str(tiny_chat_model), "--enable-lora", "--lora-modules", f"chats={runs / 'lora' / 'model'}"]  # fmt: skip


def test_what_another_start_leaves_is_loaded(layout: ModuleType, runs: Path) -> None:
    assert layout.check(runs / "pissa" / "model").problems == []


def test_a_rank_above_vllms_default_is_asked_for(layout: ModuleType, runs: Path) -> None:
    problems, command = layout.check(runs / "rslora" / "model")
    assert problems == []
    assert command[-2:] == ["--max-lora-rank", "32"]


@pytest.mark.parametrize(("name", "reason"), [("dora", "vLLM loads no DoRA. Merge it"), ("ia3", "peft_type is IA3: vLLM loads LoRA alone. Merge it"), ("prompt", "PROMPT_TUNING: vLLM loads LoRA alone, and this cannot be merged")])  # fmt: skip
def test_what_is_not_loaded_is_named(name: str, reason: str, layout: ModuleType, runs: Path, capsys: Any) -> None:
    assert layout.main([str(runs / name / "model")]) == 1
    said = capsys.readouterr().out
    assert reason in said
    assert "vllm serve" not in said


@pytest.mark.parametrize("name", ["merged", "full/model"])
def test_whole_models_are_loaded(name: str, layout: ModuleType, runs: Path, capsys: Any) -> None:
    assert layout.main([str(runs / name)]) == 0
    assert capsys.readouterr().out == f"vllm serve {runs / name}\n"


def changed(folder: Path, target: Path, **keys: Any) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    (target / "adapter_config.json").write_text(json.dumps(config | keys), encoding="utf-8")
    return target


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"bias": "all"}, "bias is all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern is set"),
        ({"r": 1024}, "vLLM takes 512 at most"),
        ({"r": None}, "lacks r"),
        ({"task_type": "SEQ_CLS"}, "Use weitiao serve"),
    ],
)
def test_configurations(keys: dict[str, Any], reason: str, layout: ModuleType, runs: Path, tmp_path: Path) -> None:
    problems = layout.check(changed(runs / "lora" / "model", tmp_path / "m", **keys)).problems
    assert any(reason in problem for problem in problems), problems


def test_tensors(layout: ModuleType, runs: Path, tmp_path: Path) -> None:
    folder = changed(runs / "lora" / "model", tmp_path / "m")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    first, *rest = sorted(tensors)
    save_file({"model.score.weight": tensors[first], **{name: tensors[name] for name in rest}}, file)
    problems = layout.check(folder).problems
    assert any("cannot read the name model.score.weight" in problem for problem in problems)
    assert any("has lora_A or lora_B alone" in problem for problem in problems)
    file.unlink()
    assert layout.check(folder).problems == ["no adapter_model.safetensors"]


def test_incomplete_models(layout: ModuleType, runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(runs / "merged", folder)
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").unlink()
    assert layout.check(folder).problems == ["no model.safetensors", "no tokenizer.json"]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert "no model-1.safetensors" in layout.check(folder).problems
    (folder / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    assert any("vLLM writes no text with it" in problem for problem in layout.check(folder).problems)


def test_it_needs_nothing_but_python(runs: Path) -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-I", "-S", FILE, runs / "merged"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
