"""The options of every method."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weitiao.config.data import DataConfig
from weitiao.config.method_section import MethodSection
from weitiao.config.train import TrainConfig


class FullConfig(MethodSection):
    """Full fine-tuning: every parameter trains."""

    type: Literal["full"] = Field(
        "full", description="`full`, `lora`, `adalora`..., any name that `weitiao methods` lists, such as `bitfit`."
    )
    parameters: Literal["all", "bias", "norm"] = Field(
        "all",
        description="Which train: all, only biases (BitFit, arXiv 2106.10199) or only norms; new modules always do.",
    )
    top_k: Annotated[int, Field(ge=0)] | Literal["auto"] | None = Field(
        None,
        description="Train only the upper k layers and what follows them (0: the head alone); auto: by a probe.",
    )
    lisa_layers: int | None = Field(
        None,
        ge=1,
        description="LISA (arXiv 2403.17919): this many layers, chosen at random, train at a time.",
    )
    lisa_steps: int | None = Field(None, ge=1, description="With lisa_layers: steps between two choices (20).")
    galore_rank: int | None = Field(
        None,
        ge=1,
        description="GaLore (arXiv 2403.03507): rank of the projection that AdamW's moments live in.",
    )
    galore_gap: int | None = Field(None, ge=1, description="With galore_rank: steps between two projections (200).")
    galore_scale: float | None = Field(None, gt=0, description="With galore_rank: scale of the projected update (2).")

    @model_validator(mode="after")
    def _one_choice(self) -> "FullConfig":
        if self.galore_rank is None and (self.galore_gap is not None or self.galore_scale is not None):
            raise ValueError("galore_gap and galore_scale belong to galore_rank. Set galore_rank, or leave them out")
        if self.galore_rank is not None and (
            self.lisa_layers is not None or self.parameters != "all" or self.top_k == 0
        ):
            raise ValueError(
                "galore_rank is for trained matrices of layers. Leave lisa_layers, parameters and top_k=0 out"
            )
        if self.lisa_steps is not None and self.lisa_layers is None:
            raise ValueError("lisa_steps belongs to lisa_layers. Set lisa_layers, or leave it out")
        if self.lisa_layers is not None and (self.top_k is not None or self.parameters != "all"):
            raise ValueError("lisa_layers draws from all layers, whole. Leave top_k and parameters out")
        return self

    @property
    def saves_adapter(self) -> bool:
        return False

    @property
    def projects(self) -> bool:
        return self.galore_rank is not None

    def refuse_options(self, data: DataConfig, train: TrainConfig) -> None:
        _refuse_probe(self.top_k, data)
        if self.lisa_layers is not None and train.optimizer_in_backward:
            raise ValueError(
                "train.optimizer_in_backward does not go with method.lisa_layers (lisa), whose layers rest by turns. Leave one out"
            )
        if self.galore_rank is not None and train.optimizer != "adamw":
            raise ValueError(
                f"train.optimizer={train.optimizer} does not go with method.galore_rank (galore), which brings its own optimizer, "
                "whose moments are fp32 in a projection. Leave one of them out"
            )


class LoraConfig(MethodSection):
    """LoRA through peft (arXiv 2106.09685). Names as in peft."""

    type: Literal["lora"] = Field("lora", description="`lora`.")
    r: int = Field(16, ge=1, description="Rank of the update.")
    lora_alpha: float = Field(32, gt=0, description="Scale: the update is multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="Layers that get an adapter: `all-linear`, or names such as [query, value]."
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases train as well.")
    top_k: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None, description="Adapters in the upper k layers only; auto: by a probe of what each layer knows."
    )
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r) (arXiv 2312.03732).")
    use_dora: bool = Field(False, description="Weight-decomposed LoRA (arXiv 2402.09353).")
    init_lora_weights: bool | Literal["gaussian", "pissa", "olora", "eva"] = Field(
        True,
        description="Start of A and B: true is peft's default, where a fresh adapter equals the base; eva reads training rows.",
    )
    eva_rho: float | None = Field(
        None,
        ge=1,
        description="With eva: a layer may get up to r x eva_rho ranks, others fewer (1, the default: all r).",
    )
    loraplus_lr_ratio: float | None = Field(
        None, gt=0, description="LoRA+ (arXiv 2402.12354): the learning rate of B over that of A; the paper's is 16."
    )
    load_in_4bit: bool = Field(
        False,
        description="QLoRA (arXiv 2305.14314): the frozen weights in NF4, by bitsandbytes. Less memory, more time.",
    )
    init_from: str | None = Field(
        None, description="Go on from the adapter of this run (or adapter folder): same base, same shape."
    )
    modules_to_save: tuple[str, ...] = Field(
        (), description="Further modules to train and save whole. Newly initialised ones always are."
    )

    @model_validator(mode="after")
    def _one_start(self) -> "LoraConfig":
        if self.eva_rho is not None and self.init_lora_weights != "eva":
            raise ValueError("eva_rho belongs to init_lora_weights=eva. Leave it out")
        if self.init_from is not None and self.init_lora_weights == "eva":
            raise ValueError("init_from brings A, and init_lora_weights=eva makes another one. Leave one of them out")
        return self

    @model_validator(mode="after")
    def _plain_on_4_bits(self) -> "LoraConfig":
        if self.load_in_4bit and (self.use_dora or self.lora_dropout or self.bias != "none"):
            raise ValueError(
                "load_in_4bit goes with plain adapters: no use_dora, no lora_dropout, no trained bias. Leave one of them out"
            )
        return self

    @property
    def parent(self) -> str | None:
        return self.init_from

    @property
    def fuses_lora(self) -> bool:
        return True

    @property
    def packs_base(self) -> bool:
        return self.load_in_4bit

    @property
    def starts_from_rows(self) -> bool:
        return self.init_lora_weights == "eva"

    @property
    def starts_from_weights(self) -> bool:
        return self.init_lora_weights in ("pissa", "olora")

    @property
    def reads_weights(self) -> bool:
        return self.starts_from_weights or self.use_dora

    def refuse_options(self, data: DataConfig, train: TrainConfig) -> None:
        _refuse_probe(self.top_k, data)
        if self.starts_from_rows and data.streaming:
            raise ValueError(
                "method.init_lora_weights=eva reads training rows first, and a stream has none at hand. Leave it out"
            )
        if self.load_in_4bit and (train.int8_base or not train.fused_lora):
            raise ValueError(
                "method.load_in_4bit (qlora) needs train.fused_lora, and does not go with train.int8_base. Leave those out"
            )


class AdaloraConfig(MethodSection):
    """AdaLoRA through peft (arXiv 2303.10512): a budget of ranks that moves to the layers which need it."""

    type: Literal["adalora"] = Field("adalora", description="`adalora`.")
    init_r: int = Field(12, ge=2, description="Rank that every layer begins with.")
    target_r: int = Field(8, ge=1, description="Mean rank that is left in the end.")
    lora_alpha: float = Field(32, gt=0, description="Scale: the update is multiplied by lora_alpha / init_r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input, as for lora.")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="Layers that are adapted, as for lora.")
    top_k: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None, description="Only the upper k layers, as for lora."
    )
    tinit: int | None = Field(None, ge=0, description="Steps before ranks are cut; without it a tenth of all steps.")
    tfinal: int | None = Field(
        None, ge=0, description="Steps at the end with the ranks that are left; without it three tenths of all."
    )
    deltaT: int = Field(1, ge=1, description="Steps between two cuts.")
    beta1: float = Field(0.85, gt=0, lt=1, description="Smoothing of a weight's importance.")
    beta2: float = Field(0.85, gt=0, lt=1, description="Smoothing of that importance's uncertainty.")
    orth_reg_weight: float = Field(
        0.5,
        ge=0,
        description="Weight of the penalty that keeps the singular vectors orthogonal (not in the logged loss).",
    )
    modules_to_save: tuple[str, ...] = Field((), description="Further modules to train and save whole.")

    @model_validator(mode="after")
    def _cuts_something(self) -> "AdaloraConfig":
        if self.target_r >= self.init_r:
            raise ValueError(f"target_r is {self.target_r}, and init_r {self.init_r}. Expected a smaller target_r")
        return self

    def for_few_steps(self) -> "AdaloraConfig":
        """Its cuts are placed in the run's steps, which a few are not."""
        return self.model_copy(update={"tinit": None, "tfinal": None})

    def refuse_options(self, data: DataConfig, train: TrainConfig) -> None:
        _refuse_probe(self.top_k, data)
        refused = {
            "optimizer_in_backward": train.optimizer_in_backward,
            "stochastic_rounding": train.stochastic_rounding,
            "max_seconds": train.max_seconds,
        }
        for name, value in refused.items():
            if value:
                raise ValueError(
                    f"train.{name} does not go with method.type=adalora, which reads fp32 weights with their gradients after "
                    "each step and shares its cuts out over a known number of steps. Leave it out"
                )


