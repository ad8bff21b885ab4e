"""A new head of tags begins near the tags' shares, so that no encoder must teach it that most words are outside of entities."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import weitiao
from weitiao.data.encode import Encoded
from weitiao.tasks import token_classification as task


def encoded(words: list[int]) -> Encoded:
    rows = Encoded.of([[2, 5, 3]], [0])
    return Encoded(
        rows.flat, rows.offsets, rows.labels, rows.owner, words=np.array(words), word_offsets=np.array([0, len(words)])
    )


def model(folder: Any, classes: int = 3) -> Any:
    from transformers import AutoModelForTokenClassification

    torch.manual_seed(0)
    return AutoModelForTokenClassification.from_pretrained(folder, num_labels=classes)


def test_the_bias_is_half_the_log_of_the_shares(tiny_model: Any) -> None:
    net = model(tiny_model)
    drawn = net.classifier.weight.detach().clone()
    task.start_head(net, ["classifier.weight", "classifier.bias"], encoded([0] * 89 + [1] * 8))
    assert net.classifier.bias.mul(2).exp().tolist() == pytest.approx([0.9, 0.09, 0.01])  # one word more of each class
    assert torch.equal(net.classifier.weight, drawn)


def test_a_head_of_the_checkpoint_stays(tiny_model: Any) -> None:
    net = model(tiny_model)
    before = net.classifier.bias.detach().clone()
    task.start_head(net, [], encoded([0] * 97))
    task.start_head(net, ["classifier.bias"], encoded([]))  # a stream: nothing is known of its rows
    assert torch.equal(net.classifier.bias, before)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_begins_with_the_loss_of_the_shares(method: str, tag_options: dict[str, Any]) -> None:
    seen: list[dict[str, Any]] = []
    train = {**tag_options["train"], "max_steps": 1, "logging_steps": 1}
    run = weitiao.train({**tag_options, "method": {"type": method}, "train": train}, listener=seen.append)
    first = next(event["loss"] for event in seen if event["event"] == "log")
    assert first < 0.95 * math.log(len(run.summary["label_names"]))
