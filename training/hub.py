"""Publish a run's folder on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from llamaindex_code_retrieval.training.loop import STATE


def push_run(folder: str | Path, repository: str) -> str:
    """Upload a run's folder to the hub as ``org/name`` and return its address.

    Raises:
        OSError: the hub is out of reach, or refuses (not logged in, no right to write).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=str(folder), ignore_patterns=[STATE, "tensorboard/*"]
        )
    except (HfHubHTTPError, OSError) as error:
        raise OSError(
            f"{folder} is saved, but could not be pushed to {repository} ({type(error).__name__}: {error}); "
            "log in with `hf auth login`, check the name and the network, and push again"
        ) from error
    return str(commit.commit_url)
