"""Whether llama.cpp reads an exported file as transformers reads the run: token ids, log probabilities, greedy answers."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.adapters.agreement import TOLERANCES
from weitiao.data.chat import Chat
from weitiao.data.conversations import Conversation
from weitiao.effects.held_out import HeldOut
from weitiao.errors import ModelError
from weitiao.tasks.generation import before_last_answer, without_defaults

PACKAGE = "xllamacpp"
NEW_TOKENS = 32
_ROWS = 8
# What tokenizers differ on: digits, contractions, blanks, tabs, scripts, emoji. It is in Unicode's form C.
_HARD = "Hello, I'm 12345 years old —  it's   3.14\n\n\tdef f(x):\r\n 你好，世界！😀 Ünïcödé ١٢٣ we'LL\n"
# Largest difference of log probabilities, as a share of the largest logit. Below 8 bits it is a loss, not a fault.
_TOLERANCES = {"f32": TOLERANCES["float32"], "f16": TOLERANCES["float16"], "bf16": TOLERANCES["bfloat16"], "q8_0": 0.12}


def is_installed() -> bool:
    """Whether llama.cpp can be asked."""
    return importlib.util.find_spec(PACKAGE) is not None


@dataclass(frozen=True)
class Expected:
    """What transformers says of some held-out rows."""

    texts: list[str]
    ids: list[list[int]]  # of texts
    chats: list[list[dict[str, Any]]]
    rendered: list[str]
    prompts: list[list[int]]
    answers: list[list[int]]
    first: NDArray[np.float64]  # [questions, vocabulary] log probabilities of the answer's first token
    largest: float  # logit
    plain: int  # a token that is a whole character
    ends: set[int]


def expected(model: Any, tokenizer: Any, rows: HeldOut, new_tokens: int = NEW_TOKENS) -> Expected:
    """Ask a model of transformers: the questions of the first held-out rows, answered greedily."""
    from transformers import GenerationConfig

    chat = Chat.of(tokenizer, None)
    talks = [before_last_answer(Conversation.of(line))[0] for line in rows.lines[:_ROWS]]
    prompts = [chat.question(talk) for talk in talks]
    own = model.generation_config.eos_token_id
    ends = {*([own] if isinstance(own, int) else own or []), *chat.end_ids()}
    config = GenerationConfig(
        do_sample=False, max_new_tokens=new_tokens, pad_token_id=tokenizer.pad_token_id, eos_token_id=sorted(ends),
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    answers, first, largest = [], [], 0.0
    for ids in prompts:
        given = torch.tensor([ids])
        with torch.inference_mode(), without_defaults(model):
            done = model.generate(input_ids=given, attention_mask=torch.ones_like(given), generation_config=config)
        logits = done.logits[0][0].double()
        answers.append(_cut(done.sequences[0, len(ids) :].tolist(), ends))
        first.append(torch.log_softmax(logits, -1).numpy())
        largest = max(largest, float(logits.abs().max()))
    # a template's own turns alone: tools would need llama.cpp's parser of their calls
    chats = [[dict(message) for message in talk.messages] for talk in talks if not talk.tools]
    texts = [_HARD, *(chat.render(talk, ask=True) for talk in talks)]
    return Expected(
        texts=texts,
        ids=[tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
        chats=chats,
        rendered=[chat.render(Conversation.of(one), ask=True) for one in chats],
        prompts=prompts,
        answers=answers,
        first=np.stack(first),
        largest=largest,
        plain=tokenizer("a", add_special_tokens=False)["input_ids"][0],
        ends=ends,
    )


def compared(
    wanted: Expected, file: Path, quantization: str, adapters: Sequence[Path] = (), new_tokens: int = NEW_TOKENS
) -> dict[str, Any]:
    """Ask llama.cpp the same, in a process of its own.

    Returns:
        {"version", "compared", "worst", "mean", "tolerance", "same_first", "answers", "same_answers", "tokens",
        "same_tokens", "new_tokens", "texts", "chats", "same_chats"}. ``worst`` and ``mean`` are differences of log
        probabilities over the whole vocabulary; ``same_tokens`` counts up to an answer's first other token.

    Raises:
        ModelError: it does not open the file, cuts texts into other tokens, or its log probabilities are too far away.
    """
    found = _ask(wanted, file, adapters, new_tokens)
    for text, ids, own in zip(wanted.texts, wanted.ids, found["texts"], strict=True):
        if ids != own:
            at = next((i for i, (a, b) in enumerate(zip(ids, own, strict=False)) if a != b), min(len(ids), len(own)))
            raise ModelError(
                f"llama.cpp cuts a text into other tokens than transformers: {own[at : at + 5]} instead of {ids[at : at + 5]} at "
                f"token {at + 1} of {text[:60]!r}.\nExpected the same tokens. Nothing was written.\nUse --format safetensors."
            )
    apart = np.abs(np.array(found["first"]) - wanted.first)
    apart[~np.isfinite(apart)] = np.inf
    answers = [_cut(own, wanted.ends) for own in found["answers"]]
    pairs = list(zip(wanted.answers, answers, strict=True))
    share = _TOLERANCES.get(quantization)
    facts = {
        "version": importlib.metadata.version(PACKAGE),
        "compared": len(wanted.prompts),
        "worst": float(apart.max()),
        "mean": float(apart.mean()),
        "tolerance": None if share is None else share * max(1.0, wanted.largest),
        "same_first": int((np.array(found["first"]).argmax(1) == wanted.first.argmax(1)).sum()),
        "answers": len(answers),
        "same_answers": sum(one == other for one, other in pairs),
        "tokens": sum(len(one) for one, _ in pairs),
        "same_tokens": sum(_same_start(one, other) for one, other in pairs),
        "new_tokens": new_tokens,
        "texts": len(wanted.texts),
        "chats": len(wanted.chats),
        "same_chats": sum(one == other for one, other in zip(wanted.rendered, found["chats"], strict=True)),
    }
    if facts["tolerance"] is not None and not facts["worst"] <= facts["tolerance"]:  # type: ignore[operator]
        raise ModelError(
            f"llama.cpp does not answer as the run's model does: log probabilities differ by up to {facts['worst']:.3g}.\nExpected at "
            f"most {facts['tolerance']:.3g} with weights in {quantization}. Nothing was written.\nUse --quantization f32, or "
            "--format safetensors."
        )
    return facts


def _ask(wanted: Expected, file: Path, adapters: Sequence[Path], new_tokens: int) -> dict[str, Any]:
    longest = max(len(ids) for ids in wanted.prompts) + new_tokens
    question = {
        "model": str(file),
        "adapters": [str(one) for one in adapters],
        "texts": wanted.texts,
        "chats": wanted.chats,
        "prompts": wanted.prompts,
        "new_tokens": new_tokens,
        "vocabulary": wanted.first.shape[1],
        "plain": wanted.plain,
        "context": max(256, longest + 16),
        "threads": torch.get_num_threads(),
    }
    words = [sys.executable, "-m", "weitiao.exporting.llama_worker"]
    # a preloaded allocator and the variables of a run are this process's own
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(words, input=json.dumps(question), capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        last = [line for line in lines if " E " in line or "Error" in line or "error" in line] or lines[-3:]
        raise ModelError(
            f"llama.cpp does not open {file.name} (exit code {done.returncode}): {' | '.join(last)[-400:]}\nExpected it to. Nothing was "
            "written.\nUse --format safetensors."
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _cut(ids: list[int], ends: set[int]) -> list[int]:
    """An answer without the token that ends it."""
    return next((ids[:i] for i, one in enumerate(ids) if one in ends), ids)


def _same_start(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
