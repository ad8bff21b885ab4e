"""docs/gpu.md and gpu.zh.md from benchmarks/results/gpu.json. What no GPU has measured is shown as not measured."""

import json
from pathlib import Path
from typing import Any

from figures import document, table
from gpu import CELLS, STEPS, padding, parity, resumed, syncs, trained
from gpu_kernels import attention, liger

NOT_MEASURED = "not measured"
PAGES = {"gpu.md": "en", "gpu.zh.md": "zh"}
WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "title": "# On a GPU",
        "intro": "This page is generated from `benchmarks/results/gpu.json`. `make gpu` measures what is missing there on a machine "
        "with a CUDA GPU, and renders the page again. Without a GPU it measures nothing.",
        "card": "- Card: {card}.\n- A bf16 product of 8,192 cubed, and a copy (bytes read and written): {reached}.",
        "runs": "## Runs",
        "columns": f"{STEPS} steps with random weights of a published shape, on rows of random words. *Share* is the plan's operations a "
        "second over the product's rate above. Memory is what torch reserved; the planned load has the card's context too.",
        "run": ["run", "tokens/s", "share", "dtype", "load GB", "steps GB", "planned load GB", "plan's error, memory", "plan's error, time"],
        "checks": "## Checks",
        "check": ["check", "what", "found"],
        "code": "Code: {code}.",
        NOT_MEASURED: NOT_MEASURED, "failed": "failed", "skipped": "skipped: {why}", "waits": "{waits} in {steps} steps",
        "yes": "yes", "no": "no",
    },
    "zh": {
        "title": "# 在 GPU 上",
        "intro": "这一页由 `benchmarks/results/gpu.json` 生成。在有 CUDA GPU 的机器上，`make gpu` 测量里面还缺的项目，再重新生成这一页。没有 GPU 就什么都不测。",
        "card": "- 显卡：{card}。\n- 一次 bf16 矩阵乘法（三边都是 8,192），和一次复制（读和写的字节都算）：{reached}。",
        "runs": "## 训练",
        "columns": f"每次训练 {STEPS} 步。模型取公开模型的形状，权重随机；每一行由随机的词组成。*占比*是每秒的运算量与上面矩阵乘法的速度之比，运算量取自估算。"
        "内存是 torch 预留的显存，估算的加载另含显卡的上下文。",
        "run": ["训练", "词元/秒", "占比", "类型", "加载，GB", "训练步，GB", "估算的加载，GB", "估算误差，内存", "估算误差，时间"],
        "checks": "## 核对",
        "check": ["项目", "核对什么", "结果"],
        "code": "代码版本：{code}。",
        NOT_MEASURED: "没有测过", "failed": "失败", "skipped": "跳过：{why}", "waits": "{steps} 步里 {waits} 次",
        "yes": "是", "no": "否",
    },
}  # fmt: skip
# Of the names of cells, and of the reason why one was skipped: what stands between commas.
CHINESE = {
    "full": "全量", "checkpointed": "重算激活值", "packed": "首尾相接", "padded": "有填充", "budget by trial": "批次大小由试跑决定",
    "resume": "中断后继续", "GPU against CPU": "GPU 对照 CPU", "waiting": "等待", "attention without padding": "没有填充的注意力",
    "no padding": "没有填充", "encoder": "编码器", "decoder": "解码器", "Liger's layers": "Liger 的层",
    "no GPU here": "这里没有 GPU", "or liger-kernel is not installed": "或者没有装 liger-kernel",
}  # fmt: skip
CHECKS: dict[Any, dict[str, str]] = {
    resumed: {
        "en": "killed after step 10 and resumed: the same losses to the bit",
        "zh": "第 10 步之后被杀再继续：损失逐位相同",
    },
    parity: {
        "en": "fp32 losses on GPU and CPU: at most 1e-4 apart at the first step, 1e-3 at the last",
        "zh": "GPU 和 CPU 上的 fp32 损失：第一步最多差 1e-4，最后一步最多差 1e-3",
    },
    syncs: {
        "en": "times that the host waits for the GPU in steps that log nothing",
        "zh": "不写日志的步里，主机等待 GPU 的次数",
    },
    attention: {
        "en": "bf16 values and gradients of the kernel without padding, against fp64: 1 % in norm at most",
        "zh": "没有填充的内核，bf16 的值和梯度与 fp64 对照：按范数最多差 1%",
    },
    padding: {
        "en": "losses with and without padding: 0.005 apart on average at most",
        "zh": "有填充和没有填充的损失：平均最多差 0.005",
    },
    liger: {
        "en": "Liger's norms and gated layers, against ours in fp32: 0.1 % in norm at most",
        "zh": "Liger 的归一化和门控层，用 fp32 与 weitiao 的对照：按范数最多差 0.1%",
    },
}


