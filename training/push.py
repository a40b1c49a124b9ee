"""Publish the folder of a run on the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, CONFIG, QUERY_CONFIG, RERANKER_CONFIG, TRAIN_CONFIG
from llamaindex_code_retrieval.models.locate import is_hub_name
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.run_record import public_name

_NAMES_IN = (ADAPTER_CONFIG, CONFIG, QUERY_CONFIG, RERANKER_CONFIG, TRAIN_CONFIG, "tokenizer_config.json")
"""Files that name models, possibly by a path of this machine."""
_NAME_KEYS = ("_name_or_path", "name_or_path", "base_model_name_or_path", "name", "adapter", "start")


def check_repository_name(repository: str) -> None:
    """Check that ``repository`` is a name of the form ``org/name``, before the work that is to be pushed there.

    Raises:
        ValueError: it is not.
    """
    if "@" in repository or not is_hub_name(repository):
        raise ValueError(f"{repository!r} is not the name of a repository on the hub; give it as org/name")


def push_run(folder: str | Path, repository: str, *, public: bool = False) -> str:
    """Upload the folder of a finished run to the hub as ``org/name`` and return the address of the commit.

    A new repository is private unless ``public``. Paths of this machine in the configuration files are replaced by
    their last part.

    Raises:
        ValueError: the repository exists and is public, and ``public`` is false.
        OSError: the hub cannot be reached or refuses (no login, no right to write).
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder)
    check_repository_name(repository)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != STATE)
    files = [path for path in files if path.relative_to(folder).parts[0] != "tensorboard"]
    operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), _content(path)) for path in files]
    api = HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        is_public = not api.repo_info(repository).private
        if not is_public or public:
            commit = api.create_commit(repository, operations, commit_message="Upload a training run")
            return str(commit.commit_url)
    except Exception as error:  # also of the HTTP client, which depends on the version of huggingface_hub
        raise OSError(
            f"{folder} is saved, but could not be pushed to {repository} ({type(error).__name__}: {error}); log in "
            "with `hf auth login`, check the name and the network, and call training.push_run(folder, name)"
        ) from error
    raise ValueError(
        f"{folder} is saved, but was not pushed: {repository} is public; name a private repository, or push with "
        "public=True (--public)"
    )


def _content(path: Path) -> bytes | str:
    """Return the content to upload: the file itself by its path, or a configuration without paths of this machine."""
    if path.name not in _NAMES_IN:
        return str(path)
    content = read_json(path, remedy="train again")
    return (json.dumps(_without_paths(content), indent=2) + "\n").encode()


def _without_paths(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: public_name(each) if key in _NAME_KEYS and isinstance(each, str) else _without_paths(each)
        for key, each in value.items()
    }
