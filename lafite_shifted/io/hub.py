"""Models of the Hugging Face Hub: fetching and sending them. safetensors and JSON only."""

from collections.abc import Mapping
from pathlib import Path

from lafite_shifted.errors import InputError

WANTED = ["*.json", "*.safetensors", "*.md"]


def _network_errors() -> tuple[type[Exception], ...]:
    """Of the HTTP library beneath huggingface_hub, which has changed: requests' are OSErrors."""
    from huggingface_hub import utils

    httpx = getattr(utils, "httpx", None)
    return (OSError,) if httpx is None else (OSError, httpx.HTTPError)


def _reason(error: Exception) -> str:
    """Its first line; some errors say nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def download(name: str, *, revision: str | None = None) -> Path:
    """The folder of a Hub model such as "someone/model" or "someone/model@REVISION", a branch, tag
    or commit; without the network what was fetched before. InputError where there is none.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    repo, _, pinned = name.partition("@")
    if name.count("/") != 1:
        raise InputError(
            f"{name} is no folder. Give a model folder (see `lafite-shifted pack`), a Hub id "
            "ORG/MODEL or ORG/MODEL@REVISION, or `starter`."
        )
    if revision is not None and pinned:
        raise InputError(f"{name} names a revision, and revision={revision!r} another. Give one.")
    try:
        found = snapshot_download(repo, revision=revision or pinned or None, allow_patterns=WANTED)
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        *_network_errors(),
    ) as error:
        raise InputError(
            f"{name} is no folder here, and the Hub has not given it ({_reason(error)}). Check the "
            "name and the network."
        ) from error
    return Path(found)


def upload(
    files: Mapping[str, Path | bytes],
    repo: str,
    *,
    private: bool = False,
    branch: str | None = None,
    message: str,
) -> str:
    """Make the model repository `repo` where there is none, and send `files`, by their names there,
    as one commit, whose id is returned. InputError where the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    api = HfApi(library_name="lafite-shifted")
    added = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        made = api.create_commit(repo, added, commit_message=message, revision=branch)
    except OfflineModeIsEnabled as error:
        raise InputError(
            "HF_HUB_OFFLINE is set, so nothing is sent. Unset it, or look at what would be sent "
            "with --dry-run DIR."
        ) from error
    # RuntimeError: a file that the storage refuses
    except (
        HfHubHTTPError,
        HFValidationError,
        ValueError,
        RuntimeError,
        *_network_errors(),
    ) as error:
        raise InputError(
            f"The Hub has not taken {repo} ({_reason(error)}). Check the name, the network, and "
            "your token (`hf auth login`, or HF_TOKEN)."
        ) from error
    return made.oid
