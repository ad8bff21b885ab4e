"""Plans of machines, packages and weights that are not here."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

import weitiao
from support.config_alone import GPU, SMALL
from weitiao.commands.app import app
from weitiao.errors import ConfigError, ModelError
from weitiao.measure import cost, gpu
from weitiao.measure.cost import step_cost
from weitiao.measure.devices import DEVICES, device_of, find_device
from weitiao.planning.machine import Machine
from weitiao.pretrained.resolve import Resolved


def planned(model: Path, tokens: int = 512, device: str | None = GPU, **more: Any) -> dict[str, Any]:
    """The plan of each method by its name."""
    given = {"model": str(model), "task": "causal_lm", **more}
    methods = weitiao.plan(given, rows=64, tokens=tokens, device=device)["methods"]
    return {method["name"]: method for method in methods}


def test_config_json_is_enough(config_alone: Path) -> None:
    found = CliRunner().invoke(
        app,
        [
            "plan",
            f"model={config_alone / 'config.json'}",
            "task=causal_lm",
            "--tokens",
            "300",
            "--rows",
            "50",
            "--json",
        ],
    )
    assert found.exit_code == 0, found.output
    plan = json.loads(found.stdout)
    assert plan["rows"] == {"train": 40, "eval": 10, "longest_tokens": 300}
    model = transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(config_alone))
    count = sum(p.numel() for p in model.parameters())
    assert plan["methods"][0]["num_params"] == plan["methods"][0]["num_trainable_params"] == count
    assert any("assumed rows: 50 of 300 tokens" in note for note in plan["methods"][0]["notes"])


@pytest.mark.parametrize("task", ["classification", "multi_label", "regression", "token_classification"])
def test_every_task_is_planned_without_data(config_alone: Path, task: str) -> None:
    names = {"data": {"label_names": ["a", "b", "c", "d"]}} if task in ("classification", "multi_label") else {}
    found = planned(config_alone, task=task, method={"type": "full", "top_k": 0}, **names)
    (head,) = found.keys() - {"full", "lora"}
    width = {"classification": 4, "multi_label": 4, "regression": 1, "token_classification": 7}[task]
    weights = 64 * width + (width if task == "token_classification" else 0)
    assert found[head]["num_trainable_params"] == weights + 64  # the last norm belongs to the head


def test_rows_without_a_length_are_refused(config_alone: Path) -> None:
    with pytest.raises(ConfigError, match="--tokens 512"):
        weitiao.plan({"model": str(config_alone), "task": "causal_lm"}, rows=10)
    with pytest.raises(ConfigError, match="8,192 tokens"):
        planned(config_alone, tokens=9000)
    with pytest.raises(ConfigError, match="--calibrate together with --tokens"):
        weitiao.plan({"model": str(config_alone), "task": "causal_lm"}, tokens=10, calibrate=True)


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_a_long_row_keeps_no_probabilities(config_alone: Path, attention: str) -> None:
    """Activations grow with the tokens, not with their square: one row a batch has no padding, so no mask."""
    train = {"attention": attention, "per_device_train_batch_size": 1}
    short, long = (planned(config_alone, n, train=train)["lora"]["activation_bytes_per_token"] for n in (512, 8192))
    assert long == pytest.approx(short, rel=0.02)


def test_fused_attention_costs_what_its_formulas_say() -> None:
    """Forward two products, backward five; with grouped keys as they are; causal about half of the pairs."""
    batch, heads, length, size = 2, 4, 64, 16
    q = torch.zeros(batch, heads, length, size, device="meta", requires_grad=True)
    k, v = (torch.zeros(batch, 1, length, size, device="meta", requires_grad=True) for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention
    for causal, pairs in ((False, length**2), (True, (length**2 + length) // 2)):
        cost = step_cost(
            torch.nn.Module(),
            lambda causal=causal: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True).sum(),  # type: ignore[misc]
            device="cuda",
        )  # fmt: skip
        assert cost.flops == 7 * 2 * batch * heads * pairs * size
        assert cost.saved_bytes == 4 * batch * heads * length * (size + 1) + 4  # output, a sum a query; 4: the sum
    assert torch.nn.functional.scaled_dot_product_attention is attend
    dropped = step_cost(torch.nn.Module(), lambda: torch.nn.functional.dropout(q, 0.1).sum(), device="cuda")
    assert dropped.saved_bytes == q.numel() * 1 + 4  # a mask of a byte


def test_a_checkpointed_layer_is_computed_again_with_the_same_kernels() -> None:
    config = transformers.LlamaConfig(**SMALL)  # type: ignore[arg-type]
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    ids = torch.zeros(1, 256, dtype=torch.long, device="meta")

    def step() -> Any:
        return step_cost(model.train(), lambda: model(input_ids=ids, labels=ids).loss, device="cuda", padded=False)

    plain = step()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = step()
    assert again.saved_bytes < 0.5 * plain.saved_bytes
    assert 1.2 * plain.flops < again.flops < 1.4 * plain.flops


def test_no_package_of_this_machine_decides(config_alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.training.refusals.find_spec", lambda name: None)
    qlora = {"method": {"type": "qlora"}}
    found = planned(config_alone, **qlora)
    assert found["qlora"]["memory_bytes"]["weights"] < found["lora"]["memory_bytes"]["weights"]
    few = planned(config_alone, method={"type": "qlora", "target_modules": ["q_proj"]})["qlora"]
    assert (
        few["memory_bytes"]["weights"] < 1.02 * found["qlora"]["memory_bytes"]["weights"]
    )  # the other layers are packed too
    galore = {"method": {"type": "galore", "galore_rank": 4}}
    assert "galore" in planned(config_alone, **galore)
    with pytest.raises(ConfigError, match="pytorch-optimizer is not installed"):
        planned(config_alone, device=None, **galore)
    with pytest.raises(ConfigError, match="bitsandbytes is not installed"):
        planned(config_alone, device=None, **qlora)
    plain, liger = (planned(config_alone, train={"liger": on})["lora"] for on in (False, True))
    assert liger["memory_bytes"] == plain["memory_bytes"]
    with pytest.raises(ConfigError, match="flash_attention_2"):
        planned(config_alone, device="EPYC-9654-384GB", train={"attention": "flash_attention_2"})


def test_the_type_of_the_own_method_means_the_own_method(config_alone: Path) -> None:
    given = {"model": str(config_alone), "task": "causal_lm", "method": {"type": "lora", "use_dora": True}}
    (own,) = weitiao.plan(given, rows=64, tokens=64, methods=["lora"])["methods"]
    assert own["name"] == "dora"
    plain, both = weitiao.plan(given, rows=64, tokens=64, methods=["lora", "dora"])["methods"]
    assert (plain["name"], both["name"]) == ("lora", "dora")
    assert plain["num_trainable_params"] < both["num_trainable_params"] == own["num_trainable_params"]


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    """Of a frozen tied embedding in bf16 as of a trained one."""
    config = transformers.LlamaConfig(**SMALL, tie_word_embeddings=True, architectures=["LlamaForCausalLM"])  # type: ignore[arg-type]
    config.save_pretrained(tmp_path)
    found = planned(tmp_path, method={"type": "full", "parameters": "norm"})
    norms = next(method for name, method in found.items() if name not in ("full", "lora"))
    assert norms["artifact_bytes"] == pytest.approx(found["full"]["artifact_bytes"], rel=1e-3)
    assert norms["artifact_bytes"] == pytest.approx(4 * norms["num_params"], rel=0.03)  # and the names
    assert norms["memory_bytes"]["total"] < found["full"]["memory_bytes"]["total"]


def test_importances_are_planned(config_alone: Path) -> None:
    """AdaLoRA smooths two figures of each of its parameters, and keeps the last one."""
    (found,) = planned(config_alone, method={"type": "adalora"}).keys() - {"full", "lora"}
    ranks = planned(config_alone, method={"type": "adalora"})[found]
    assert ranks["memory_bytes"]["optimizer"] == 20 * ranks["num_trainable_params"]
    assert (
        ranks["checkpoint_bytes"] == 20 * ranks["num_trainable_params"]
    )  # masters and moments 12, two of three importances


def test_a_module_is_named_by_the_end_of_its_path(tmp_path: Path) -> None:
    shape = {**SMALL, "max_position_embeddings": 512}
    shape.pop("num_key_value_heads")
    transformers.BertConfig(**shape, architectures=["BertForMaskedLM"]).save_pretrained(tmp_path)  # type: ignore[arg-type]
    lora = {"type": "lora", "r": 2, "target_modules": ["intermediate.dense"]}
    found = planned(tmp_path, 64, task="classification", method=lora)["lora"]
    head = 64 * 3 + 3 + 64 * 64 + 64  # classifier and pooler, which a masked language model lacks
    assert found["num_trainable_params"] == 3 * 2 * (64 + 128) + head


def test_a_step_takes_the_slower_of_host_and_device(config_alone: Path) -> None:
    """Tiny rows on a large GPU wait for the host, so a quicker GPU changes nothing; large ones wait for the device."""
    times = {}
    for tokens in (8, 8192):
        for device in ("A100-80GB", "H100-80GB"):
            train = {"per_device_train_batch_size": 2}
            times[tokens, device] = planned(config_alone, tokens, device, train=train)["full"]["seconds"]["training"]
    assert times[8, "A100-80GB"] == times[8, "H100-80GB"] > 0
    device = find_device("L40S-48GB")
    assert gpu.rates(device, "bfloat16").gemm_flops_per_s < device.bf16_flops_per_s
    assert all(gpu.rates(d, "float32").gemm_flops_per_s > 0 for d in DEVICES.values() if d.kind == "cuda")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_products_of_experts_are_counted(tmp_path: Path, dtype: str) -> None:
    """As many operations as six for each active parameter and token, attention aside."""
    config = transformers.MixtralConfig(**{**SMALL, "hidden_size": 256, "intermediate_size": 512}, num_local_experts=4)  # type: ignore[arg-type]
    config.architectures = ["MixtralForCausalLM"]
    config.save_pretrained(tmp_path)
    device = GPU if dtype == "bfloat16" else "T4-16GB"
    found = planned(tmp_path, 64, device, train={"per_device_train_batch_size": 1})["full"]
    attention = 256 * 32 * (8 + 2 + 2 + 8)
    experts = 2 * 3 * 256 * 512 + 4 * 256  # two of four, and the router
    active = 3 * (attention + experts) + 512 * 256
    assert found["flops_per_token"] == pytest.approx(6 * active, rel=0.03)


def test_products_without_a_formula_are_said(config_alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would count as nothing, as those of experts did."""
    plain = planned(config_alone)["full"]
    assert not any("no count of products" in note for note in plain["notes"])
    known = {k: v for k, v in cost.flop_registry.items() if k is not torch.ops.aten.mm}
    monkeypatch.setattr(cost, "flop_registry", known)
    monkeypatch.setattr(cost, "_KNOWN", {})  # what earlier traces remember has formulas
    found = planned(config_alone)["full"]
    assert any("no count of products is known for aten.mm: time" in note for note in found["notes"])
    assert found["flops_per_token"] < 0.5 * plain["flops_per_token"]


