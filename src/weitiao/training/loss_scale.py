"""Dynamic loss scaling for float16 (Micikevicius et al. 2018, arXiv 1710.03740), by the rule of ``torch.amp.GradScaler``.

float16 ends at 65,504 and is 0 below 6e-8. So the loss is multiplied by a scale before the backward pass, and the gradients are
divided by it before they are clipped. A step whose gradient is not finite is left out and halves the scale; 2,000 good steps in a
row double it.

GradScaler itself asks the host in every step whether to update. Here the device decides, and the host reads later which steps were
left out.
"""

from typing import Any

import torch

START, GROWTH_STEPS = 65536.0, 2000
FLOOR = 1.0  # below it even gradients that nothing has enlarged overflow
_MOST_UNREAD = 100


class LossScale:
    """The scale, a scalar on the device, and which steps were left out."""

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), START, device=device)
        self._good = torch.zeros((), dtype=torch.int32, device=device)  # steps since the scale changed
        self._unread: list[tuple[int, torch.Tensor]] = []

    def update(self, step: int, overflows: torch.Tensor) -> None:
        """After the gradients of ``step``: ``overflows``, a bool scalar, says whether they are not finite."""
        good = torch.where(overflows, 0, self._good + 1)
        grows = good == GROWTH_STEPS
        wanted = self.scale * torch.where(overflows, 0.5, torch.where(grows, 2.0, 1.0))
        self.scale.copy_(torch.where(torch.isfinite(wanted), wanted, self.scale))
        self._good.copy_(torch.where(grows, 0, good))
        self._unread.append((step, overflows))

    @property
    def should_be_read(self) -> bool:
        """Whether reading costs nothing, or much is waiting."""
        return self.scale.device.type == "cpu" or len(self._unread) >= _MOST_UNREAD

    def read(self) -> list[int]:
        """The steps left out since the last call. Makes a GPU wait."""
        unread, self._unread = self._unread, []
        if not unread:
            return []
        found = torch.stack([overflows for _, overflows in unread]).tolist()
        return [step for (step, _), overflowed in zip(unread, found, strict=True) if overflowed]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"scale": self.scale.item(), "good_steps": int(self._good.item())}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.scale.fill_(state["scale"])
        self._good.fill_(state["good_steps"])
