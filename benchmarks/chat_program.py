"""Eight conversations, together and one after the other: python benchmarks/chat_program.py MODEL SCRATCH. Prints JSON."""

import contextlib
import json
import queue
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import serving_material as made

REPEATS = 3


def chat(model: str, scratch: Path) -> dict[str, Any]:
    """Eight conversations, half of them with an adapter: together, and one after the other by transformers' generate."""
    import torch

    from weitiao.data.chat import Chat
    from weitiao.inference.predictor import Predictor
    from weitiao.inference.sampling import Asked
    from weitiao.rundir.folder import RunDir
    from weitiao.serving.registry import Registry, find_runs
    from weitiao.serving.writer import Answer, Writer

    run, most = made.chats(scratch), 48
    registry, writer = Registry(find_runs([], {"chat": run})), Writer()
    questions = [
        "你好",
        "什么是人工智能",
        "What is the capital of France?",
        "Tell me a joke.",
        "Who wrote Hamlet?",
        "List three fruits.",
        "天气",
        "Write a short poem about the sea.",
    ]
    asked = [(("chat", model)[i % 2], [{"role": "user", "content": q}]) for i, q in enumerate(questions)]

    def together() -> list[list[int]]:
        heard: list[Any] = [queue.Queue() for _ in asked]
        with writer._changed:
            writer._kept.clear()  # no prompt is known
            for (name, turns), one in zip(asked, heard, strict=True):
                speaker = registry.open_writer(name)
                writer.submit(Answer(speaker, speaker.chat.question(turns), Asked(most), one.put))
        answers = []
        for one in heard:
            answers.append([])
            while (piece := one.get()).finish is None:
                answers[-1].append(piece.token.id)
            answers[-1].append(piece.token.id)
        return answers

    predictor = Predictor(RunDir.open(run), device="cpu")
    talk = Chat.of(predictor.tokenizer, None)
    ends = sorted(writer_ends(predictor, talk))

    def apart() -> list[list[int]]:
        answers = []
        for name, turns in asked:
            ids = torch.tensor([talk.question(turns)])
            off = predictor.model.disable_adapter() if name == model else contextlib.nullcontext()
            with torch.inference_mode(), off:
                done = predictor.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False,
                    eos_token_id=ends, pad_token_id=predictor.tokenizer.pad_token_id,
                )  # fmt: skip
            answers.append(done[0, ids.shape[1] :].tolist())
        return answers

    seconds: dict[str, list[float]] = {"together": [], "apart": []}
    answers = {"together": together(), "apart": apart()}
    for _ in range(REPEATS):
        for name, work in (("together", together), ("apart", apart)):
            began = time.perf_counter()
            answers[name] = work()
            seconds[name].append(time.perf_counter() - began)
    writer.stop()
    count = sum(map(len, answers["apart"]))
    return {
        **{f"{name}_tokens_per_s": count / statistics.median(each) for name, each in seconds.items()},
        "tokens": count,
        "equal_answers": sum(a == b for a, b in zip(answers["together"], answers["apart"], strict=True)),
        "conversations": len(asked),
    }


def writer_ends(predictor: Any, talk: Any) -> set[int]:
    own = predictor.model.generation_config.eos_token_id
    return {*([own] if isinstance(own, int) else own or []), *talk.end_ids()}


if __name__ == "__main__":
    from weitiao.system import threads

    threads.settle()
    print(json.dumps(chat(sys.argv[1], Path(sys.argv[2]))))
