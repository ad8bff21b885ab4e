"""A run's head over a shared body: of many families the same as in the whole model, and what such a body cannot give is refused."""

import copy
import threading
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from weitiao.inference.adapter import _on_a_small_body
from weitiao.inference.mixed import Body, CannotShare, Given, MixedLinear

PLAIN = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**PLAIN, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "deberta-v2", "albert", "ernie", "mpnet"), PLAIN),
    **dict.fromkeys(("camembert", "roformer", "convbert", "mobilebert", "xlm-roberta-xl"), PLAIN),
    **dict.fromkeys(("qwen2", "qwen3", "llama", "mistral", "gemma3_text", "phi3", "gpt_neox", "smollm3"), GROUPED),
    "distilbert": {"vocab_size": 60, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "modernbert": {**PLAIN, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    "longformer": {**PLAIN, "attention_window": [8, 8, 8]},
    "xlnet": {"vocab_size": 60, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64, "pad_token_id": 0},
    "gpt2": {"vocab_size": 60, "n_embd": 32, "n_layer": 3, "n_head": 4, "pad_token_id": 0},
    "funnel": {"vocab_size": 60, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1, 1]},
}  # fmt: skip
LABELLERS = {"texts": AutoModelForSequenceClassification, "words": AutoModelForTokenClassification}
NO_HEAD = {("gemma3_text", "words")}
GIVES_MORE = {("longformer", "texts")}  # global attention to the first token


class Watched(torch.nn.Module):
    """A body that keeps what it answers."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, *given: Any, **more: Any) -> Any:
        self.answer = self.body(*given, **more)
        return self.answer


@pytest.mark.parametrize("kind", LABELLERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_from_a_small_body_is_that_of_the_whole_model(family: str, kind: str) -> None:
    if (family, kind) in NO_HEAD:
        pytest.skip("transformers has no such head")
    config = AutoConfig.for_model(family, **FAMILIES[family], num_labels=5)
    torch.manual_seed(0)
    whole = LABELLERS[kind].from_config(copy.deepcopy(config)).eval()
    small = _on_a_small_body(LABELLERS[kind], config)
    place = whole.base_model_prefix
    given, watched = Given(), Watched(getattr(whole, place))
    values = {name: value for name, value in whole.state_dict().items() if not name.startswith(f"{place}.")}
    setattr(whole, place, watched)
    setattr(small, place, given)
    assert {name: value.shape for name, value in small.state_dict().items()} == {
        name: value.shape for name, value in values.items()
    }
    small.load_state_dict(values, assign=True)
    small.eval()
    ids = torch.randint(5, 60, (3, 12))
    batch = {"input_ids": ids, "attention_mask": (torch.arange(12) < torch.tensor([[12], [7], [12]])).long()}
    with torch.no_grad():
        expected = whole(**batch).logits
        given.known.outputs = watched.answer
        if (family, kind) in GIVES_MORE:
            with pytest.raises(CannotShare, match="global_attention_mask"):
                small(**batch)
        else:
            assert torch.equal(small(**batch).logits, expected)


def test_a_head_is_built_in_the_default_dtype_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads compute meanwhile, and transformers changes the default of all of them."""
    seen: list[torch.dtype] = []
    right = torch.set_default_dtype
    monkeypatch.setattr(torch, "set_default_dtype", lambda dtype: seen.append(dtype) or right(dtype))
    config = AutoConfig.for_model("qwen2", **GROUPED, dtype="bfloat16", num_labels=5)
    _on_a_small_body(AutoModelForSequenceClassification, config)
    assert set(seen) == {torch.float32}


def with_adapter(body: Body, path: str) -> Body:
    layer = body.model.get_submodule(path)
    body.add("one", {path: (torch.ones(2, layer.in_features), torch.ones(layer.out_features, 2))}, {})
    assert isinstance(body.model.get_submodule(path), MixedLinear)
    return body


@pytest.mark.parametrize(
    ("family", "path", "rows", "tokens"),
    [("longformer", "encoder.layer.0.attention.self.query", 8, 8), ("deberta-v2", "encoder.layer.0.attention.self.query_proj", 1, 8)],
)  # fmt: skip
def test_a_batch_of_as_many_rows_as_a_layer_sees_by_chance_is_refused(
    family: str, path: str, rows: int, tokens: int
) -> None:
    more = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    config = AutoConfig.for_model(family, **FAMILIES[family], **(more if family == "deberta-v2" else {}))
    body = with_adapter(Body(AutoModel.from_config(config).eval()), path)
    with torch.no_grad(), pytest.raises(CannotShare, match="a layer sees"):
        body.outputs([{"input_ids": torch.full((rows, tokens), 7)}], ["one"])


def test_a_body_that_is_changed_by_its_own_pass_computes_one_batch_at_a_time() -> None:
    """Rotary frequencies that follow the length of the batch would be another thread's in the middle of a pass."""
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 8, "factor": 8.0,
        "short_factor": [1.0] * 4, "long_factor": [9.0] * 4,
    }  # fmt: skip
    config = AutoConfig.for_model("phi3", **GROUPED, original_max_position_embeddings=8, rope_parameters=rope)
    torch.manual_seed(0)
    body = with_adapter(Body(AutoModel.from_config(config).eval()), "layers.0.self_attn.o_proj")
    batches = [{"input_ids": torch.full((2, length), 7)} for length in (6, 40)]
    right, wrong = [], []
    both, forward = threading.Barrier(2), body.model.rotary_emb.forward

    def slow(*given: Any, **more: Any) -> Any:
        found = forward(*given, **more)
        try:
            both.wait(0.2)  # a turn lets one come alone
            wrong.append("two at once")
        except threading.BrokenBarrierError:
            both.reset()
        return found

    with torch.no_grad():
        right = [body.outputs([batch], ["one"])[0].last_hidden_state for batch in batches]
        assert (right[0][:, 0] - right[1][:, 0]).abs().max() < 1e-5  # a first position turns by nothing
    body.model.rotary_emb.forward = slow

    def ask(number: int) -> None:
        with torch.no_grad():
            found = body.outputs([batches[number]], ["one"])[0].last_hidden_state
            if not torch.equal(found, right[number]):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
