"""Where the page's files are, and who may see it."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from weitiao.errors import ConfigError

EXPORTS = "exports"  # the folder of merged and exported models, which no run may have


@dataclass(frozen=True)
class Settings:
    """One server.

    Args:
        root: folder of runs; what the page keeps for itself is in ``.web`` there.
        password: asked for where it is set.
        hosts: names that requests may call the server by; none: any.
        upload_bytes: largest file that is taken.
    """

    root: Path
    password: str | None = None
    hosts: tuple[str, ...] = field(default=())
    upload_bytes: int = 200 << 20

    @cached_property
    def own(self) -> Path:
        """Jobs, uploads and the secret of the sessions."""
        return self.root / ".web"

    @property
    def jobs(self) -> Path:
        return self.own / "jobs"

    @property
    def uploads(self) -> Path:
        return self.own / "uploads"

    def run_path(self, name: str) -> Path:
        """The folder of a run by its name, its path below the root. Raises ConfigError for a path that leaves it."""
        parts = Path(name).parts
        path = self.root / name
        # one folder has one name: no x//y, x/. or .
        is_plain = bool(parts) and name == "/".join(parts) and parts[0] not in ("/", EXPORTS) and "\0" not in name
        if not is_plain or any(part.startswith(".") or len(part.encode()) > 200 for part in parts):
            raise ConfigError(
                f"{name!r} is no name of a run.\nExpected its path below {self.root}.\nSee the list of runs."
            )
        if path.exists() and not path.resolve().is_relative_to(self.root.resolve()):
            raise ConfigError(f"{name!r} leads out of {self.root}.\nExpected a folder below it.\nMove the run there.")
        return path
