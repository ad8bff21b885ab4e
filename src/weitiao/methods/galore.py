"""GaLore: full fine-tuning with AdamW's moments in a low-rank projection of the gradient (Zhao et al. 2024, arXiv 2403.03507).

The projection and its update are pytorch-optimizer's. Weights stay in fp32 as for AdamW; only the matrices of the layers are
projected, as in the paper. Embeddings, norms, biases and the head keep AdamW.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weitiao.config.method import FullConfig
from weitiao.errors import ConfigError
from weitiao.kernels.frozen_layers import layers

if TYPE_CHECKING:
    import torch

GAP = 200  # steps between two projections: the paper's
SCALE = 2.0  # a guess between no scaling and AdamW's norm (docs/methods.md)


@dataclass(frozen=True)
class GaLore:
    """Which parameters are projected, and how."""

    names: frozenset[str]
    options: dict[str, Any]  # of a parameter group, by pytorch-optimizer's names

    @classmethod
    def of(cls, config: FullConfig, model: Any) -> "GaLore | None":
        """The trained matrices of the layers that are larger than the rank; None without ``galore_rank``."""
        if (rank := config.galore_rank) is None:
            return None
        stack, _ = layers(model)
        names = frozenset(
            name
            for name, p in model.named_parameters()
            if p.requires_grad and p.ndim == 2 and min(p.shape) > rank and name.startswith(stack + ".")
        )
        if not names:
            raise ConfigError(
                f"method.galore_rank is {rank}, and no matrix of the layers is larger.\nExpected less than the model's width.\n"
                "Lower it, or use method.type=full."
            )
        gap, scale = config.galore_gap or GAP, config.galore_scale or SCALE
        return cls(names, {"rank": rank, "update_proj_gap": gap, "scale": scale, "projection_type": "std"})

    def optimizer(
        self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float
    ) -> "torch.optim.Optimizer":
        from pytorch_optimizer.optimizer.galore import GaLore as Projected

        return Projected([group | self.options for group in groups], lr=0.0, betas=betas, eps=eps)  # type: ignore[no-any-return]

    def moment_bytes(self, shapes: Iterable[tuple[int, int]]) -> int:
        """fp32 bytes of both moments and the projection, for matrices of these shapes."""
        rank = int(self.options["rank"])
        return sum(4 * rank * (2 * max(shape) + min(shape)) for shape in shapes)

    def settle(self, optimizer: "torch.optim.Optimizer") -> None:
        """After a step: projections in the memory layout that a checkpoint gives them, or a resumed run rounds otherwise."""
        for state in optimizer.state.values():
            if (projector := state.get("projector")) is not None:
                projector.ortho_matrix = projector.ortho_matrix.contiguous()

    def tensors(self, optimizer: "torch.optim.Optimizer", parameter: Any) -> "dict[str, torch.Tensor]":
        """What a resumed run needs of one parameter's state."""
        import torch

        state = dict(optimizer.state.get(parameter, {}))
        if (projector := state.pop("projector", None)) is None:
            return {}
        step = next(g["step"] for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        return {**state, "projection": projector.ortho_matrix, "step": torch.tensor(float(step))}

    def restore(self, optimizer: "torch.optim.Optimizer", parameter: Any, tensors: "dict[str, torch.Tensor]") -> None:
        """The inverse of :meth:`tensors`."""
        from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector

        projector = GaLoreProjector(**self.options)
        projector.ortho_matrix = tensors["projection"]
        optimizer.state[parameter] = {
            "exp_avg": tensors["exp_avg"],
            "exp_avg_sq": tensors["exp_avg_sq"],
            "projector": projector,
        }
        for group in optimizer.param_groups:
            if any(p is parameter for p in group["params"]):
                group["step"] = int(tensors["step"])
