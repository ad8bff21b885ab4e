"""Advice: the article's conditions, what would flip an answer, and the command on real files."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import weitiao
from support.cells import config_of, finish_cells
from support.fork_server import ForkServer
from weitiao.advice.asked import asked_of
from weitiao.advice.decide import decide, flips
from weitiao.advice.facts import Compared, Costs, Facts
from weitiao.advice.next_command import next_command
from weitiao.advice.rules import RULES, table
from weitiao.comparison.merge import report
from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import load
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError, RunError
from weitiao.methods.method import SHORTEST, RunLength

GB = 10**9
# Compute suffices, and nothing is known of the task.
PLAIN = Facts(
    full=Costs(3 * GB, 600, 470_000_000, 117_000_000),
    lora=Costs(2 * GB, 450, 6_000_000, 1_500_000),
    room_bytes=20 * GB,
    train_rows=5000,
    num_classes=None,
)
# The article's conditions (little data is none: docs/advise.md): what makes each true, the rule that must hold, and the method it speaks for.
CONDITIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "enough compute": ({}, "enough_compute", "full"),
    "task far from pre-training": ({"probe": 0.6, "majority": 0.5}, "far_task", "full"),
    "best quality wanted": ({"goal": "quality"}, "best_quality", "full"),
    "limited compute": ({"room_bytes": 3 * GB}, "limited_compute", "lora"),
    "quick iteration": ({"goal": "iteration"}, "quick_iteration", "lora"),
    "many tasks": ({"tasks": 5}, "many_tasks", "lora"),
    "shared base": ({"shared_base": True}, "shared_base", "lora"),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_conditions(name: str) -> None:
    changes, rule, method = CONDITIONS[name]
    facts = replace(PLAIN, **changes)
    decision = decide(facts)
    assert decision.method == method
    held = {r.name: r for r in decision.rules}
    assert held[rule].speaks_for == method
    for text in held[rule].reason(facts):
        assert text
    assert rule in table() or held[rule].condition[0] in table()


def test_each_condition_moves_the_balance_its_way() -> None:
    before = decide(PLAIN).points
    for name, (changes, rule, method) in CONDITIONS.items():
        if rule == "enough_compute":
            continue
        after = decide(replace(PLAIN, **changes)).points
        gained = {m: after[m] - before[m] for m in ("full", "lora")}
        other = "lora" if method == "full" else "full"
        assert gained[method] > max(0, gained[other]), name  # type: ignore[index]


def test_what_does_not_fit_is_never_advised() -> None:
    wish = replace(
        PLAIN, goal="quality", room_bytes=int(2.5 * GB), compared=Compared("full", "quality", "accuracy", 0.1, 6)
    )
    assert (decide(wish).method, decide(wish).sure) == ("lora", "clear")
    nothing = replace(PLAIN, room_bytes=GB)
    assert decide(nothing).method is None
    assert {flip.method for flip in flips(nothing)} == {"full"}  # memory for full is memory enough


def test_a_comparison_outweighs_the_general_rules() -> None:
    for_lora = replace(PLAIN, goal="iteration", tasks=3, compared=Compared("full", "quality", "accuracy", 0.02, 6))
    assert decide(for_lora).method == "full"
    undecided = replace(PLAIN, compared=Compared("undecided", "open", "accuracy", 0.001, 6))
    assert decide(undecided).points == decide(PLAIN).points


def test_unknown_facts_stay_silent() -> None:
    silent = {rule.name for rule in RULES if rule.holds(PLAIN) is None}
    assert silent == {
        "far_task", "near_task", "adapter_too_small", "adapter_holds_enough", "compared_full", "compared_lora",
    }  # fmt: skip


facts = st.builds(
    Facts,
    full=st.builds(Costs, st.integers(GB, 9 * GB), st.floats(1, 1e5), st.just(470_000_000), st.just(117_000_000)),
    lora=st.builds(Costs, st.integers(GB, 9 * GB), st.floats(1, 1e5), st.just(6_000_000), st.integers(100, 10**7)),
    room_bytes=st.integers(GB // 2, 20 * GB),
    train_rows=st.integers(1, 10**6),
    num_classes=st.none() | st.integers(1, 100),
    majority=st.none() | st.floats(0.01, 1),
    probe=st.none() | st.floats(0, 1),
    unknown_share=st.none() | st.floats(0, 1),
    compared=st.none()
    | st.builds(Compared, st.sampled_from(["full", "lora", "undecided"]), st.just("quality"), st.just("accuracy"), st.none() | st.floats(-1, 1), st.just(6)),
    goal=st.sampled_from(["balance", "quality", "iteration"]),
    hours=st.floats(0.01, 100),
    tasks=st.integers(1, 9),
    shared_base=st.booleans(),
)  # fmt: skip


@given(facts)
def test_any_case_gets_an_answer_with_words_for_it(case: Facts) -> None:
    decision = decide(case)
    assert decision.method is None or {"full": case.full_fits, "lora": case.lora_fits}[decision.method]
    for rule in decision.rules:
        english, chinese = rule.reason(case)
        assert english
        assert chinese
        assert "None" not in english + chinese
    for flip in flips(case):
        assert flip.method != decision.method
        assert flip.english
        assert flip.chinese
    held = {rule.name for rule in decision.rules}
    assert not {"far_task", "near_task"} <= held
    assert not {"enough_compute", "limited_compute"} <= held


@given(facts)
def test_more_memory_never_turns_the_answer_from_full_to_lora(case: Facts) -> None:
    if decide(case).method == "full" and case.lora_fits:  # else it is full for want of anything else
        assert decide(replace(case, room_bytes=2 * case.room_bytes)).method == "full"


def test_the_documented_table_is_the_one_in_use() -> None:
    page = (Path(__file__).parents[2] / "docs" / "advise.md").read_text(encoding="utf-8")
    assert table() in page, "run: python -c 'from weitiao.advice.rules import table; print(table())'"


def test_advise_on_real_rows(options: dict[str, Any]) -> None:
    found = weitiao.advise({**options, "method": {"type": "lora", "r": 4}}, goal="iteration", tasks=3)
    assert found["method"] == "lora"
    assert found["settings"]["r"] == 4
    facts = found["facts"]
    assert 40 < facts["train_rows"] <= 48
    assert facts["num_classes"] == 2
    assert 0.5 <= facts["majority"] < 0.6
    assert 0 < facts["probe"] <= 1
    assert facts["full"]["artifact_bytes"] > facts["lora"]["artifact_bytes"]
    assert any("3 tasks" in reason["english"] for reason in found["reasons"])
    assert found["next"].startswith("weitiao train model=")
    assert "method.r=4" in found["next"]
    quick = weitiao.advise(options, probe=False)
    assert quick["facts"]["probe"] is None
    assert "far_task" not in {r["rule"] for r in quick["reasons"]}


def test_unknown_tokens_make_a_task_far(options: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"text": f"xyz{i}", "label": "ab"[i % 2]} for i in range(40)]  # not in the tiny model's vocabulary
    file = tmp_path / "foreign.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = {"train": str(file), "test_size": 8, "check": "warn"}
    found = weitiao.advise({**options, "data": data})
    assert found["facts"]["unknown_share"] > 0.5
    reason = next(r for r in found["reasons"] if r["rule"] == "far_task")
    assert "unknown" in reason["english"]
    assert "词表" in reason["chinese"]


@pytest.fixture(scope="module")
def comparison(tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advice") / "compared"
    options = {
        "model": str(tiny_model),
        "data": {"train": str(rows_file), "test_size": 16},
        "train": {"bf16": False, "max_steps": 2, "tokens_per_batch": 96},
    }
    config = config_of(options, folder, methods=["lora", "full"], seeds=[1, 2])
    finish_cells(config)
    weitiao.compare(config)
    return folder


def test_a_comparison_folder_is_advice_enough(comparison: Path) -> None:
    found = weitiao.advise(comparison, probe=False)
    stored = json.loads((comparison / "comparison.json").read_text(encoding="utf-8"))
    pair = stored["pairs"][0]
    compared = found["facts"]["compared"]
    assert compared["keep"] == pair["decision"]["keep"]
    assert compared["num_seeds"] == 2
    assert compared["mean_difference"] == pytest.approx(-pair["metrics"]["accuracy"]["mean_difference"])  # full - LoRA


def test_a_comparison_of_other_data_is_refused(comparison: Path, options: dict[str, Any], tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(Path(options["data"]["train"]).read_bytes())
    with pytest.raises(ConfigError, match=r"other\.jsonl"):
        weitiao.advise({**options, "data": {"train": str(other), "test_size": 16}}, comparison=comparison, probe=False)


@pytest.mark.parametrize(
    "change", [{"test_size": 12}, {"train_size": 40}, {"max_length": 32}, {"label_map": {"good": "bad"}}]
)
def test_a_comparison_of_the_same_file_read_otherwise_is_refused(
    change: dict[str, Any], comparison: Path, options: dict[str, Any]
) -> None:
    data = {"train": options["data"]["train"], "test_size": 16} | change
    with pytest.raises(ConfigError, match=rf"is of something else: {next(iter(change))} "):
        weitiao.advise({**options, "data": data}, comparison=comparison, probe=False)


def test_a_rate_stays_with_its_method() -> None:
    """LoRA's is ten times full fine-tuning's: handed over it would ruin the run."""
    config = RunConfig.model_validate({
        "model": "m", "data": {"train": "r.jsonl"}, "method": {"type": "lora", "r": 64},
        "train": {"learning_rate": 2e-3, "num_train_epochs": 2}, "output": {"dir": "o"},
    })  # fmt: skip
    asked = asked_of(config)
    assert (asked.rate("lora", SHORTEST), asked.rate("full", SHORTEST), asked.rate("full", RunLength(900, 16))) == (
        2e-3,
        1e-4,
        5e-5,
    )
    assert {name: run.train.learning_rate for name, run in asked.runs().items()} == {"full": None, "lora": 2e-3}
    likely = next_command(decide(replace(PLAIN, goal="quality", probe=0.6, majority=0.5)), asked)
    assert "method.type=full" in likely
    assert "learning_rate" not in likely
    assert "train.num_train_epochs=2" in likely
    lora = next_command(decide(replace(PLAIN, goal="iteration", tasks=9)), asked)
    assert "train.learning_rate=0.002" in lora
    assert "method.r=64" in lora


def test_what_follows_a_toss_up_is_the_comparison_that_was_asked_about(tmp_path: Path) -> None:
    given = {
        "methods": ["full", {"type": "lora", "r": 64, "learning_rate": 1e-3}],
        "budget": "steps",
        "budget_value": 50,
        "margin": 0.02,
    }
    config = CompareConfig.model_validate(
        {"model": "m", "data": {"train": "r.jsonl"}, "compare": given, "output": {"dir": "o"}}
    )
    asked = asked_of(config)
    assert {run.train.max_steps for run in asked.runs().values()} == {50}  # the budget of the comparison
    toss_up = replace(decide(PLAIN), sure="toss-up")
    words = shlex.split(next_command(toss_up, asked))
    assert words[:2] == ["weitiao", "compare"]
    again = load(CompareConfig, None, words[2:])
    assert again.compare.model_copy(update={"seeds": (42,)}) == config.compare
    assert again.train == config.train


def test_values_that_are_another_tasks_defaults_are_given(tmp_path: Path) -> None:
    bare = {"model": "m", "data": {"train": "r"}, "output": {"dir": "o"}}
    tags = {**bare, "task": "token_classification", "data": {"train": "r", "over_length": "truncate"}}
    likely = next_command(decide(replace(PLAIN, goal="iteration", tasks=9)), asked_of(tags))
    assert "data.over_length=truncate" in likely
    chat = {**bare, "task": "causal_lm", "compare": {"margin": 0.005}}
    assert "compare.margin=0.005" in next_command(replace(decide(PLAIN), sure="toss-up"), asked_of(chat))


def test_a_merged_comparison_is_advice_too(comparison: Path, options: dict[str, Any], tmp_path: Path) -> None:
    report([comparison], tmp_path / "merged")
    data = {"train": options["data"]["train"], "test_size": 16}
    found = weitiao.advise({**options, "data": data}, comparison=tmp_path / "merged", probe=False)
    assert found["facts"]["compared"]["num_seeds"] == 2


def test_another_method_is_named_as_not_asked_about(caplog: pytest.LogCaptureFixture) -> None:
    config = {"model": "m", "data": {"train": "r.jsonl"}, "method": {"type": "adalora"}, "output": {"dir": "o"}}
    assert set(asked_of(config).methods) == {"full", "lora"}
    assert "not asked about: adalora" in caplog.text


def test_a_stream_is_not_learnt_from_its_evaluation_rows(options: dict[str, Any], tmp_path: Path) -> None:
    lines = Path(options["data"]["train"]).read_text(encoding="utf-8").splitlines()
    for name, own in (("train", lines[16:]), ("held", lines[:16])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(own), encoding="utf-8")
    data = {"train": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "held.jsonl"), "streaming": True}
    facts = weitiao.advise({**options, "data": data, "train": {**options["train"], "max_steps": 500}})["facts"]
    assert (facts["majority"], facts["probe"]) == (None, None)
    assert facts["train_rows"] > 500


def test_stale_evidence_is_refused(comparison: Path, options: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(comparison, copy)
    predictions = next((copy / "cells").glob("*/predictions.jsonl"))
    predictions.write_text(predictions.read_text(encoding="utf-8").replace("good", "bad", 1), encoding="utf-8")
    with pytest.raises(RunError, match="stale"):
        weitiao.advise(copy, probe=False)


def test_the_command_takes_a_comparison_folder(comparison: Path, fork_server: ForkServer) -> None:
    done = fork_server.run("advise", str(comparison), "--no-probe", "--goal", "quality", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["facts"]["compared"]["num_seeds"] == 2


def test_command_line(options: dict[str, Any], fork_server: ForkServer) -> None:
    words = [f"model={options['model']}", f"data.train={options['data']['train']}", "data.test_size=16", "output.dir=x"]
    command = ["advise", *words, "train.bf16=false", "--no-probe"]
    english = fork_server.run(*command, "--explain", "--shared-base").stdout
    assert "Advice: LoRA" in english
    assert "What would flip it:" in english
    assert "Next: weitiao " in english
    assert all(rule.source in english for rule in RULES)
    chinese = fork_server.run(*command, "--language", "zh").stdout
    assert "建议" in chinese
    assert "下一步" in chinese
    wrong = fork_server.run(*command, "--device", "abacus")
    assert wrong.returncode == 2
    assert "Expected" in wrong.stderr
