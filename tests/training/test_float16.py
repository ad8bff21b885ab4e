"""float16: the loss scale against torch's GradScaler, training against fp32 and against autocast, and what must not be lost."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

import weitiao
from reference.plain_loop import plain_losses
from weitiao.config.train import TrainConfig
from weitiao.data.batch import BatchPlan
from weitiao.data.encode import Encoded
from weitiao.errors import ConfigError, ModelError, RunError
from weitiao.kernels.layers import fuse_layers
from weitiao.pretrained.load import load_model, set_dropout
from weitiao.pretrained.resolve import Resolved
from weitiao.rundir.files import read_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.tasks import causal_lm, classification
from weitiao.training import loss_scale
from weitiao.training.learner import Learner
from weitiao.training.learning_rate import ByStep
from weitiao.training.loop import train_steps
from weitiao.training.loss_scale import LossScale
from weitiao.training.masters import Masters
from weitiao.training.optim import MasterAdamW
from weitiao.training.schedule import EpochSchedule
from weitiao.training.tf32 import fp32_products
from weitiao.training.world import World

FP16 = {"bf16": "auto", "fp16": True}


def test_the_scale_follows_grad_scaler() -> None:
    """5,000 steps, some of which overflow: at the start, in a row, and after it has grown."""
    ours, theirs = LossScale(torch.device("cpu")), torch.amp.GradScaler("cpu")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    bad = {1, 2, 3, 2004, 2005, 4100, *range(4990, 5001)}
    for step in range(1, 5001):
        value = float("inf") if step in bad else 1.0
        theirs.scale(torch.zeros(()))
        parameter.grad = torch.full((1,), value)
        theirs.step(optimizer)
        theirs.update()
        ours.update(step, ~torch.isfinite(torch.tensor(value)))
        assert ours.scale.item() == theirs.get_scale(), step
        assert ours.state()["good_steps"] == theirs._get_growth_tracker()
    assert set(ours.read()) == bad
    assert ours.read() == []


def test_a_scale_at_the_end_of_fp32_stays_a_number() -> None:
    scaling = LossScale(torch.device("cpu"))
    scaling.restore({"scale": 2.0**127, "good_steps": loss_scale.GROWTH_STEPS - 1})
    scaling.update(1, torch.tensor(False))
    assert scaling.state() == {"scale": 2.0**127, "good_steps": 0}


@pytest.mark.parametrize("max_grad_norm", [1.0, None])
def test_steps_are_those_of_grad_scaler_and_adamw(max_grad_norm: float | None) -> None:
    """The same scaled gradients: unscaled, clipped, left out where one is infinite."""
    torch.manual_seed(0)
    config = TrainConfig(weight_decay=0.1)
    layer = torch.nn.Linear(6, 4)
    plain = {name: torch.nn.Parameter(p.detach().clone()) for name, p in layer.named_parameters()}
    decayed, others = [plain["weight"]], [plain["bias"]]
    reference = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=0.01, fused=True
    )
    scaler = torch.amp.GradScaler("cpu")
    ours = MasterAdamW(Masters(layer.named_parameters(), torch.float16), config)
    assert ours.scaling is not None
    scaler.scale(torch.zeros(()))
    for step in range(1, 21):
        assert ours.scaling.scale.item() == scaler.get_scale()
        for name, parameter in layer.named_parameters():
            gradient = (0.2 * torch.randn(parameter.shape) * ours.scaling.scale).half()
            if step in (1, 7, 8) and name == "bias":
                gradient[1] = float("inf")
            parameter.grad, plain[name].grad = gradient, gradient.float()
        ours.arm(0.01, step)
        norm = ours.step(0.01, max_grad_norm)
        scaler.unscale_(reference)
        theirs = torch.nn.utils.clip_grad_norm_(plain.values(), max_grad_norm or 1e9)
        scaler.step(reference)
        scaler.update()
        assert torch.isfinite(norm) == torch.isfinite(theirs) == (step not in (1, 7, 8))
        for name, parameter in plain.items():
            torch.testing.assert_close(ours.masters.value(name), parameter.detach(), atol=1e-7, rtol=1e-6)
            assert torch.equal(layer.get_parameter(name), ours.masters.value(name).half())
    assert ours.scaling.read() == [1, 7, 8]
    assert all(int(state["step"]) == 17 for _, state in ours._moments())


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in read_jsonl(run / "events.jsonl") if event["event"] == "log"]


def trained(
    options: dict[str, Any], folder: Path, method: dict[str, Any], listener: Any = None, **train: Any
) -> RunDir:
    return weitiao.train(
        {
            **options,
            "method": method,
            "train": {**options["train"], "max_steps": 20, "num_train_epochs": 20, **train},
            "output": {"dir": str(folder)},
        },
        listener=listener,
    )


METHODS: dict[str, dict[str, Any]] = {"full": {"type": "full"}, "lora": {"type": "lora"}}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "kind", ["options", pytest.param("chat_options", marks=pytest.mark.beyond_test)]
)  # 49,152 words: slow in float16 on a CPU
def test_float16_learns_as_fp32_does(
    kind: str, method: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """20 steps of an encoder and a decoder: mean losses within 0.005, and what is saved and scored is fp32 as ever."""
    options = request.getfixturevalue(kind)
    wide = trained(options, tmp_path / "wide", METHODS[method])
    narrow = trained(options, tmp_path / "narrow", METHODS[method], **FP16)
    a, b = losses(wide.path), losses(narrow.path)
    skipped = narrow.summary["skipped_steps"]
    assert len(a) == 20
    assert len(b) == 20 - skipped >= 18
    assert sum(b[:3]) / 3 != sum(a[:3]) / 3, "float16 was computed with"
    assert sum(a) / 20 == pytest.approx(sum(b) / len(b), abs=0.005)
    assert narrow.summary["dtype"] == "float16"
    assert narrow.summary["loss_scale"] == 65536.0 / 2**skipped
    assert narrow.read_json("environment.json")["resolved"]["dtype"].startswith("float16: asked for")
    assert "most CPUs compute it more slowly" in caplog.text
    saved = next((narrow.path / "model").glob("*model.safetensors"))
    assert {value.dtype for value in load_file(saved).values()} == {torch.float32}
    assert (
        not (narrow.path / "model" / "config.json").is_file()
        or json.loads((narrow.path / "model" / "config.json").read_text()).get("dtype", "float32") == "float32"
    )


@pytest.mark.beyond_test
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_real_models_learn_as_in_fp32(
    kind: str, method: str, options: dict[str, Any], chat_options: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:  # fmt: skip
    """20 steps of multilingual-e5-small and SmolLM2-135M: mean losses within 1 %."""
    given = options if kind == "encoder" else chat_options
    given["model"] = str(request.getfixturevalue("e5" if kind == "encoder" else "smollm"))
    given["train"] |= {"tokens_per_batch": 128, "learning_rate": None, "eval_strategy": "no", "generate_rows": 0}
    means = []
    for name, more in (("wide", {}), ("narrow", FP16)):
        run = trained(given, tmp_path / name, METHODS[method], **more)
        found = losses(run.path)
        means.append(sum(found) / len(found))
        print(kind, method, name, means[-1], run.summary.get("skipped_steps"), run.summary["metrics"].get("log_loss"))
    assert means[1] == pytest.approx(means[0], rel=0.01)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_losses_are_those_of_autocast_and_grad_scaler(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    """20 steps of one batch each: as near to torch's own way in float16 as float16 is to fp32."""
    generator = torch.Generator().manual_seed(0)
    drawn = [[2, *torch.randint(4, 40, (n,), generator=generator).tolist(), 3] for n in range(4, 28)]
    if kind == "bert":
        task: Any = classification
        encoded = Encoded.of(drawn, [int(row[1] > 21) for row in drawn])
        folder, names = tiny_model, ["a", "b"]
    else:
        task, folder, names = causal_lm, tmp_path / "llama", []
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            )
        ).save_pretrained(folder)  # fmt: skip
        supervised = np.ones(sum(map(len, drawn)), dtype=bool)
        encoded = dataclasses.replace(Encoded.of(drawn, [0] * 24), supervised=supervised)
        supervised[encoded.offsets[:-1]] = False  # nothing stands before a row's first token

    def fresh(attention: Any) -> Any:
        torch.manual_seed(1)
        model, _ = load_model(str(folder), task.AUTO_MODEL, names, 0, Resolved("cpu", "float32", attention, {}))
        set_dropout(model, 0.0)
        return model

    config = TrainConfig(logging_steps=1, weight_decay=0.1, warmup_ratio=0.1)
    schedule = EpochSchedule(encoded, BatchPlan(96, None), 0, 1, 20, max_steps=20)
    batches = []
    for step in schedule.steps():
        ids = [step.encoded.row(i).tolist() for i in step.batches[0]]
        padded = [[*row, *[0] * (max(map(len, ids)) - len(row))] for row in ids]
        mask = [[1] * len(row) + [0] * (max(map(len, ids)) - len(row)) for row in ids]
        batch = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        batch["labels"] = labels if kind == "llama" else torch.tensor([step.encoded.labels[i] for i in step.batches[0]])
        batches.append(batch)
    theirs = {half: plain_losses(fresh("sdpa"), batches, 3e-3, 2, 0.1, 1.0, half) for half in (False, True)}
    model = fresh("weitiao")
    task.prepare_model(model)
    masters = Masters(model.named_parameters(), torch.float16)
    optimizer = MasterAdamW(masters, config)
    fuse_layers(model)
    learner = Learner(model, task, 0, World(Accelerator(cpu=True), "ddp"), scaling=optimizer.scaling)
    steps = train_steps(learner, schedule, optimizer, ByStep(3e-3, 20, config), config)
    ours = [info.loss for info in steps if info.loss is not None]
    assert optimizer.scaling is not None
    assert len(ours) == 20
    mean = {half: sum(losses) / 20 for half, losses in theirs.items()}
    assert max(theirs[False]) - min(theirs[False]) > 0.05, "something was learnt, so equality is no accident"
    assert sum(ours) / 20 == pytest.approx(mean[True], abs=0.005)
    assert sum(ours) / 20 == pytest.approx(mean[False], abs=0.005)