class VeraConfig(MethodSection):
    """VeRA through peft (arXiv 2310.11454): one frozen random A and B for all layers, and trained scales."""

    type: Literal["vera"] = Field("vera", description="`vera`.")
    r: int = Field(256, ge=1, description="Rank of the shared random matrices.")
    d_initial: float = Field(0.1, description="Start of the scales inside the rank.")
    projection_prng_key: int = Field(0, description="Seed of the random matrices.")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="Layers that are adapted, as for lora.")
    top_k: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None, description="Only the upper k layers, as for lora."
    )
    modules_to_save: tuple[str, ...] = Field((), description="Further modules to train and save whole.")


class Ia3Config(MethodSection):
    """IA3 through peft (arXiv 2205.05638): a trained factor for each key, value and inner feed-forward unit."""

    type: Literal["ia3"] = Field("ia3", description="`ia3`.")
    target_modules: str | tuple[str, ...] = Field(
        "auto", description="Layers whose output (or input) is scaled; auto: peft's own choice for the architecture."
    )
    feedforward_modules: str | tuple[str, ...] = Field("auto", description="Those of them whose input is scaled.")
    top_k: None = Field(None, description="Not for ia3.")
    modules_to_save: tuple[str, ...] = Field((), description="Further modules to train and save whole.")