def page(path: Path, language: str = "en") -> str:
    """One of ``PAGES``."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    words, best = WORDS[language], found.get("rates", {})
    card = f"{best['card']}, torch {best['torch']}" if "card" in best else words[NOT_MEASURED]
    reached = f"{best['product_flops_per_s'] / 1e12:,.0f} TFLOP/s, {best['copy_bytes_per_s'] / 1e12:.2f} TB/s" if "card" in best else words[NOT_MEASURED]  # fmt: skip
    code = ", ".join(sorted({str(one["code"]) for one in found.values()})) or words[NOT_MEASURED]
    parts = [
        words["title"],
        words["intro"],
        words["card"].format(card=_said(card, language), reached=_said(reached, language)),
    ]
    parts += [words["runs"], words["columns"], _runs(found, best.get("product_flops_per_s"), language)]
    parts += [words["checks"], _checks(found, language), words["code"].format(code=_said(code, language))]
    return document(parts, language)


def _said(text: str, language: str) -> str:
    """A name, or what else has commas, in a language."""
    return text if language == "en" else "，".join(CHINESE.get(part, part) for part in text.split(", "))


def _runs(found: dict[str, Any], rate: float | None, language: str) -> str:
    words, rows = WORDS[language], []
    for cell in (cell for cell in CELLS if cell.run is trained):
        one = found.get(cell.name, {})
        if "tokens_per_s" not in one:
            why = words["failed" if "error" in one else NOT_MEASURED]
            rows.append([_said(cell.name, language), why, *[""] * 7])
            continue
        share = f"{one['flops_per_s'] / rate:.2f}" if rate and one["flops_per_s"] else ""
        memory = one["gpu_memory_bytes"] or {}
        planned = one.get("planned_load_bytes")
        errors = [
            f"{one['plan_error'][key]:+.0%}" if one["plan_error"][key] is not None else "" for key in ("memory", "time")
        ]
        rows.append(
            [
                _said(cell.name, language),
                f"{one['tokens_per_s']:,.0f}",
                share,
                one["dtype"],
                *(f"{memory[key] / 1e9:.2f}" if memory else "" for key in ("load", "reserved")),
                f"{planned / 1e9:.2f}" if planned else "",
                *errors,
            ]
        )
    return table(words["run"], rows)


def _checks(found: dict[str, Any], language: str) -> str:
    words, rows = WORDS[language], []
    for cell in (cell for cell in CELLS if cell.run in CHECKS):
        one = found.get(cell.name, {})
        if not one or "error" in one:
            answer = words["failed" if one else NOT_MEASURED]
        elif "skipped" in one:
            answer = words["skipped"].format(why=_said(one["skipped"], language))
        elif cell.run is syncs:
            answer = words["waits"].format(waits=one["synchronisations"], steps=one["steps"])
        else:
            answer = words["yes" if one["reached"] else "no"]
        rows.append([_said(cell.name, language), CHECKS[cell.run][language], answer])
    return table(words["check"], rows)
