"""What `weitiao convert --json` prints."""

from typing import Any, Literal

from pydantic import with_config
from typing_extensions import TypedDict

from weitiao.rundir.summary import STRICT


@with_config(STRICT)
class ConvertedKey(TypedDict):
    """A key of the other tool, and what became of it. Every key of the file stands here once."""

    key: str
    """Its name; inside a list or a mapping its path, such as datasets[0].path."""
    value: Any
    """As the file has it."""
    fate: Literal["mapped", "differs", "ignored", "replaced", "left out", "refused", "unknown"]
    """differs: kept, but not quite the same here. replaced: by a word of the command line. left out: by --without."""
    options: dict[str, Any]
    """The options of weitiao that it gave, with their values."""
    reason: str
    """Why, in words; empty where there is nothing to say."""


@with_config(STRICT)
class WrittenDefault(TypedDict):
    """An option that no key gave, written since the other tool's default differs from weitiao's."""

    option: str
    """Its path, such as data.duplicates."""
    value: Any
    """What is written for it."""
    reason: str
    """What the other tool does."""


@with_config(STRICT)
class OpenQuestion(TypedDict):
    """An option that nothing decides: the command line must."""

    option: str
    """Its path, such as data.train."""
    reason: str
    """What is missing, in words."""


@with_config(STRICT)
class Conversion(TypedDict):
    """A configuration of another tool, and what became of each of its keys."""

    tool: Literal["llamafactory", "swift", "trl", "axolotl", "trainer"]
    """Whose configuration it is."""
    source: str
    """The file."""
    output: str | None
    """The file that was written, if any."""
    config: dict[str, Any] | None
    """The options for weitiao by section; null where a key is refused or unknown, or a question is open."""
    yaml: str | None
    """The same as YAML, with comments that say where each value comes from."""
    keys: list[ConvertedKey]
    """Those of the file, in its order; then a script's variables of the shell."""
    counts: dict[str, int]
    """Keys by fate."""
    defaults: list[WrittenDefault]
    """Options that no key gave, from the other tool's defaults."""
    questions: list[OpenQuestion]
    """What the command line must still say."""
    unused_commands: list[str]
    """Of a script: commands that train nothing."""
