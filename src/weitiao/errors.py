"""Every error a user can cause, as one tree:

    WeitiaoError            exit code 2; the message says what was found, what was expected, what to do next
    ├── ConfigError         a key, value or combination in the configuration
    ├── DataError           a file, row or column of the user's data
    ├── ModelError          a model name, folder or file that cannot be used
    │   └── NoTokenizerError   the model's files lack its tokenizer
    ├── FetchError          a catalogue package that could not be downloaded or verified
    ├── RunError            a run folder that is missing, occupied, broken or does not fit
    └── Stopped             a signal ended the work; exit code 130 or 143

Programming mistakes stay ``AssertionError`` and keep their traceback.
"""


class WeitiaoError(Exception):
    """Base of all errors meant for the user. ``exit_code`` is what the CLI returns."""

    exit_code = 2


class ConfigError(WeitiaoError):
    """The configuration cannot be used."""


class DataError(WeitiaoError):
    """The data cannot be used."""


class ModelError(WeitiaoError):
    """The model cannot be used."""


class NoTokenizerError(ModelError):
    """The model's files lack its tokenizer: a plan does without it, a run does not."""


class FetchError(WeitiaoError):
    """A catalogue entry could not be fetched."""


class Stopped(WeitiaoError):
    """A command was stopped, and has saved where it is. ``exit_code`` is 128 + the signal's number."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RunError(WeitiaoError):
    """A run folder cannot be used."""
