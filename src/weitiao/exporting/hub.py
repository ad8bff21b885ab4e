"""An exported folder on a model hub, under the user's own login."""

import os
from pathlib import Path
from typing import Any

from weitiao.errors import ConfigError, FetchError


def refuse_push(repo: str, public: bool) -> None:
    """Raise before any long work where ``repo`` could not be written, or would show what is meant to be private.

    Raises:
        ConfigError: no name of a repository, offline, not logged in, or the repository is public already.
        FetchError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"--push {repo}: {error}\nExpected OWNER/NAME.\nExample: --push me/reviews-onnx") from None
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConfigError(
            f"--push {repo}, and HF_HUB_OFFLINE={os.environ['HF_HUB_OFFLINE']}.\nExpected a hub that may be reached.\n"
            "Unset HF_HUB_OFFLINE, or leave --push out."
        )
    if get_token() is None:
        raise ConfigError(
            f"--push {repo}, and nobody is logged in to the hub.\nExpected your own login.\nLog in: hf auth login"
        )
    api = _api()
    try:
        api.whoami()
        shown = not api.repo_info(repo).private
    except RepositoryNotFoundError:
        return
    except Exception as error:  # errors of HTTP are of many kinds
        raise _unreachable(repo, error) from None
    if shown and not public:
        raise ConfigError(
            f"--push {repo}: that repository is public.\nExpected a private or a new one.\nAdd --public to upload it there."
        )


def push(folder: Path, repo: str, public: bool) -> str:
    """Upload a folder; a new repository is private unless ``public``. Returns its address."""
    api = _api()
    try:
        address = str(api.create_repo(repo, private=not public, exist_ok=True))
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="weitiao export")
    except Exception as error:
        raise _unreachable(repo, error, f" {folder} is complete.") from None
    return address


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(library_name="weitiao")


def _unreachable(repo: str, error: Exception, kept: str = "") -> FetchError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return FetchError(
        f"--push {repo}: {reason}{kept}\nExpected a hub that can be reached, and a repository that you may write.\n"
        f"Try again, or upload it yourself: hf upload {repo} FOLDER"
    )
