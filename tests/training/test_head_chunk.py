"""How many learnt tokens the head takes at a time: fixed for a run by a GPU's free memory, and by the same rule in its plan."""

import json
from pathlib import Path
from typing import Any

import pytest

import weitiao
from conftest import tiny_llama
from support.llm import load
from weitiao.config.loading import RunConfig, as_config
from weitiao.kernels.head import CHUNK_BYTES, chunk_tokens, fix_chunk, fixed_chunk
from weitiao.planning.blueprint import draw
from weitiao.planning.rows import read_inputs
from weitiao.tasks import causal_lm
from weitiao.training import fit

GB = 10**9


@pytest.mark.parametrize(
    ("vocabulary", "free", "tokens"),
    [
        (49152, None, CHUNK_BYTES // (4 * 49152)),  # a CPU
        (151936, 140 * GB, 4096),
        (151936, 24 * GB, 2048),
        (151936, 4 * GB, 512),  # 2,048 would be 2.5 GB of logits
        (32000, 80 * GB, 8192),
        (32000, 1 * GB, 512),
        (151936, 0, 1),
    ],
)
def test_the_rule(vocabulary: int, free: int | None, tokens: int) -> None:
    assert chunk_tokens(vocabulary, free) == tokens


def test_it_is_for_causal_models_whose_head_has_chunks(tmp_path: Path, tiny_model: Path) -> None:
    model = load(tiny_llama(tmp_path / "llama"))
    assert fix_chunk(model, GB) is None  # it takes no targets yet
    causal_lm.prepare_model(model)
    vocabulary = model.config.vocab_size
    assert fixed_chunk(model) is None
    assert fix_chunk(model, GB) == chunk_tokens(vocabulary, GB) == fixed_chunk(model)
    assert fix_chunk(model, 50 * GB, before=7) == 7


def test_a_run_that_goes_on_keeps_its_chunks(
    chat_options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other free memory than it began with; the losses are the same bits. Only the look at the memory is replaced."""
    vocabulary = json.loads((Path(chat_options["model"]) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    free = [8 * vocabulary * 16 * 4]  # a quarter would hold 16 tokens
    monkeypatch.setattr(fit, "_free_bytes", lambda resolved: free[0])
    train = {**chat_options["train"], "generate_rows": 0, "logging_steps": 1, "save_steps": 1, "eval_strategy": "no"}
    options = {**chat_options, "method": {"type": "full"}, "train": train}
    seen: list[int] = []

    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] == 2:
            raise Stop

    def losses(run: Any) -> list[float]:
        return [event["loss"] for event in run.events() if event["event"] == "log"]

    fix = fit.fix_chunk
    monkeypatch.setattr(fit, "fix_chunk", lambda *a: seen.append(fix(*a)) or seen[-1])
    whole = weitiao.train({**options, "output": {"dir": str(tmp_path / "whole")}})
    with pytest.raises(Stop):
        weitiao.train({**options, "output": {"dir": str(tmp_path / "cut")}}, listener=stop)
    free[0] *= 64
    resumed = weitiao.train(resume=tmp_path / "cut")
    assert seen == [16, 16, 16]
    assert losses(resumed) == losses(whole)


def test_the_plan_has_the_same_rule(chat_options: dict[str, Any]) -> None:
    from dataclasses import replace

    config = as_config(RunConfig, chat_options)
    inputs = read_inputs(config)
    assert fixed_chunk(draw(config, inputs, 24 * GB).model) is None  # a CPU's
    inputs = replace(inputs, resolved=replace(inputs.resolved, device="cuda", attention="auto"))
    model = draw(config, inputs, 24 * GB).model
    assert fixed_chunk(model) == chunk_tokens(model.config.vocab_size, 24 * GB)
