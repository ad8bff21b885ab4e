"""Which architectures take which methods: docs/models.md, models.zh.md. Each is drawn from its configuration: two layers, random weights.

    python benchmarks/models.py run [FAMILY ...]   minutes; adds what is missing to results/models.json
    python benchmarks/models.py page               writes both pages

A method passes where a run of six steps does five things:

    learns    six finite losses, and the last differs from the first
    planned   it trains as many parameters as the plan said
    opens     the saved folder opens in plain transformers or peft, and scores held-out rows as the run did
    predicts  `weitiao predict` answers new rows
    resumes   broken off after step 3 and resumed, it has the same losses to the bit
"""

import contextlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import gpu_material
from figures import document, table
from record import RESULTS, ROOT

PATH = RESULTS / "models.json"
SMALL = {
    "vocab_size": gpu_material.WORDS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 5,
}  # fmt: skip
WRITES = {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
# Family: how people know it, and what its configuration needs besides.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BERT, bert-base-chinese, MacBERT", {}),
    "roberta": ("RoBERTa", {"pad_token_id": 1}),
    "xlm-roberta": ("XLM-R, multilingual-e5, bge-m3", {"pad_token_id": 1}),
    "ernie": ("ERNIE 3.0", {}),
    "electra": ("ELECTRA", {"embedding_size": 32}),
    "deberta-v2": ("DeBERTa V2 and V3, Erlangshen", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "modernbert": ("ModernBERT", {"cls_token_id": 2, "sep_token_id": 3}),
    "albert": ("ALBERT", {"embedding_size": 16}),
}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2, Qwen2.5", {}),
    "qwen3": ("Qwen3", {}),
    "llama": ("Llama 2 and 3, Yi, SmolLM2", {}),
    "mistral": ("Mistral", {}),
    "gemma3_text": ("Gemma 3", {}),
    "glm4": ("GLM-4", {}),
    "internlm3": ("InternLM3", {}),
    "minicpm3": ("MiniCPM3", {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4}),
    "ernie4_5": ("ERNIE 4.5", {}),
}  # fmt: skip
BEHAVIOURS = ("learns", "planned", "opens", "predicts", "resumes")
STEPS, BROKEN_AT = 6, 3
PAGES = {"models.md": "en", "models.zh.md": "zh"}
WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "first": [
            "# Which models take which methods",
            "`python benchmarks/models.py run` draws each architecture from its configuration: two layers, random weights. It trains "
            "six steps with each method, and asks for five things:",
            "- *learns*: six finite losses, and the last differs from the first\n"
            "- *planned*: it trains as many parameters as the plan said\n"
            "- *opens*: the saved folder opens in plain transformers or peft, and scores held-out rows as the run did (2e-4)\n"
            "- *predicts*: `weitiao predict` answers new rows\n"
            "- *resumes*: broken off after step 3 and resumed, it has the same losses to the bit",
            "5 means all of them. *no* is a refusal with a reason, before any row is read. Only whether EVA's directions settle is "
            "known after rows. An empty cell was not measured.",
        ],
        "encoders": "## Encoders, classification", "decoders": "## Decoders, instruction tuning",
        "method": "method", "no": "no", "cell": "{mark} ({number})",
        "notes": "## Notes", "none": "None.", "families": "## Families", "family": "- `{family}`: {title}.",
        "last": [
            "All of them are transformers' own code, InternLM3 and MiniCPM3 included.",
            "Checkpoints with code of their own are refused: weitiao runs no foreign code. So are bases that GPTQ, AWQ or another "
            "quantiser has packed; take the one that is not packed, and `method.type=qlora`.",
        ],
    },
    "zh": {
        "first": [
            "# 哪些模型能用哪些方法",
            "`python benchmarks/models.py run` 按配置建立每种架构的模型：两层，权重随机。每种方法各训练六步，看五件事：",
            "- *能学*：六个损失都是有限数，最后一个和第一个不同\n"
            "- *估得准*：训练的参数个数和估算的相同\n"
            "- *打得开*：用普通的 transformers 或 peft 就能打开保存的文件夹，给留出的行打的分和训练时相同（2e-4）\n"
            "- *能预测*：`weitiao predict` 回答新的行\n"
            "- *能继续*：第 3 步之后中断再继续，损失逐位相同",
            "5 表示五件都做到了。*拒绝*表示在读任何一行之前就拒绝，并说明原因。只有 EVA 的方向能不能稳定下来，要读了数据才知道。空着的格子没有测过。",
        ],
        "encoders": "## 编码器：分类", "decoders": "## 解码器：指令微调",
        "method": "方法", "no": "拒绝", "cell": "{mark}（{number}）",
        "notes": "## 注", "none": "没有。", "families": "## 模型系列", "family": "- `{family}`：{title}。",
        "last": [
            "这些模型用的都是 transformers 自己的代码，InternLM3 和 MiniCPM3 也是。",
            "自带代码的检查点会被拒绝，因为 weitiao 不运行外来的代码。GPTQ、AWQ 等量化工具压缩过的基座也会被拒绝：请换成没有压缩的，再用 `method.type=qlora`。",
        ],
    },
}  # fmt: skip
# What notes and titles say, in Chinese; each is put in after the one before.
CHINESE = {
    r"^refused: ": "拒绝：",
    r"(\w+) has no single stack of (\d+) layers\.": r"\1 不是由单独一组 \2 层叠成的。",
    r"method\.type=prefix with a (\S+) model, which is not known to take keys and values from outside\.": r"`method.type=prefix` 用于 \1 模型，但不确定它能否接收外部的键和值。",
    r"method\.type=ia3, and peft knows no modules for a (\S+) model\.": r"`method.type=ia3`，但 peft 不知道 \1 模型该用哪些模块。",
    r" ?Expected one of: (.+)\.": r"可以用的有：\1。",
    r"method\.top_k does not work with task=causal_lm\. Leave it out": "`method.top_k` 不能和 `task=causal_lm` 一起用，请去掉。",
    r"method\.parameters=bias, and this model has no bias parameters\.": "`method.parameters=bias`，但这个模型没有偏置参数。",
    r"method\.init_lora_weights=eva: its directions do not settle in (\d+) passes\.": r"`method.init_lora_weights=eva`：\1 遍之内，方向没有稳定下来。",
    r"method\.init_lora_weights=eva: (too many values.*)\.": r"`method.init_lora_weights=eva`：`\1`。",
    " and ": " 和 ",
    ", ": "、",
}  # fmt: skip


