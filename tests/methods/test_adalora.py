"""AdaLoRA beside our optimizer: peft's own loop gives the same weights and the same ranks."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import weitiao
from support.bert import batch, load
from weitiao.config.method import AdaloraConfig
from weitiao.config.train import TrainConfig
from weitiao.errors import ConfigError
from weitiao.methods import adalora
from weitiao.tasks import classification
from weitiao.training.masters import Masters
from weitiao.training.optim import MasterAdamW

CONFIG = AdaloraConfig(init_r=4, target_r=2, tinit=2, tfinal=3)
STEPS = 12


def adapted(folder: Path) -> Any:
    model, new = load(folder)
    return adalora.apply(model, CONFIG, new, str(folder)).eval()


def test_equals_the_loop_of_peft(tiny_model: Path) -> None:
    """The penalty, the importance, the cuts: twelve steps of clipped AdamW."""
    torch.manual_seed(0)
    theirs = adapted(tiny_model)
    own: Any = theirs.peft_config["default"]
    own.total_step, own.tinit, own.tfinal = STEPS, 2, 3
    ours = adapted(tiny_model)
    ours.load_state_dict(theirs.state_dict())
    config = TrainConfig(weight_decay=0.0, adam_epsilon=1e-4)  # or a gradient of 1e-8 is a whole step
    masters = Masters(ours.named_parameters())
    ranks = adalora.step_hooks(CONFIG, ours, masters.tensors, STEPS, 0)
    optimizer = MasterAdamW(masters, config, hooks=ranks)
    reference = torch.optim.AdamW(
        [p for p in theirs.parameters() if p.requires_grad], lr=1e-2, eps=1e-4, weight_decay=0.0
    )
    for step in range(1, STEPS + 1):
        theirs(**batch()).loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.step()
        theirs.base_model.update_and_allocate(step)
        reference.zero_grad()
        optimizer.arm(1e-2, step)
        (classification.loss(ours, batch()) / 2).backward()
        optimizer.step(1e-2, 1.0)
        for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4, msg=f"{name}, step {step}")
    kept = ranks.kept
    assert kept is not None
    assert kept == own.rank_pattern
    assert sum(map(sum, kept.values())) == CONFIG.target_r * len(kept)
    assert len({sum(ranks) for ranks in kept.values()}) > 1, "no rank has moved: the comparison says little"


def test_saved_ranks_are_those_left(options: dict[str, Any], tmp_path: Path) -> None:
    run = weitiao.train({**options, "method": {"type": "adalora", "init_r": 4, "target_r": 2}})
    saved: Any = peft.PeftConfig.from_pretrained(run.model)
    ranks = [sum(pattern) for pattern in saved.rank_pattern.values()]
    assert sum(ranks) == 2 * len(ranks)
    assert saved.total_step == run.summary["steps"]


@pytest.mark.parametrize(
    ("train", "method", "message"),
    [
        ({"stochastic_rounding": True}, {}, "stochastic_rounding does not go with"),
        ({"max_seconds": 60}, {}, "max_seconds does not go with"),
        ({}, {"target_r": 4}, "Expected a smaller target_r"),
        ({"max_steps": 5}, {"tinit": 2, "tfinal": 2}, "the run has 5 steps"),
    ],
)
def test_refused(train: dict[str, Any], method: dict[str, Any], message: str, options: dict[str, Any]) -> None:
    method = {"type": "adalora", "init_r": 4, "target_r": 2, **method}
    with pytest.raises(ConfigError, match=message):
        weitiao.train({**options, "method": method, "train": {**options["train"], **train}})