def test_predict_scores_as_the_run_did(options: dict[str, Any], tmp_path: Path) -> None:
    run = trained(options, tmp_path / "run", METHODS["full"], **FP16)
    rows = list(read_jsonl(run.path / "predictions.jsonl"))
    answers = weitiao.predict(run.path, text=[row["text"] for row in rows])
    assert [answer["label"] for answer in answers] == [row["predicted"] for row in rows]


class Stop(Exception):
    pass


HOOKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({"type": "full"}, {}),
    "lora": ({"type": "lora"}, {}),
    "accumulation": ({"type": "full"}, {"gradient_accumulation_steps": 2}),
    "galore": ({"type": "full", "galore_rank": 4, "galore_gap": 2}, {}),
    "lisa": ({"type": "full", "lisa_layers": 1, "lisa_steps": 2}, {}),
    "adalora": ({"type": "adalora", "init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 3}, {}),
    "top_k": ({"type": "full", "top_k": 1}, {}),
    "no clipping": ({"type": "lora"}, {"max_grad_norm": None}),
}


@pytest.mark.parametrize("name", HOOKED)
def test_overflows_are_left_out_counted_and_survive_a_stop(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From far too large a scale that grows soon: overflows before and after the stop, and the same bits."""
    if name == "galore":
        pytest.importorskip("pytorch_optimizer")
    monkeypatch.setattr(loss_scale, "START", 2.0**30)
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 2)
    method, more = HOOKED[name]
    train = {**more, "save_steps": 2, **FP16}
    whole = trained(options, tmp_path / "whole", method, **train)
    overflowed = [event["step"] for event in whole.events() if event["event"] == "overflow"]
    assert whole.summary["skipped_steps"] == len(overflowed) >= 4
    assert overflowed[:2] == [1, 2]
    assert min(overflowed[-1:]) > 9, "the scale grew back into an overflow"
    logged = [event["step"] for event in whole.events() if event["event"] == "log"]
    assert sorted(logged + overflowed) == list(range(1, 21))

    def stop_at_nine(event: dict[str, Any]) -> None:
        if event.get("step") == 9:
            raise Stop

    with pytest.raises(Stop):
        trained(options, tmp_path / "b", method, listener=stop_at_nine, **train)
    resumed = weitiao.train(resume=tmp_path / "b")
    assert [event["step"] for event in resumed.events() if event["event"] == "overflow"] == overflowed
    for key in ("skipped_steps", "loss_scale", "metrics"):
        assert whole.summary[key] == resumed.summary[key]
    file = next(path.name for path in whole.model.glob("*model.safetensors"))
    expected, found = load_file(whole.model / file), load_file(resumed.model / file)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert all(torch.isfinite(value).all() for value in expected.values())


@pytest.mark.parametrize("name", ["accumulation", "galore", "lisa", "adalora"])
def test_what_hooks_into_steps_learns_as_in_fp32(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    if name == "galore":
        pytest.importorskip("pytorch_optimizer")
    method, more = HOOKED[name]
    wide = losses(trained(options, tmp_path / "wide", method, **more).path)
    narrow = losses(trained(options, tmp_path / "narrow", method, **more, **FP16).path)
    assert sum(narrow) / len(narrow) == pytest.approx(sum(wide) / 20, abs=0.01)


def test_adalora_s_penalty_is_scaled_as_the_loss_is(options: dict[str, Any], tmp_path: Path) -> None:
    """A penalty that outweighs the loss: unscaled, its gradient would be 65,536 times too small."""
    method = {**HOOKED["adalora"][0], "orth_reg_weight": 5.0}
    wide, narrow = (
        [event["grad_norm"] for event in trained(options, tmp_path / name, method, **more).events() if event["event"] == "log"]
        for name, more in (("wide", {}), ("narrow", FP16))
    )  # fmt: skip
    assert narrow[-1] == pytest.approx(wide[-1], rel=0.02)


def test_rows_that_never_occur_decay_as_in_dense_training(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the steps that were taken alone."""
    monkeypatch.setattr(loss_scale, "START", 2.0**40)
    more = {**FP16, "weight_decay": 0.5, "learning_rate": 0.01}
    sparse = trained(options, tmp_path / "sparse", METHODS["full"], **more)
    dense = trained(options, tmp_path / "dense", METHODS["full"], **more, sparse_embedding=False)
    assert sparse.summary["skipped_steps"] > 3
    name = "bert.embeddings.word_embeddings.weight"
    a, b = (load_file(run.model / "model.safetensors")[name][-20:] for run in (sparse, dense))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def copy_with(model: Path, folder: Path, factors: dict[str, float]) -> Path:
    """The model with some weights of its second layer times a factor."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    for part, factor in factors.items():
        chosen = next(name for name in weights if f"layer.1.{part}.weight" in name)
        weights[chosen] *= factor
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_activations_beyond_float16_end_with_a_clear_error(
    options: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    options["model"] = str(copy_with(tiny_model, tmp_path / "large", {"intermediate.dense": 1e3, "output.dense": 1e4}))
    trained(options, tmp_path / "wide", METHODS["full"], max_steps=2)
    with pytest.raises(RunError, match="float16 overflows whatever the loss scale is: 17 of 17 steps"):
        trained(options, tmp_path / "narrow", METHODS["full"], **FP16, eval_strategy="no", num_train_epochs=20)


def test_a_weight_beyond_float16_is_refused(options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    options["model"] = str(copy_with(tiny_model, tmp_path / "large", {"output.dense": 1e8}))
    for method in METHODS.values():
        with pytest.raises(
            ModelError, match=r"1 of the weights of .* infinite in float16, the first in .*layer\.1\.output\.dense"
        ):
            trained(options, tmp_path / "narrow", method, **FP16)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"optimizer_in_backward": True, "max_grad_norm": None}, "optimizer_in_backward never holds .* fp16"),
        ({"bf16": True}, "bf16 and fp16 ask for two"),
        ({"int8_base": True, "method": "lora"}, "int8_base=true, and the run computes in float16"),
        ({"stochastic_rounding": True}, "stochastic_rounding=true, and the run computes in float16"),
        ({"tf32": True}, "tf32=true, and the run computes on cpu"),
    ],
)
def test_what_cannot_work_is_refused_before_rows_are_read(
    more: dict[str, Any], message: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weitiao.training.refusals.int8_is_supported", lambda: True)
    options["method"] = {"type": more.pop("method", "full")}
    options["data"]["train"] = "no such file.jsonl"
    options["train"] |= {**FP16, **more}
    with pytest.raises(ConfigError, match=message):
        weitiao.train(options)


def test_a_gpu_without_bf16_refuses_updates_in_the_backward_pass(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There bf16=auto is float16, which the options alone do not say."""
    from weitiao.config.run import RunConfig
    from weitiao.pretrained.resolve import Resolved
    from weitiao.training.refusals import refuse_machine

    options["train"] = {"optimizer_in_backward": True, "max_grad_norm": None}
    config = RunConfig.model_validate(options)
    refuse_machine(config, Resolved("cuda", "bfloat16", "auto", {}))
    with pytest.raises(ConfigError, match="the run computes in float16, whose overflow is known after"):
        refuse_machine(config, Resolved("cuda", "float16", "auto", {}))


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_set_for_training_and_put_back(tf32: bool) -> None:
    """torch's own setting; that products are faster only a GPU shows."""
    torch.set_float32_matmul_precision("medium")
    try:
        with fp32_products(tf32, "cpu"):
            assert torch.get_float32_matmul_precision() == "medium"
        with fp32_products(tf32, "cuda"):
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