class _BrokenOff(Exception):
    pass


def drawn(family: str, folder: Path) -> Path:
    """A model of a family and a tokenizer of words."""
    import torch
    import transformers

    decodes = family in DECODERS
    more = (DECODERS if decodes else ENCODERS)[family][1]
    config = transformers.AutoConfig.for_model(family, **(SMALL | (WRITES if decodes else {}) | more))
    made = transformers.AutoModelForCausalLM if decodes else transformers.AutoModel
    torch.manual_seed(0)
    made.from_config(config).save_pretrained(folder)
    shape = gpu_material.Shape("causal_lm" if decodes else "classification", gpu_material.WORDS, {})
    gpu_material.tokenizer(shape).save_pretrained(folder)
    return folder


def words(family: str, model: Path, member: Any, scratch: Path, folder: Path) -> list[str]:
    task = "causal_lm" if family in DECODERS else "classification"
    rows = gpu_material.rows(task, scratch, 120, 12)
    own = [
        f"model={model}", f"task={task}", f"data.train={rows}", "data.test_size=8", "data.check=warn", "data.near_duplicates=off", "data.max_length=64",
        "train.bf16=false", f"train.max_steps={STEPS}", "train.tokens_per_batch=128", "train.logging_steps=1",
        "train.eval_strategy=no", f"train.save_steps={BROKEN_AT}", f"output.dir={folder}", *member.words.split(),
    ]  # fmt: skip
    own = [word.replace("method.top_k=4", "method.top_k=1") for word in own]
    own += ["method.galore_rank=8"] if member.name == "galore" else []
    return own + (["data.chat_template=chatml", "train.generate_rows=0"] if family in DECODERS else [])


def behaviours(family: str, member: Any, scratch: Path) -> dict[str, Any]:
    """Each behaviour's answer: true, or what went wrong; {"refused"} where weitiao says no with a reason."""
    import weitiao
    from weitiao.config.loading import load
    from weitiao.config.run import RunConfig
    from weitiao.errors import WeitiaoError

    model, found = scratch / family, dict.fromkeys(BEHAVIOURS, "not reached")
    if not (model / "config.json").is_file():
        drawn(family, model)
    for name in ("whole", "broken"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    try:
        run = weitiao.train(load(RunConfig, None, words(family, model, member, scratch, scratch / "whole")))
    except WeitiaoError as error:
        lines = [line.strip() for line in str(error).split("\n")]
        return {"refused": lines[1].removeprefix("- ") if lines[0].endswith("configuration:") else lines[0]}
    except Exception as error:
        return found | {"learns": _reason(error)}
    losses = _losses(run.path)
    found["learns"] = len(losses) == STEPS and all(map(math.isfinite, losses)) and losses[0] != losses[-1]
    planned = run.read_json("plan.json")["methods"][0] if (run.path / "plan.json").is_file() else {}
    found["planned"] = planned.get("num_trainable_params") == run.summary["num_trainable_params"] or "no plan"
    for name, check in (("opens", _opens), ("predicts", _predicts), ("resumes", _resumes)):
        try:
            found[name] = check(family, member, run, model, scratch)
        except Exception as error:
            found[name] = _reason(error)
    return found


def _losses(folder: Path) -> list[float]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["loss"] for event in map(json.loads, lines) if event["event"] == "log"]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"


