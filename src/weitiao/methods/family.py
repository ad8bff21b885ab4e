"""The methods by the names that they have in the literature: how to ask for each, what it holds in memory, its paper."""

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from weitiao.config.method_names import ALIASES, MethodConfig
from weitiao.methods import default_rate
from weitiao.methods.method import SHORTEST


@dataclass(frozen=True)
class Member:
    """One method. P: parameters of the model, T: those that train; ``memory`` in bytes, in bf16, without activations."""

    name: str
    line: tuple[str, str]  # English, Chinese
    memory: str
    paper: str

    @property
    def config(self) -> Any:
        """Its options: what ``method.type=<name>`` gives."""
        given = ALIASES.get(self.name, {"type": "full", "top_k": 4} if self.name == "top-k" else {"type": self.name})
        return TypeAdapter(MethodConfig).validate_python(given)

    @property
    def words(self) -> str:
        """How to ask for it."""
        return "method.type=full method.top_k=4" if self.name == "top-k" else f"method.type={self.name}"

    @property
    def learning_rate(self) -> float:
        """The default of a long run."""
        return default_rate(self.config)

    @property
    def short_run_learning_rate(self) -> float:
        """The default of a run of up to 200 steps, of 15 rows and more."""
        return default_rate(self.config, SHORTEST)


FAMILY: tuple[Member, ...] = (
    Member("full", ("every parameter trains", "训练全部参数"), "16 P", "Devlin et al. 2019, arXiv 1810.04805"),
    Member("top-k", ("only the upper k layers and the head train", "只训练最上面 k 层和分类头"), "2 P + 14 T", "Lee et al. 2019, arXiv 1911.03090"),
    Member("head-only", ("the head on frozen features, computed once", "冻结特征（只算一次）上训练分类头"), "2 P + 14 T", "Alain & Bengio 2016, arXiv 1610.01644"),
    Member("bitfit", ("only biases train", "只训练偏置"), "2 P + 14 T", "Ben Zaken et al. 2021, arXiv 2106.10199"),
    Member("norm-only", ("only the layer norms train", "只训练层归一化"), "2 P + 14 T", "Qi et al. 2022, arXiv 2211.08682"),
    Member("lisa", ("other layers train every few steps; embeddings and head always", "每隔几步随机换几层训练，嵌入和分类头一直训练"), "6 P + 10 T (T: what trains at a time)", "Pan et al. 2024, arXiv 2403.17919"),
    Member("galore", ("every parameter trains, with the moments of the layers' matrices in 64 dimensions", "训练全部参数，但各层矩阵的动量只存 64 维投影"), "8 P + 8 M (M: the moments)", "Zhao et al. 2024, arXiv 2403.03507"),
    Member("lora", ("low-rank updates of frozen layers", "在冻结层旁训练低秩更新"), "2 P + 14 T", "Hu et al. 2021, arXiv 2106.09685"),
    Member("rslora", ("LoRA scaled by 1/sqrt(r), for high ranks", "按 1/√r 缩放的 LoRA，适合高秩"), "2 P + 14 T", "Kalajdzievski 2023, arXiv 2312.03732"),
    Member("dora", ("LoRA of the direction, and a trained magnitude", "对方向做 LoRA，幅值单独训练"), "2 P + 14 T", "Liu et al. 2024, arXiv 2402.09353"),
    Member("lora+", ("LoRA with a larger rate for B", "B 用更大学习率的 LoRA"), "2 P + 14 T", "Hayou et al. 2024, arXiv 2402.12354"),
    Member("pissa", ("LoRA that starts from the principal singular values", "从主奇异值开始的 LoRA"), "2 P + 14 T", "Meng et al. 2024, arXiv 2404.02948"),
    Member("olora", ("LoRA that starts from orthonormal factors", "从正交因子开始的 LoRA"), "2 P + 14 T", "Büyükakyüz 2024, arXiv 2406.01775"),
    Member("eva", ("LoRA that starts from the directions of the rows' activations", "从训练数据激活的主方向开始的 LoRA"), "2 P + 14 T", "Paischer et al. 2024, arXiv 2410.07170"),
    Member("qlora", ("LoRA on a base held in 4 bits", "冻结的基座以 4 位保存，旁边训练 LoRA"), "0.52 P + 14 T", "Dettmers et al. 2023, arXiv 2305.14314"),
    Member("adalora", ("LoRA whose ranks move to the layers that need them", "把秩分配给更需要的层的 LoRA"), "2 P + 26 T", "Zhang et al. 2023, arXiv 2303.10512"),
    Member("vera", ("shared random matrices, trained scales", "共享随机矩阵，只训练缩放"), "2 P + 14 T + 4 R (R: the shared matrices)", "Kopiczko et al. 2024, arXiv 2310.11454"),
    Member("prompt", ("trained vectors before the words", "在输入前加可训练的向量"), "2 P + 14 T", "Lester et al. 2021, arXiv 2104.08691"),
    Member("prefix", ("trained keys and values before those of every layer", "在每层前加可训练的键和值"), "2 P + 14 T", "Li & Liang 2021, arXiv 2101.00190"),
    Member("ia3", ("trained factors for keys, values and inner units", "训练键、值和内层单元的缩放因子"), "2 P + 14 T", "Liu et al. 2022, arXiv 2205.05638"),
)  # fmt: skip


def shares(model: str) -> dict[str, float | None]:
    """Trained parameters of each method on ``model``, in percent; None where the model cannot take it. Reads no weights.

    The head is that of a classifier of two labels, or of a model that writes texts its own.

    Raises:
        ModelError: no such model.
    """
    from weitiao.config.task import refuse_foreign_method
    from weitiao.errors import ConfigError
    from weitiao.methods.shapes import on_shapes
    from weitiao.pretrained.architecture import is_causal_lm

    found: dict[str, float | None] = {}
    writes = is_causal_lm(model)
    auto_class = "AutoModelForCausalLM" if writes else "AutoModelForSequenceClassification"
    for member in FAMILY:
        try:
            refuse_foreign_method("causal_lm" if writes else "classification", member.config)
            adapted = on_shapes(member.config, model, auto_class)
        except (ConfigError, ValueError):
            found[member.name] = None
            continue
        own = [p for name, p in adapted.named_parameters() if ".original_module." not in name]
        found[member.name] = 100 * sum(p.numel() for p in own if p.requires_grad) / sum(p.numel() for p in own)
    return found


def methods(*, model: str | None = None) -> list[dict[str, Any]]:
    """Every method: name, words, line, chinese, learning_rate, short_run_learning_rate, memory, paper; with ``model`` its trainable share too.

    Args:
        model: a base for texts to classify or to go on with; its config is read, not its weights.
    """
    trained = shares(model) if model is not None else {}
    return [
        {
            "name": m.name,
            "words": m.words,
            "line": m.line[0],
            "chinese": m.line[1],
            "learning_rate": m.learning_rate,
            "short_run_learning_rate": m.short_run_learning_rate,
            "memory": m.memory,
            "paper": m.paper,
            **({"trainable_percent": trained[m.name]} if model is not None else {}),
        }
        for m in FAMILY
    ]
