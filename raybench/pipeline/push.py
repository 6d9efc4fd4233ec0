"""Uploads an exported network to the Hugging Face hub. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from raybench.errors import UserError

NOBODY = "--push-to-hub: nobody is logged in: hf auth login, or set HF_TOKEN"


def check_repository(name: str) -> None:
    """UserError for a name that isn't ``USER/NAME``."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"--push-to-hub: found {name!r}, expected USER/NAME or ORGANISATION/NAME")


def push(exported: Path, card: str, name: str, *, private: bool) -> str:
    """Upload the file or folder `exported` and its card to the model repository `name`, which is made if needed.

    Returns:
        The address of the repository.

    Raises:
        UserError: huggingface_hub is missing, nobody is logged in, or the hub refuses.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
    except ImportError as error:
        raise UserError("--push-to-hub needs huggingface_hub: pip install huggingface_hub") from error
    hub = huggingface_hub.HfApi()
    failures: Any = (*HfHubHTTPError.__bases__, OSError)  # the HTTP library's errors; OSError: no network
    try:
        url = str(hub.create_repo(name, private=private, exist_ok=True))
        if exported.is_dir():
            hub.upload_folder(repo_id=name, folder_path=str(exported), commit_message="Pruned by raybench")
        else:
            hub.upload_file(repo_id=name, path_or_fileobj=str(exported), path_in_repo=exported.name)
            hub.upload_file(repo_id=name, path_or_fileobj=card.encode(), path_in_repo="README.md")
    except LocalTokenNotFoundError as error:
        raise UserError(NOBODY) from error
    except failures as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401 and huggingface_hub.get_token() is None:
            raise UserError(NOBODY) from error
        first = getattr(error, "server_message", None) or str(error).strip().partition("\n")[0]
        first = first.rstrip(".")
        raise UserError(f"--push-to-hub {name}: {first}; the files are in {exported}") from error
    return url