def test_packed_experts_are_not_promised(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(**SMALL, num_local_experts=4)  # type: ignore[arg-type]
    config.architectures = ["MixtralForCausalLM"]
    config.save_pretrained(tmp_path)
    lora = {"type": "qlora", "target_modules": ["q_proj"]}
    assert any("stay in 16 bits" in note for note in planned(tmp_path, method=lora)["qlora"]["notes"])


def test_a_7b_is_loaded_into_a_small_card(tmp_path: Path) -> None:
    """In 16 bits into 24 GB, in 4 bits into 8 GB: tensors are cast and packed one after the other."""
    shape = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "vocab_size": 32000,
    }
    transformers.LlamaConfig(**shape, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)  # type: ignore[arg-type]
    found = {
        name: planned(tmp_path, 256, "RTX-4090-24GB", method={"type": name}, train={"gradient_checkpointing": chosen})[
            name
        ]
        for name, chosen in (("lora", "false"), ("qlora", "full"))
    }
    assert found["lora"]["fits"] == "yes"
    assert 13.4e9 < found["lora"]["load_peak_bytes"] < 24e9
    assert found["qlora"]["load_peak_bytes"] < found["qlora"]["memory_bytes"]["total"] < 8e9
    wide = planned(tmp_path, 8, "RTX-4090-24GB", method={"type": "full", "lisa_layers": 1})["full"]
    assert wide["memory_bytes"]["total"] >= wide["load_peak_bytes"]