class PromptConfig(MethodSection):
    """Prompt tuning through peft (arXiv 2104.08691): trained vectors before the words; the model stays as it is."""

    type: Literal["prompt"] = Field("prompt", description="`prompt`.")
    num_virtual_tokens: int = Field(
        20, ge=1, description="Vectors (of prefix: keys and values) in front; inputs may be shorter by as many tokens."
    )
    prompt_tuning_init: Literal["sample_vocab", "random"] = Field(
        "sample_vocab", description="Start of the vectors: embeddings of random tokens, or random numbers."
    )
    top_k: None = Field(None, description="Not for prompt.")
    modules_to_save: tuple[str, ...] = Field((), description="Further modules to train and save whole.")

    @property
    def tokens_in_front(self) -> int:
        return self.num_virtual_tokens

    def refuse_options(self, data: DataConfig, train: TrainConfig) -> None:
        _refuse_in_front(self.type, data, train)


class PrefixConfig(MethodSection):
    """Prefix tuning through peft (arXiv 2101.00190): trained keys and values in front, in every layer."""

    type: Literal["prefix"] = Field("prefix", description="`prefix`.")
    num_virtual_tokens: int = Field(20, ge=1, description="Keys and values in front.")
    top_k: None = Field(None, description="Not for prefix.")
    modules_to_save: tuple[str, ...] = Field((), description="Further modules to train and save whole.")

    @property
    def tokens_in_front(self) -> int:
        return self.num_virtual_tokens

    def refuse_options(self, data: DataConfig, train: TrainConfig) -> None:
        _refuse_in_front(self.type, data, train)
        if train.checkpointed_layers is not None:
            raise ValueError(
                "train.gradient_checkpointing runs layers a second time, and method.type=prefix hands them keys and values as a "
                "cache, which would then grow twice. Leave it out"
            )


def _refuse_probe(top_k: int | str | None, data: DataConfig) -> None:
    if top_k == "auto" and data.streaming:
        raise ValueError(
            "method.top_k=auto probes training rows first, and a stream has none at hand. Give a number of layers"
        )


def _refuse_in_front(kind: str, data: DataConfig, train: TrainConfig) -> None:
    if train.packing:
        raise ValueError(
            f"train.packing puts rows behind each other, and method.type={kind} a prompt in front of each. "
            "Leave one of them out"
        )
    if data.general_text:
        raise ValueError(
            f"data.general_text measures what the model forgets, and method.type={kind} leaves it as it is. Leave it out"
        )
