"""Plans of a model without a tokenizer, and what a plan says where nothing fits."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.config_alone import GPU
from weitiao.config.method import PromptConfig
from weitiao.errors import NoTokenizerError
from weitiao.measure.devices import DEVICES
from weitiao.planning.display import caption
from weitiao.planning.estimate import HOLES_SHARE
from weitiao.system import allocator


def test_a_recipe_is_planned_with_a_model_that_has_no_tokenizer(config_alone: Path, tmp_path: Path) -> None:
    """Its own rows are counted, each as long as a row may be; real steps and a run need the tokenizer."""
    rows = (
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]} for i in range(40)
    )
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"train": str(tmp_path / "rows.jsonl"), "max_length": 96, "test_size": 10, "near_duplicates": "off"}
    given = {"model": str(config_alone), "task": "causal_lm", "data": data, "output": {"dir": str(tmp_path / "run")}}
    plan = weitiao.plan(given, device=GPU)
    assert plan["rows"] == {"train": 30, "eval": 10, "longest_tokens": 96}
    assert any("no tokenizer: each row counts as 96 tokens" in note for note in plan["methods"][0]["notes"])
    with pytest.raises(NoTokenizerError, match="no tokenizer files"):
        weitiao.plan(given, calibrate=True)
    with pytest.raises(NoTokenizerError, match="no tokenizer files"):
        weitiao.train(given)
    prompt = weitiao.plan({**given, "method": {"type": "prompt"}, "data": {**data, "max_length": 9_000}}, device=GPU)
    lengths = [method["largest_batch"]["tokens"] for method in prompt["methods"]]
    assert lengths[:2] == [8192, 8192]  # the model's positions, of which a prompt takes some
    assert lengths[2] == 8192 - PromptConfig().num_virtual_tokens


@pytest.mark.parametrize(("room", "names"), [(10**4, ["full", "lora", "qlora"]), (10**12, ["full", "lora"])])
def test_where_nothing_fits_qlora_is_planned_too(
    room: int, names: list[str], config_alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = dataclasses.replace(DEVICES["T4-16GB"], name="toy", memory_bytes=room)
    monkeypatch.setitem(DEVICES, "toy", toy)
    given = {"model": str(config_alone), "task": "causal_lm", "method": {"type": "lora", "r": 4}}
    plan = weitiao.plan(given, rows=64, tokens=64, device="toy")
    assert [method["name"] for method in plan["methods"]] == names
    by_name = {method["name"]: method for method in plan["methods"]}
    if "qlora" in names:
        assert by_name["qlora"]["num_trainable_params"] == by_name["lora"]["num_trainable_params"]
        assert by_name["qlora"]["memory_bytes"]["weights"] < by_name["lora"]["memory_bytes"]["weights"]
    own = weitiao.plan({**given, "method": {"type": "qlora"}}, rows=64, tokens=64, device="toy")
    assert [method["name"] for method in own["methods"]] == ["full", "lora", "qlora"]
    asked = weitiao.plan(given, methods=["lora"], rows=64, tokens=64, device="toy")
    assert [method["name"] for method in asked["methods"]] == ["lora"]


@pytest.mark.parametrize(
    ("parts", "again", "tip"),
    [
        ({"optimizer": 9}, False, "method.type=lora"),
        ({"weights": 9}, False, "method.type=qlora"),
        ({"activations": 9}, False, "train.gradient_checkpointing=full, lower train.tokens_per_batch"),
        ({"other": 9}, False, "use a smaller model"),
        ({"activations": 9}, "full", ": lower train.tokens_per_batch"),
    ],
)
def test_what_to_do_follows_the_largest_part(parts: dict[str, int], again: Any, tip: str, config_alone: Path) -> None:
    plan = weitiao.plan({"model": str(config_alone), "task": "causal_lm"}, methods=["full"], rows=64, tokens=64)
    method = plan["methods"][0]
    memory: Any = dict.fromkeys(method["memory_bytes"], 1) | parts
    method |= {"fits": "no", "memory_bytes": memory, "gradient_checkpointing": again}
    assert tip in caption(plan)


def test_holes_of_the_heap_are_planned_where_an_allocator_leaves_them(
    config_alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not where layers are computed again, whose large blocks are kept out of the heap."""

    def method(leaves: bool, again: str | bool) -> Any:
        monkeypatch.setattr(allocator, "leaves_holes", lambda: leaves)
        train = {"bf16": False, "gradient_checkpointing": again, "tokens_per_batch": 2048}
        given = {"model": str(config_alone), "task": "causal_lm", "train": train}
        return weitiao.plan(given, methods=["lora"], rows=64, tokens=2048)["methods"][0]

    without, leaving, again = method(False, False), method(True, False), method(True, "full")
    holes = leaving["memory_bytes"]["other"] - without["memory_bytes"]["other"]
    assert holes == pytest.approx(HOLES_SHARE * 2048 * leaving["activation_bytes_per_token"], rel=1e-3)
    assert holes > 1_000_000
    assert again["memory_bytes"]["other"] == without["memory_bytes"]["other"]