@pytest.mark.parametrize(
    ("named", "new"),
    [(["LlamaForCausalLM"], 0), (None, 0), (["NoSuchModel"], 0), ("LlamaForCausalLM", 0), (["BertModel"], 0)],
)
def test_an_unknown_architecture_makes_no_head_new(config_alone: Path, named: Any, new: int) -> None:
    path = config_alone / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": named}))
    a, b = (planned(config_alone, method={"type": "lora", "r": r})["lora"]["num_trainable_params"] for r in (4, 8))
    assert b - 2 * a == new  # adapters alone: twice the rank is twice the parameters


def test_broken_configurations_are_errors(config_alone: Path) -> None:
    path = config_alone / "config.json"
    whole = json.loads(path.read_text())
    for broken, said in (
        ({"hidden_size": "big"}, "Cannot load the model"),
        ({"hidden_size": -64}, "Cannot load the model"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq has packed"),
    ):
        path.write_text(json.dumps(whole | broken))
        with pytest.raises(ModelError, match=said):
            planned(config_alone)


def test_a_step_that_needs_values_is_an_error(tmp_path: Path) -> None:
    shape = {
        "vocab_size": 512,
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
    }
    config = transformers.BartConfig(**shape, architectures=["BartForConditionalGeneration"])  # type: ignore[arg-type]
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be planned with full"):
        planned(tmp_path, 64, task="classification")


def test_rows_are_divided_as_a_run_divides_them(config_alone: Path) -> None:
    def rows(count: int = 100, **data: Any) -> tuple[int, int]:
        given = {"model": str(config_alone), "task": "causal_lm", **({"data": data} if data else {})}
        found = weitiao.plan(given, methods=["lora"], rows=count, tokens=16, device=GPU)["rows"]
        return found["train"], found["eval"]

    assert rows() == (80, 20)
    assert rows(test_size=10) == (90, 10)
    assert rows(test_size=0.5, train_size=7) == (7, 50)
    assert rows(num_folds=4) == (75, 25)
    assert rows(eval="other.jsonl") == (100, 20)
    with pytest.raises(ConfigError, match=r"data\.test_size=100"):
        rows(test_size=100)
    with pytest.raises(ConfigError, match="5,000,000 rows"):
        rows(count=10**9)
    found = CliRunner().invoke(app, ["plan", f"model={config_alone}", "task=causal_lm", "--rows", "10"])
    assert isinstance(found.exception, ConfigError)
    assert "--tokens 512" in str(found.exception)
    note = planned(config_alone, 4096, data={"max_length": 100})["lora"]["notes"][-1]
    assert "data.max_length=4096" in note


def test_packed_rows_and_windows_on_a_gpu(config_alone: Path, tmp_path: Path) -> None:
    """flash-attn takes packed rows apart, and leaves out what lies outside a window; SDPA computes one masked row."""
    train = {"packing": True, "tokens_per_batch": 8192}
    flash, sdpa, alone = (
        planned(config_alone, 32, train={**options, "attention": kind})["full"]["flops_per_token"]
        for kind, options in (
            ("flash_attention_2", train),
            ("sdpa", train),
            ("flash_attention_2", {"tokens_per_batch": 8192}),
        )
    )
    assert flash == pytest.approx(alone, rel=0.02)
    assert sdpa > 5 * flash
    config = transformers.MistralConfig(**SMALL, architectures=["MistralForCausalLM"], sliding_window=128)  # type: ignore[arg-type]
    config.save_pretrained(tmp_path / "window")
    near, far = (
        planned(model, 4096, train={"attention": "flash_attention_2"})["full"]["flops_per_token"]
        for model in (tmp_path / "window", config_alone)
    )
    assert near < 0.5 * far


@pytest.mark.parametrize(
    ("label", "gib", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", 79, "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", 39, "A100-40GB"),
        ("Tesla V100-SXM2-16GB", 15, "V100-16GB"),
        ("NVIDIA GeForce RTX 4090", 23, "RTX-4090-24GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 15, "RTX-4060-Ti-16GB"),
        ("NVIDIA L40S", 44, "L40S-48GB"),
        ("NVIDIA L4", 22, "L4-24GB"),
        ("NVIDIA H200", 139, "H200-141GB"),
        ("NVIDIA RTX A6000", 47, "RTX-A6000-48GB"),
        ("NVIDIA GB10", 100, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 15, None),
    ],
)
def test_a_gpu_is_known_by_its_name(label: str, gib: int, name: str | None) -> None:
    found = device_of(label, gib * 2**30)
    assert (found and found.name) == name
    dtype: Any = "bfloat16" if found is None or found.bf16_flops_per_s else "float16"
    machine = Machine(label, None, gib * 2**30, 0, Resolved("cuda", dtype, "sdpa", {}))
    assert machine.rates(None, False).gemm_flops_per_s > 0  # an unknown one too
    assert machine.like.name in machine.claim
    shared = Machine("NVIDIA A100-SXM4-80GB", None, 40 * 2**30, 0, machine.resolved, card_bytes=79 * 2**30)
    assert shared.like.name == "A100-80GB"  # half of it is another's


@pytest.mark.parametrize("device", ["T4-16GB", "V100-16GB", "RTX-2080-Ti-11GB"])
def test_gpus_without_bf16_are_planned_in_float16(config_alone: Path, device: str) -> None:
    """Weights and gradients of 2 bytes, masters and moments of fp32, and the tensor cores' rate."""
    method = {"type": "full"}
    half, wide = (
        planned(config_alone, 256, device, method=method, train={"bf16": bf16})["full"] for bf16 in ("auto", False)
    )
    memory, fp32 = half["memory_bytes"], wide["memory_bytes"]["gradients"]
    assert (memory["masters"], memory["gradients"], memory["optimizer"]) == (fp32, fp32 // 2, 2 * fp32)
    assert wide["memory_bytes"]["masters"] == 0
    assert memory["weights"] < 0.6 * wide["memory_bytes"]["weights"]
    peaks = find_device(device)
    assert gpu.rates(peaks, "float16").gemm_flops_per_s > 3 * gpu.rates(peaks, "float32").gemm_flops_per_s
    shape = {**SMALL, "hidden_size": 2048, "intermediate_size": 5632}  # large enough for the products to take the time
    transformers.LlamaConfig(**shape, architectures=["LlamaForCausalLM"]).save_pretrained(config_alone.parent / "large")  # type: ignore[arg-type]
    seconds = [
        planned(config_alone.parent / "large", 512, device, method=method, train={"bf16": bf16})["full"]["seconds"][
            "training"
        ]
        for bf16 in ("auto", False)
    ]
    assert seconds[0] < 0.6 * seconds[1]
    plan = weitiao.plan(
        {"model": str(config_alone), "task": "causal_lm", "method": method}, rows=64, tokens=64, device=device
    )
    assert plan["device"]["dtype"] == "float16"


@pytest.mark.parametrize(("device", "dtype"), [("P100-16GB", "float32"), ("A100-80GB", "bfloat16")])
def test_the_dtype_follows_the_device(config_alone: Path, device: str, dtype: str) -> None:
    asked = {"model": str(config_alone), "task": "causal_lm", "method": {"type": "lora"}}
    plan = weitiao.plan(asked, rows=64, tokens=64, device=device)
    assert plan["device"]["dtype"] == dtype
    plan = weitiao.plan(asked | {"train": {"fp16": True}}, rows=64, tokens=64, device=device)
    assert plan["device"]["dtype"] == "float16"


def test_tf32_is_planned_where_there_is_some(config_alone: Path) -> None:
    train = {"bf16": False, "tf32": True, "per_device_train_batch_size": 8}
    exact, rounded = (
        planned(config_alone, 8192, "A100-80GB", train=train | {"tf32": tf32})["full"] for tf32 in (False, True)
    )
    assert rounded["seconds"]["training"] < exact["seconds"]["training"]
    assert rounded["memory_bytes"] == exact["memory_bytes"]
    for device in ("T4-16GB", "MI300X-192GB", "EPYC-9654-384GB"):
        with pytest.raises(ConfigError, match="has no TF32"):
            planned(config_alone, 64, device, train=train)


@pytest.mark.parametrize("name", ["7B", "mixture of experts"])
def test_large_models_are_planned_in_seconds(tmp_path: Path, name: str) -> None:
    """From config.json alone; the seconds of imports come on top."""
    shape = {"vocab_size": 152064, "num_attention_heads": 28, "num_key_value_heads": 4}
    config: Any = transformers.Qwen2Config(**shape, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28)
    if name != "7B":
        config = transformers.MixtralConfig(
            hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_local_experts=8
        )
    config.architectures = ["Qwen2ForCausalLM" if name == "7B" else "MixtralForCausalLM"]
    config.save_pretrained(tmp_path)
    began = time.perf_counter()
    found = planned(tmp_path, 2048)
    assert time.perf_counter() - began < 60  # a machine that does other things beside; about 5 alone
    billions = {"7B": 7.6, "mixture of experts": 46.7}[name]
    assert found["full"]["num_params"] / 1e9 == pytest.approx(billions, abs=0.1)
    assert found["full"]["fits"] == "no"
    assert found["lora"]["fits"] == ("yes" if name == "7B" else "no")


@pytest.mark.parametrize("name", ["RTX4090-24GB", "rtx-4090-24gb", "RTX 4090 24GB", "rtx_4090_24gb"])
def test_a_device_s_name_is_its_letters(name: str) -> None:
    assert find_device(name).name == "RTX-4090-24GB"


def test_names_stay_apart_without_hyphens() -> None:
    assert len({find_device(name).name for name in DEVICES}) == len(DEVICES)


@pytest.mark.parametrize("bf16", [True, False])
def test_gradients_of_several_batches_are_held_in_fp32(config_alone: Path, bf16: bool) -> None:
    """Next to the ones that the model computes: 4 bytes for each trained parameter, in either precision."""

    def total(batches: int) -> tuple[int, int]:
        train = {"bf16": bf16, "gradient_accumulation_steps": batches, "tokens_per_batch": 4096}
        plan = planned(config_alone, method={"type": "full"}, train=train)["full"]
        return int(plan["memory_bytes"]["total"]), int(plan["num_trainable_params"])

    (one, trained), (two, _) = total(1), total(2)
    assert two - one == pytest.approx(4 * trained, rel=0.03)
