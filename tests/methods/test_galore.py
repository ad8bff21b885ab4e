"""GaLore: the update is the paper's, moments are as small as planned, and the rest keeps AdamW."""

from pathlib import Path

import pytest
import torch

from support.bert import batch, load
from weitiao.config.method import FullConfig
from weitiao.config.train import TrainConfig
from weitiao.errors import ConfigError
from weitiao.methods import full
from weitiao.methods.galore import GaLore
from weitiao.tasks import classification
from weitiao.training.masters import Masters
from weitiao.training.optim import MasterAdamW


def test_the_update_is_the_papers() -> None:
    """Three steps of a matrix against equations (5) to (7) of arXiv 2403.03507, projected anew at step 2; a bias beside it."""
    torch.manual_seed(0)
    rank, rate, scale = 3, 1e-2, 0.5
    weight, bias = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((12, 8), (8,)))
    galore = GaLore(frozenset({"w"}), {"rank": rank, "update_proj_gap": 2, "scale": scale, "projection_type": "std"})
    config = TrainConfig(weight_decay=0.1)
    optimizer = MasterAdamW(Masters([("w", weight), ("b", bias)]), config, projection=galore)
    w, m, v = weight.detach().clone(), torch.zeros(12, rank), torch.zeros(12, rank)
    plain = torch.nn.Parameter(bias.detach().clone())
    adamw = torch.optim.AdamW([plain], lr=rate, betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon, weight_decay=0)  # fmt: skip
    p = torch.empty(0)
    for step in range(1, 4):
        gradient = torch.randn(12, 8)
        if step in (1, 2):
            p = torch.linalg.svd(gradient, full_matrices=False)[2][:rank]
        low = gradient @ p.T
        m = config.adam_beta1 * m + (1 - config.adam_beta1) * low
        v = config.adam_beta2 * v + (1 - config.adam_beta2) * low**2
        size = rate * (1 - config.adam_beta2**step) ** 0.5 / (1 - config.adam_beta1**step)
        w = (w - size * scale * (m / (v.sqrt() + config.adam_epsilon)) @ p) * (1 - rate * 0.1)
        weight.grad, bias.grad = gradient.clone(), torch.ones(8) * step
        plain.grad = torch.ones(8) * step
        optimizer.arm(rate, step)
        optimizer.step(rate, None)
        adamw.step()
        torch.testing.assert_close(weight.detach(), w, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(bias.detach(), plain.detach())


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    """From what a checkpoint stores: contiguous tensors. The decomposition's own layout would be rounded otherwise."""

    def go_on(optimizer: MasterAdamW, weight: torch.nn.Parameter, steps: range) -> None:
        for step in steps:
            weight.grad = torch.randn(96, 64, generator=torch.Generator().manual_seed(step))
            optimizer.arm(1e-2, step)
            optimizer.step(1e-2, None)

    def fresh() -> tuple[MasterAdamW, torch.nn.Parameter]:
        weight = torch.nn.Parameter(torch.randn(96, 64, generator=torch.Generator().manual_seed(0)))
        options = {"rank": 4, "update_proj_gap": 5, "scale": 1.0, "projection_type": "std"}
        return MasterAdamW(
            Masters([("w", weight)]), TrainConfig(), projection=GaLore(frozenset({"w"}), options)
        ), weight

    whole, expected = fresh()
    go_on(whole, expected, range(1, 9))
    first, weight = fresh()
    go_on(first, weight, range(1, 4))
    stored = {name: value.clone(memory_format=torch.contiguous_format) for name, value in first.state().items()}
    resumed, again = fresh()
    resumed.masters.load(first.masters.values())
    resumed.load_state(stored, 3)
    go_on(resumed, again, range(4, 9))
    assert torch.equal(again, expected)


@pytest.mark.parametrize("in_backward", [False, True])
def test_matrices_of_layers_hold_small_moments(in_backward: bool, tiny_model: Path) -> None:
    model, new = load(tiny_model)
    config = FullConfig(galore_rank=4)
    model = full.apply(model, config, new, str(tiny_model))
    galore = GaLore.of(config, model)
    assert galore is not None
    matrices = {name for name, p in model.named_parameters() if ".layer." in name and p.ndim == 2}
    assert galore.names == matrices
    optimizer = MasterAdamW(
        Masters(model.named_parameters()),
        TrainConfig(optimizer_in_backward=in_backward, max_grad_norm=None),
        projection=galore,
    )
    optimizer.arm(1e-3, 1)
    classification.loss(model, batch()).backward()
    optimizer.step(1e-3, None)
    state = optimizer.state()
    held = sum(4 * t.numel() for key, t in state.items() if key.partition("|")[0] in matrices and t.ndim == 2)
    assert held == galore.moment_bytes(tuple(model.get_parameter(name).shape) for name in matrices)
    embedding = next(name for name in optimizer.masters.parameters if "word_embeddings" in name)
    assert state[f"{embedding}|exp_avg"].shape == model.get_parameter(embedding).shape


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_without_singular_values_is_told_by_its_norm(in_backward: bool, value: float) -> None:
    """The loop stops by the norm, as for AdamW; the decomposition would raise an error of its own."""
    weight = torch.nn.Parameter(torch.ones(6, 4))
    galore = GaLore(frozenset({"w"}), {"rank": 2, "update_proj_gap": 2, "scale": 1.0, "projection_type": "std"})
    config = TrainConfig(optimizer_in_backward=in_backward, max_grad_norm=None)
    optimizer = MasterAdamW(Masters([("w", weight)]), config, projection=galore)
    optimizer.arm(1e-2, 1)
    (weight * value).sum().backward()
    norm = optimizer.step(1e-2, None)
    assert not torch.isfinite(norm)
    assert torch.equal(weight.detach(), torch.ones(6, 4))
    assert weight.grad is None


def test_a_rank_that_no_matrix_exceeds_is_refused(tiny_model: Path) -> None:
    model, new = load(tiny_model)
    config = FullConfig(galore_rank=10_000)
    with pytest.raises(ConfigError, match="no matrix of the layers is larger"):
        GaLore.of(config, full.apply(model, config, new, str(tiny_model)))
