"""The loop and the optimizer against plain torch, and what must hold for any batch shape."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from transformers import (
    AutoModelForSequenceClassification,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from reference.plain_loop import plain_losses
from weitiao.config.method import LoraConfig
from weitiao.config.run import RunConfig
from weitiao.config.train import TrainConfig
from weitiao.data.batch import BatchPlan
from weitiao.data.encode import Encoded
from weitiao.errors import ConfigError
from weitiao.kernels.rows import shrink_embedding
from weitiao.methods import rate_factor
from weitiao.pretrained.load import drops, load_model, set_dropout
from weitiao.pretrained.resolve import Resolved
from weitiao.tasks import classification
from weitiao.training.accumulate import Accumulator
from weitiao.training.evaluate import score
from weitiao.training.learner import Learner, backward, dry_run
from weitiao.training.learning_rate import ByStep, learning_rate_at
from weitiao.training.loop import _seed_of, train_steps
from weitiao.training.masters import Masters, gathered, masters_of, stochastic_round
from weitiao.training.optim import MasterAdamW
from weitiao.training.refusals import refuse_processes
from weitiao.training.schedule import EpochSchedule
from weitiao.training.world import World


def rows(count: int = 24) -> Encoded:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (count,), generator=generator).tolist()
    ids = [[2, *torch.randint(4, 40, (n,), generator=generator).tolist(), 3] for n in lengths]
    return Encoded.of(ids, [i % 2 for i in range(count)])


def fresh(folder: Path, attention: str = "weitiao") -> torch.nn.Module:
    torch.manual_seed(1)
    resolved = Resolved("cpu", "float32", attention, {})  # type: ignore[arg-type]
    model, _ = load_model(str(folder), classification.AUTO_MODEL, ["a", "b"], 0, resolved)
    set_dropout(model, 0.0)
    return model


def learner(model: torch.nn.Module) -> Learner:
    return Learner(model, classification, 0, World(Accelerator(cpu=True), "ddp"))


def rates(schedule: EpochSchedule, peak: float, config: TrainConfig) -> ByStep:
    return ByStep(peak, schedule.total_steps(), config)


@pytest.mark.parametrize("sparse", [False, True])
def test_losses_equal_the_plain_loop(tiny_model: Path, sparse: bool) -> None:
    """The same losses as plain torch, to 1e-5 in fp32, with our attention and with the embedding's rows alone."""
    encoded = rows()
    config = TrainConfig(logging_steps=1, weight_decay=0.1, warmup_ratio=0.1)
    schedule = EpochSchedule(encoded, BatchPlan(60), 0, 1, 2)
    total = schedule.total_steps()
    model = fresh(tiny_model)
    if sparse:
        assert shrink_embedding(model, [0, *encoded.flat.tolist()]) is not None
    optimizer = MasterAdamW(Masters(model.named_parameters()), config)
    ours = [info.loss for info in train_steps(learner(model), schedule, optimizer, ByStep(3e-3, total, config), config)]
    torch.manual_seed(1)
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2, attn_implementation="eager")
    set_dropout(plain, 0.0)
    batches = []
    for taken in schedule.steps():
        batch = classification.collate(encoded, taken.batches[0], 0)
        batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
        batches.append(batch)
    warmup = -(-total // 10)
    theirs = plain_losses(plain, batches, 3e-3, warmup, 0.1, 1.0)
    assert len(ours) == len(theirs) == total >= 10
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert abs(ours[0] - ours[-1]) > 1e-3  # it has learnt something, so equality is no accident


def test_gradient_is_the_same_for_any_cut_of_the_step(tiny_model: Path) -> None:
    """8 rows at once, 2 x 4 and 8 x 1: one gradient, though rows differ in length."""
    encoded, gradients = rows(8), []
    for cut in (8, 4, 1):
        model = fresh(tiny_model)
        batches = [classification.collate(encoded, list(range(i, i + cut)), 0) for i in range(0, 8, cut)]
        loss_sum = backward(learner(model), batches, 8)
        gradients.append((loss_sum, {n: p.grad for n, p in model.named_parameters()}))
    for loss_sum, gradient in gradients[1:]:
        torch.testing.assert_close(loss_sum, gradients[0][0], atol=1e-5, rtol=1e-5)
        for name, value in gradient.items():
            torch.testing.assert_close(value, gradients[0][1][name], atol=1e-6, rtol=1e-4)


def test_accumulated_steps_train_the_same_weights(tiny_model: Path) -> None:
    encoded, weights = rows(8), []
    for per_batch, accumulation in ((8, 1), (4, 2), (1, 8)):
        model = fresh(tiny_model)
        config = TrainConfig(logging_steps=1, warmup_ratio=0.0)
        # random rows, so that the shuffle of batches does not depend on their number: one step an epoch, all rows in it
        schedule = EpochSchedule(encoded, BatchPlan(10**6, per_batch), 0, accumulation, 3)
        optimizer = MasterAdamW(Masters(model.named_parameters()), config)
        infos = list(train_steps(learner(model), schedule, optimizer, rates(schedule, 1e-2, config), config))
        assert [i.num_samples for i in infos] == [8, 8, 8]
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], atol=2e-4, rtol=1e-3)


