"""kernels/checkpointing.py: the same gradients to the bit, less kept, as much computed again as said; and the plan knows."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import weitiao
from conftest import tiny_llama
from support.llm import load
from weitiao.config.run import RunConfig
from weitiao.config.train import TrainConfig
from weitiao.errors import ConfigError, NoTokenizerError
from weitiao.kernels.attention import register
from weitiao.kernels.checkpointing import checkpoint_layers
from weitiao.kernels.first_token import use_first_token
from weitiao.kernels.layers import fuse_layers
from weitiao.kernels.lora import fuse_lora
from weitiao.measure.cost import StepCost, step_cost
from weitiao.planning.machine import find_machine
from weitiao.planning.plan import plan_run
from weitiao.planning.rows import read_inputs
from weitiao.training.adapt import adapt
from weitiao.training.events import EventLog
from weitiao.training.world import World

IDS = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 10, 3, 4, 11]])


class _Asked(Exception):
    pass


def model_of(family: str, folder: Path, adapted: bool, dropout: float = 0.0) -> Any:
    import peft
    from transformers import BertConfig, BertForSequenceClassification

    if family == "llama":
        model: Any = load(tiny_llama(folder), register())
    else:
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, vocab_size=60,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        config._attn_implementation = register()
        model = BertForSequenceClassification(config)
    if adapted:
        torch.manual_seed(1)
        exclude = ".*(classifier|lm_head).*"
        adapter = peft.LoraConfig(target_modules="all-linear", exclude_modules=exclude, init_lora_weights=False)
        model = peft.get_peft_model(model, adapter)
        fuse_lora(model)
    return model.train()


def prepared(model: Any, which: Any, has_dropout: bool = False) -> Any:
    use_first_token(model)
    fuse_layers(model, remakes=which is None)
    if which is not None:
        checkpoint_layers(model, which, has_dropout)
    return model


@pytest.mark.parametrize("which", ["full", "selective"])
@pytest.mark.parametrize(("family", "adapted"), [("bert", False), ("bert", True), ("llama", False), ("llama", True)])
def test_gradients_are_the_same_to_the_bit(family: str, adapted: bool, which: str, tmp_path: Path) -> None:
    found = []
    for chosen in (None, which):
        model = prepared(model_of(family, tmp_path, adapted), chosen)
        for _ in range(2):  # gradients add up; the llama makes a cache, which must not grow twice
            model(input_ids=IDS).logits.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


def test_prefix_tuning_refuses_it(options: dict[str, Any]) -> None:
    options |= {"method": {"type": "prefix"}, "train": {"gradient_checkpointing": True}}
    with pytest.raises(ValueError, match="grow twice"):
        RunConfig.model_validate(options)


def test_dropout_drops_the_same_units_twice(tmp_path: Path) -> None:
    found = []
    for chosen in (None, "full"):
        model = prepared(model_of("bert", tmp_path, adapted=False, dropout=0.5), chosen, has_dropout=True)
        torch.manual_seed(7)
        model(input_ids=IDS).logits.square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(*found)


def test_nothing_is_computed_twice_without_gradients(tmp_path: Path) -> None:
    model = prepared(model_of("bert", tmp_path, adapted=False), "full")
    calls: list[str] = []
    model.bert.encoder.layer[0].attention.register_forward_hook(lambda *_: calls.append("forward"))
    with torch.no_grad():
        model(input_ids=IDS)
    model.eval()
    model(input_ids=IDS).logits.sum().backward()
    assert len(calls) == 2
    model.train()
    model(input_ids=IDS).logits.sum().backward()
    assert len(calls) == 4, "once more in the backward pass"


def cost(folder: Path, which: str | None) -> StepCost:
    model = prepared(model_of("llama", folder, adapted=True), which).to("meta")
    ids = torch.zeros(4, 256, dtype=torch.long, device="meta")
    return step_cost(model, lambda: model.model.model(input_ids=ids, use_cache=False).last_hidden_state.sum())


def test_less_is_kept_and_the_plan_s_trace_counts_it(tmp_path: Path) -> None:
    plain, full, half = (cost(tmp_path, which) for which in (None, "full", "selective"))
    assert full.saved_bytes < half.saved_bytes < plain.saved_bytes
    assert full.saved_bytes < plain.saved_bytes / 2, "two layers, and what lies outside of them"
    assert full.peak_bytes < plain.peak_bytes
    assert full.forward.flops == plain.forward.flops
    assert full.both.flops == pytest.approx(plain.both.flops + plain.forward.flops, rel=0.02)
    again = (half.both.flops - plain.both.flops) / plain.forward.flops
    assert again == pytest.approx(0.5, abs=0.02), "every second layer"


def test_true_means_all_layers_and_a_resume_may_change_it() -> None:
    from weitiao.training.checkpoint import MAY_CHANGE

    assert TrainConfig(gradient_checkpointing=True).checkpointed_layers == "full"
    assert TrainConfig(gradient_checkpointing="selective").checkpointed_layers == "selective"
    assert TrainConfig(gradient_checkpointing=False).checkpointed_layers is None
    assert TrainConfig().checkpointed_layers is None
    assert "train.gradient_checkpointing" in MAY_CHANGE


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_trains_the_same(options: dict[str, Any], method: str, tmp_path: Path) -> None:
    losses, summaries = [], []
    for which in (False, True, "selective"):
        options |= {
            "method": {"type": method},
            "train": options["train"] | {"gradient_checkpointing": which},
            "output": {"dir": str(tmp_path / f"{which}")},
        }
        run = weitiao.train(options)
        losses.append([event["loss"] for event in run.events() if event["event"] == "log"])
        summaries.append(run.summary)
    assert losses[0] == losses[1] == losses[2]
    assert [s.get("gradient_checkpointing") for s in summaries] == [None, "full", "selective"]
    assert summaries[0]["metrics"] == summaries[1]["metrics"] == summaries[2]["metrics"]


def test_auto_is_decided_by_the_plan(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Room between what the run takes with and without: all layers, said; more room: none; too little: none, and no."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(options["model"], num_hidden_layers=12)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "deep")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(options["model"]) / name, tmp_path / "deep")
    options |= {"model": str(tmp_path / "deep"), "train": options["train"] | {"tokens_per_batch": 4096}}
    run_config = RunConfig.model_validate(options)
    inputs = read_inputs(run_config)
    machine = find_machine(None, run_config.train, inputs)

    def planned(room: int, which: Any = "auto") -> Any:
        chosen = run_config.with_train(gradient_checkpointing=which)
        return plan_run(chosen, inputs, dataclasses.replace(machine, room_bytes=room))["methods"][0]

    ample = 1 << 40
    without, with_all = (planned(ample, which)["memory_bytes"]["total"] for which in (False, "full"))
    assert with_all < without
    assert planned(ample)["gradient_checkpointing"] is False
    between = planned((without + with_all) // 2)
    assert between["gradient_checkpointing"] == "full"
    assert between["fits"] != "no"
    assert "gradient_checkpointing=auto: full" in between["notes"][-1]
    assert planned(with_all // 2)["fits"] == "no"

    monkeypatch.setattr("weitiao.planning.plan.find_machine", lambda *_: dataclasses.replace(machine, room_bytes=(without + with_all) // 2))  # fmt: skip
    run = weitiao.train(options)
    assert run.summary["gradient_checkpointing"] == "full"
    assert run.read_json("plan.json")["methods"][0]["gradient_checkpointing"] == "full"

    def steps(arm: RunConfig) -> None:
        raise _Asked(str(arm.train.gradient_checkpointing))

    monkeypatch.setattr("weitiao.planning.plan.run_steps", steps)
    with pytest.raises(_Asked, match="full"):  # real steps are those of the run that is planned
        weitiao.plan(options | {"output": {"dir": str(tmp_path / "other")}}, methods=["full"], calibrate=True)


def test_a_checkpointed_run_keeps_no_recipes(options: dict[str, Any], tmp_path: Path) -> None:
    """They would hold what the layers let go (kernels/remake.py); the plan's model is the run's."""
    from accelerate import Accelerator

    from weitiao.planning.blueprint import draw

    for which, remakes in ((False, True), ("full", False)):
        config = RunConfig.model_validate(options).with_train(gradient_checkpointing=which)
        inputs = read_inputs(config)
        with EventLog(tmp_path / f"{which}.jsonl") as events:
            made = adapt(config, inputs, World(Accelerator(cpu=True), "ddp"), events).model
        for model in (made, draw(config, inputs).model):
            assert ("forward" in vars(model.bert.encoder)) is remakes
            assert ("forward" in vars(model.bert.encoder.layer[0])) is not remakes


def test_a_model_without_a_stack_of_layers_is_refused_before_rows_are_read(tmp_path: Path) -> None:
    from transformers import AlbertConfig

    config = AlbertConfig(
        vocab_size=60,
        embedding_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    config.save_pretrained(tmp_path / "albert")
    options = {
        "model": str(tmp_path / "albert"),
        "data": {"train": str(tmp_path / "nothing.csv")},
        "train": {"gradient_checkpointing": "full"},
        "output": {"dir": str(tmp_path / "run")},
    }
    with pytest.raises(ConfigError, match="no single stack of 2 layers"):
        weitiao.train(options)
    with pytest.raises(NoTokenizerError):  # with another option the run comes further
        weitiao.train({**options, "train": {"gradient_checkpointing": "auto"}})


@pytest.mark.parametrize(
    "method",
    [{"type": "lora", "lora_dropout": 0.5}, {"type": "adalora", "lora_dropout": 0.5, "init_r": 4, "target_r": 2}],
)
def test_the_second_pass_drops_the_same_units_of_an_adapter(
    method: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for which in (False, "full"):
        train = {**options["train"], "gradient_checkpointing": which, "max_steps": 6, "learning_rate": 1e-2}
        output = {"dir": str(tmp_path / str(which))}
        run = weitiao.train({**options, "method": method, "train": train, "output": output})
        found.append([event["loss"] for event in run.events() if event["event"] == "log"])
    assert found[1] == pytest.approx(found[0], abs=1e-6)
