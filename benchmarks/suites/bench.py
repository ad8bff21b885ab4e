"""What a suite is given: where to work, how often to repeat, and the small sizes of a smoke run."""

from dataclasses import dataclass
from pathlib import Path

import material


@dataclass(frozen=True)
class Bench:
    scratch: Path
    pairs: int | None = None  # --pairs, over each suite's own number
    smoke: bool = False  # the smallest sizes that still run every kind of cell
    sft_rows: Path | None = None

    def rounds(self, default: int) -> range:
        return range(self.pairs or (1 if self.smoke else default))

    def size(self, full: int, smoke: int) -> int:
        return smoke if self.smoke else full

    def model(self, name: str) -> Path:
        return material.model_path(name, self.scratch)

    @property
    def run(self) -> Path:
        """The run folder of the cell at work; nothing of it stays."""
        return self.scratch / "run"

    def rows(self, train: Path) -> list[str]:
        """A training file, and an evaluation file so small that scoring does not matter."""
        return [f"data.train={train}", f"data.eval={material.held_out(self.scratch)}"]