def test_accumulated_gradients_in_bf16_add_up_in_fp32(tiny_model: Path) -> None:
    """32 batches of a row each: the sum of their gradients, rounded once; without the accumulator, rounded 31 times."""
    encoded = rows(32)
    batches = [classification.collate(encoded, [i], 0) for i in range(32)]
    model = fresh(tiny_model)
    trained = Masters(model.named_parameters(), torch.bfloat16).parameters.values()
    model.to(torch.bfloat16)

    def gradient(some: list[Any], accumulator: Accumulator | None = None) -> torch.Tensor:
        model.zero_grad()
        backward(learner(model), some, 32, accumulator=accumulator)
        return torch.cat([p.grad.flatten().double() for p in trained if p.grad is not None])

    exact = torch.stack([gradient([batch]) for batch in batches]).sum(0)
    good, plain = gradient(batches, Accumulator(trained)), gradient(batches)
    scale = exact.abs().clamp(min=1e-3 * float(exact.abs().max()))
    assert float(((good - exact).abs() / scale).max()) < 2**-8
    assert float(((plain - exact).abs() / scale).max()) > 2**-8


def test_the_loop_accumulates_in_fp32_where_it_computes_in_bf16(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    take = Accumulator.take
    monkeypatch.setattr(Accumulator, "take", lambda self: (taken.append(1), take(self))[1])
    for dtype, accumulation, expected in ((torch.bfloat16, 4, 8), (torch.bfloat16, 1, 0), (torch.float32, 4, 0)):
        taken.clear()
        model = fresh(tiny_model)
        masters = Masters(model.named_parameters(), dtype)
        model.to(dtype)
        config = TrainConfig(logging_steps=1, warmup_ratio=0.0)
        schedule = EpochSchedule(rows(8), BatchPlan(10**6, 2), 0, accumulation, 8, max_steps=2)
        before = masters.values()["classifier.weight"].clone()
        list(train_steps(learner(model), schedule, MasterAdamW(masters, config), rates(schedule, 1e-2, config), config))
        assert len(taken) == expected
        assert not torch.equal(masters.values()["classifier.weight"], before)


@pytest.mark.parametrize(
    ("kind", "make"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
def test_schedules_equal_transformers(kind: str, make: object) -> None:
    config = TrainConfig(lr_scheduler_type=kind, warmup_ratio=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make(optimizer, 5, 50)  # type: ignore[operator]
    for step in range(1, 51):
        assert learning_rate_at(step, 50, 0.5, config) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_master_weights_keep_updates_that_bf16_would_lose() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = MasterAdamW(Masters([("w", parameter)], torch.bfloat16), TrainConfig(weight_decay=0.0))
    assert parameter.dtype == torch.bfloat16
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step(1e-5, None)
    assert optimizer.masters.tensors["w"].max() < 1 - 9e-4  # 100 x 1e-5, each far below bf16's step of 2**-8 near 1
    parameter.grad = torch.ones_like(parameter)
    ((_, chunk),) = optimizer._chunks
    moments = [weakref.ref(state["exp_avg"]) for state in chunk.state.values()]
    del chunk
    optimizer.adopt_masters()
    assert parameter.dtype == torch.float32
    assert parameter.grad is None  # what is saved next has their room
    assert [moment() for moment in moments] == [None]


def test_a_rate_factor_multiplies_the_rate_of_its_parameters() -> None:
    """LoRA+: Adam's first step moves each weight by its rate, whatever the gradient."""
    config = LoraConfig(loraplus_lr_ratio=16)
    both = {name: torch.nn.Parameter(torch.zeros(3, 3)) for name in ("x.lora_A.default", "x.lora_B.default")}
    optimizer = MasterAdamW(Masters(both.items()), TrainConfig(), rate_factor=lambda name: rate_factor(config, name))
    for parameter in both.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(1e-3, None)
    moved = [float(-parameter.detach()[0, 0]) for parameter in both.values()]
    assert moved == pytest.approx([1e-3, 16e-3], rel=1e-4)


def test_stochastic_rounding_is_right_on_average() -> None:
    torch.manual_seed(0)
    value = torch.full((200_000,), 1 + 2**-9)  # a quarter of the way from 1 to bf16's next number
    rounded = stochastic_round(torch.cat([value, -value]))
    assert rounded.dtype == torch.bfloat16
    assert sorted(rounded.unique().tolist()) == [-1 - 2**-7, -1, 1, 1 + 2**-7]
    assert (rounded[: len(value)] > 1).float().mean() == pytest.approx(0.25, abs=0.01)
    assert (rounded[len(value) :] < -1).float().mean() == pytest.approx(0.25, abs=0.01)
    exact = torch.tensor([0.0, -0.0, 3.0, -(2.0**100), float("inf"), float("-inf")])
    assert torch.equal(stochastic_round(exact).float(), exact)
    assert stochastic_round(torch.tensor([float("nan")])).isnan()


@pytest.mark.parametrize("trained", [10, 60])
def test_a_few_masters_do_not_hold_the_whole_checkpoint(trained: int) -> None:
    """A view of the file's memory would keep all of it; where most train it is all needed anyway, and not copied."""
    file = torch.arange(100.0)
    parts = [
        ("frozen", torch.nn.Parameter(file[trained:], requires_grad=False)),
        ("w", torch.nn.Parameter(file[:trained])),
    ]
    optimizer = MasterAdamW(Masters(parts, torch.bfloat16), TrainConfig())
    held = optimizer.masters.tensors["w"].untyped_storage().nbytes()
    assert held == 4 * (10 if trained == 10 else 100)
    assert torch.equal(optimizer.masters.tensors["w"], file[:trained])


def test_stochastic_rounding_needs_no_masters_and_loses_no_small_updates() -> None:
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.ones(400, 400))
    config = TrainConfig(weight_decay=0.0, stochastic_rounding=True)
    optimizer = MasterAdamW(masters_of([("w", parameter)], config, torch.bfloat16), config)
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step(1e-5, None)
        assert optimizer.masters.tensors["w"].numel() == 0
    assert optimizer.masters.values()["w"].mean() == pytest.approx(1 - 1e-3, abs=5e-5)
    saved = optimizer.masters.values()["w"].clone()
    optimizer.masters.load({"w": torch.zeros(400, 400)})
    assert not parameter.any()
    optimizer.masters.load({"w": saved})
    optimizer.adopt_masters()
    assert parameter.dtype == torch.float32
    assert torch.equal(parameter, saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updating_in_the_backward_pass_gives_the_same_weights(tiny_model: Path, dtype: torch.dtype) -> None:
    weights, norms = [], []
    for in_backward in (False, True):
        config = TrainConfig(logging_steps=1, max_grad_norm=None, warmup_ratio=0.0, optimizer_in_backward=in_backward)
        model = fresh(tiny_model)
        optimizer = MasterAdamW(masters_of(model.named_parameters(), config, dtype), config)
        schedule = EpochSchedule(rows(), BatchPlan(60), 0, 1, 1)
        dry_run(learner(model), schedule)  # must not update: it is no step
        infos = list(train_steps(learner(model), schedule, optimizer, rates(schedule, 1e-3, config), config))
        assert all(p.grad is None for p in model.parameters())
        norms.append([info.grad_norm for info in infos])
        weights.append(torch.cat([w.flatten() for w in optimizer.masters.values().values()]))
    assert torch.equal(*weights)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_updating_in_the_backward_pass_never_holds_all_gradients(tiny_model: Path) -> None:
    config = TrainConfig(max_grad_norm=None, optimizer_in_backward=True)
    model = fresh(tiny_model)
    optimizer = MasterAdamW(Masters(model.named_parameters()), config)
    held, most = set(), []

    def count(parameter: torch.nn.Parameter) -> None:
        held.add(id(parameter))
        most.append(sum(p.grad is not None for p in model.parameters()))

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(count)  # after the optimizer's own
    optimizer.arm(1e-3, 1)
    batch = classification.collate(rows(8), list(range(8)), 0)
    backward(learner(model), [batch], 8)
    assert len(held) == len(list(model.parameters()))
    assert max(most) == 0


@pytest.mark.parametrize(
    "more", [{"max_grad_norm": 1.0}, {"gradient_accumulation_steps": 2}, {"auto_batch": True}, {"non_finite": "skip"}]
)
def test_updating_in_the_backward_pass_refuses_what_needs_the_whole_gradient(more: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(more))):
        TrainConfig.model_validate({"optimizer_in_backward": True, "max_grad_norm": None} | more)


def test_optimizer_equals_torch_adamw_with_clipping_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.training.optim._CHUNK_ELEMENTS", 20)
    torch.manual_seed(0)
    ours = [(f"p{i}", torch.nn.Parameter(torch.randn(s))) for i, s in enumerate([(4, 4), (4,), (5, 6), (3,)])]
    theirs = [torch.nn.Parameter(p.detach().clone()) for _, p in ours]
    optimizer = MasterAdamW(Masters(ours), TrainConfig(weight_decay=0.1))
    assert len(optimizer._chunks) == 3
    reference = torch.optim.AdamW(
        [{"params": theirs[::2], "weight_decay": 0.1}, {"params": theirs[1::2], "weight_decay": 0.0}], lr=1e-2
    )
    for _ in range(5):
        for (_, a), b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        norm = optimizer.step(1e-2, 0.5)
        assert float(norm) == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, 0.5)), rel=1e-5)
        reference.step()
    for (_, a), b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_dry_run_leaves_no_trace(tiny_model: Path) -> None:
    encoded, model = rows(), fresh(tiny_model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    dry_run(learner(model), EpochSchedule(encoded, BatchPlan(60), 0, 1, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.named_parameters())


def test_scores_do_not_depend_on_batches(tiny_model: Path) -> None:
    encoded, model = rows(), fresh(tiny_model)
    one, many = (score(model, classification, encoded, pad_id=0, tokens_per_batch=budget) for budget in (1, 10_000))
    torch.testing.assert_close(torch.tensor(one), torch.tensor(many), atol=1e-5, rtol=1e-5)
    model.train()
    assert score(model, classification, encoded, pad_id=0, tokens_per_batch=10).shape == (24, 2)
    assert model.training  # the mode it was in


def test_metrics_against_a_worked_example() -> None:
    import numpy as np

    scores = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]], dtype=np.float32))
    metrics = classification.metrics(scores, [0, 0, 1, 1], ["no", "yes"])
    assert metrics["accuracy"] == 0.5
    assert metrics["confusion_matrix"] == [[1, 1], [1, 1]]
    assert metrics["per_class"]["yes"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 2}
    assert metrics["roc_auc"] == 0.75
    assert metrics["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.3]).mean(), abs=1e-6)
    assert "roc_auc" not in classification.metrics(scores, [1, 1, 1, 1], ["no", "yes"])
    answer = classification.decode(scores, ["no", "yes"])[1]
    assert answer["label"] == "yes"
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["opt", "bloom", "gpt2", "bert"])
def test_every_kind_of_dropout_is_set(kind: str) -> None:
    """Some models hold a rate as a plain number, and some skip whole layers."""
    import transformers

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 64,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
    }
    config = transformers.AutoConfig.for_model(kind, **sizes, **({"layerdrop": 0.5} if kind == "opt" else {}))
    auto = transformers.AutoModel if kind == "bert" else transformers.AutoModelForCausalLM
    model = auto.from_config(config).train()
    assert drops(model) or kind == "bloom"
    set_dropout(model, 0.0)
    assert not drops(model)
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        first, second = (model(input_ids=ids)[0] for _ in range(2))
        assert torch.equal(first, second)
        set_dropout(model, 0.5)
        assert drops(model)
        first, second = (model(input_ids=ids)[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("train", "named"),
    [
        ({"stochastic_rounding": True, "dropout": 0.1}, "stochastic_rounding=true with dropout and 2 processes"),
        ({"distributed": "fsdp2", "tokens_per_batch": "auto"}, "tokens_per_batch=auto with FSDP2"),
    ],
)
def test_what_several_processes_would_do_apart_is_refused(
    train: dict[str, Any], named: str, options: dict[str, Any]
) -> None:
    config = RunConfig.model_validate({**options, "train": {**options["train"], **train}})
    refuse_processes(config, 1)
    with pytest.raises(ConfigError, match=named):
        refuse_processes(config, 2)


def test_processes_drop_apart_and_steps_again_alike() -> None:
    assert len({_seed_of(7, step, rank) for step in range(50) for rank in range(4)}) == 200
    assert _seed_of(7, 3, 1) == _seed_of(7, 3, 1) < 1 << 63


def test_tied_weights_are_gathered_once() -> None:
    model = torch.nn.ModuleDict({"table": torch.nn.Embedding(4, 3), "head": torch.nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["table"].weight
    masters = masters_of(model.named_parameters(), TrainConfig(), torch.bfloat16)
    found = dict(gathered(model, masters, frozen=True))
    assert found.keys() == {"table.weight"}
    assert found["table.weight"].dtype == torch.float32


def test_weights_of_classes_whose_shares_nobody_knows() -> None:
    """Of a stream."""
    found = classification.class_weights({"bad": 1.0, "good": 5.0}, [], ("bad", "good"))
    assert found is not None
    assert found.tolist() == pytest.approx([1 / 3, 5 / 3])
