"""A tiny DeBERTa: its layers hand on a pair, and read a table of positions that is registered behind them."""

import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2Model


def tiny_deberta(tokenizer_from: Path, folder: Path) -> Path:
    """Random weights in ``folder``, with the tokenizer of another model."""
    shutil.copytree(tokenizer_from, folder)
    config = DebertaV2Config(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8,
        norm_rel_ebd="layer_norm",
    )  # fmt: skip
    torch.manual_seed(0)
    DebertaV2Model(config).save_pretrained(folder)
    return folder