def _opens(family: str, member: Any, run: Any, model: Path, scratch: Path) -> bool | str:
    """The largest difference is within 2e-4 of the scores (of the summed loss of an answer)."""
    import peft
    import torch
    import transformers

    from weitiao.data.chat import Chat
    from weitiao.rundir.files import read_jsonl

    auto: Any = (
        transformers.AutoModelForCausalLM if family in DECODERS else transformers.AutoModelForSequenceClassification
    )
    head = {} if family in DECODERS else {"num_labels": 2}
    is_full = member.config.type == "full"
    plain = auto.from_pretrained(run.model if is_full else model, dtype=torch.float32, **head)
    plain = plain if is_full else peft.PeftModel.from_pretrained(plain, run.model)
    plain.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model)
    worst = 0.0
    for row in list(read_jsonl(run.path / "predictions.jsonl"))[:4]:
        with torch.no_grad():
            if family not in DECODERS:
                logits = plain(**tokenizer([row["text"]], return_tensors="pt")).logits[0]
                expected = torch.tensor(list(row["scores"].values()))
                worst = max(worst, float((logits - expected).abs().max() / expected.abs().max().clamp(min=1)))
                continue
            ((ids, learnt),) = Chat.of(tokenizer, None).tokens([row["messages"]])
            targets = torch.tensor([token if own else -100 for token, own in zip(ids, learnt, strict=True)])
            logits = plain(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]
            loss = torch.nn.functional.cross_entropy(logits[:-1], targets[1:], reduction="sum")
            worst = max(worst, abs(float(loss) / row["loss_sum"] - 1))
    return worst <= 2e-4 or f"scores differ by {worst:.1e}"


def _predicts(family: str, member: Any, run: Any, model: Path, scratch: Path) -> bool:
    import weitiao

    (answer,) = weitiao.predict(run.path, text=["w9 w10 w11"], **({"max_new_tokens": 4} if family in DECODERS else {}))
    return "answer" in answer if family in DECODERS else answer["label"] in ("a", "b")


def _resumes(family: str, member: Any, run: Any, model: Path, scratch: Path) -> bool | str:
    import weitiao
    from weitiao.config.loading import load
    from weitiao.config.run import RunConfig

    def break_off(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] == BROKEN_AT + 1:
            raise _BrokenOff

    broken = scratch / "broken"
    with contextlib.suppress(_BrokenOff):
        weitiao.train(load(RunConfig, None, words(family, model, member, scratch, broken)), listener=break_off)
    resumed = weitiao.train(resume=broken)
    apart = max(abs(a - b) for a, b in zip(_losses(run.path), _losses(resumed.path), strict=True))
    return apart == 0.0 or f"losses differ by {apart:.1e}"


def _said(text: str, language: str) -> str:
    """A note or a title in a language; in English where no Chinese is known."""
    for pattern, form in CHINESE.items() if language == "zh" else ():
        text = re.sub(pattern, form, text)
    return text


def page(found: dict[str, dict[str, Any]], language: str = "en") -> str:
    """One of ``PAGES``."""
    from weitiao.methods.family import FAMILY

    words, names = WORDS[language], [member.name for member in FAMILY]
    notes: list[str] = []

    def cell(family: str, name: str) -> str:
        one = found.get(family, {}).get(name)
        if one is None:
            return ""
        if "refused" not in one and all(one[b] is True for b in BEHAVIOURS):
            return "5"
        said = one.get("refused") or "; ".join(f"{b}: {one[b]}" for b in BEHAVIOURS if one[b] is not True)
        note = f"{'refused: ' if 'refused' in one else ''}{said}"
        if note not in notes:
            notes.append(note)
        mark = words["no"] if "refused" in one else sum(one[b] is True for b in BEHAVIOURS)
        return str(words["cell"].format(mark=mark, number=notes.index(note) + 1))

    def part(families: dict[str, tuple[str, dict[str, Any]]]) -> str:
        return table(
            [words["method"], *families],
            [[name, *(cell(family, name) for family in families)] for name in names],
        )

    parts = [*words["first"], words["encoders"], part(ENCODERS), words["decoders"], part(DECODERS), words["notes"]]
    listed = [f"{i}. {_said(note, language).replace('|', '/')}" for i, note in enumerate(notes, 1)]
    known = [
        words["family"].format(family=family, title=_said(title[0], language))
        for families in (ENCODERS, DECODERS)
        for family, title in families.items()
    ]
    parts += ["\n".join(listed) or words["none"], words["families"], "\n".join(known), *words["last"]]
    return document(parts, language)


def main() -> None:
    found: dict[str, dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8")) if PATH.is_file() else {}
    if sys.argv[1:2] == ["page"]:
        for name, language in PAGES.items():
            (ROOT / "docs" / name).write_text(page(found, language), encoding="utf-8")
        return
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    from weitiao.methods.family import FAMILY
    from weitiao.rundir.files import to_json, write_atomic

    chosen = sys.argv[2:] or [*ENCODERS, *DECODERS]
    with tempfile.TemporaryDirectory() as scratch:
        for family in chosen:
            for member in FAMILY:
                if member.name in found.get(family, {}):
                    continue
                found.setdefault(family, {})[member.name] = one = behaviours(family, member, Path(scratch))
                print(family, member.name, {k: v for k, v in one.items() if v is not True} or "all five", flush=True)
                write_atomic(PATH, to_json(found))


if __name__ == "__main__":
    main()
