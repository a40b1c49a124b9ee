"""Fetch checkpoints from the Hugging Face hub, or find them in its cache."""

from __future__ import annotations

import json
from pathlib import Path

from llamaindex_code_retrieval.models.files import ADAPTER_WEIGHTS, HEAD_WEIGHTS, QUERY_WEIGHTS, SHARDS, WEIGHTS

_FILES = [
    *("*.json", "*.txt", "*.model", "1_Pooling/config.json"),
    *("model*.safetensors", ADAPTER_WEIGHTS, HEAD_WEIGHTS, QUERY_WEIGHTS),
]


def fetch(name: str) -> Path:
    """Return the local folder of a hub repository, ``org/name`` or ``org/name@revision``, without its pickles.

    A repository that holds pickled weights only is read from the pull request in which the hub's conversion bot offers
    the same weights in safetensors. The commit of the first fetch is kept, so that later runs read the same weights,
    also offline.

    Raises:
        ValueError: no such repository or revision, or the hub is out of reach and its cache lacks the files.
    """
    repository, _, revision = name.partition("@")
    folder = _download(repository, revision or None)
    if revision or _holds_weights(folder):
        return folder
    conversion = _conversion(repository)
    return folder if conversion is None else _download(repository, conversion)


def cached(repository: str) -> Path | None:
    """Return the folder of a repository in the hub cache if its weights are there, without asking the hub."""
    from huggingface_hub import try_to_load_from_cache

    weights = try_to_load_from_cache(repository, WEIGHTS)
    return Path(weights).parent if isinstance(weights, str) else None


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    name = repository if revision is None else f"{repository}@{revision}"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_FILES))
    except RepositoryNotFoundError as error:  # also where it is gated
        raise ValueError(
            f"model {name!r} could not be fetched: the hub has no such repository, or only for users who log in with "
            "`hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"model {name!r} could not be fetched: the repository has no such revision") from error
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"model {name!r} could not be fetched ({type(error).__name__}), and it is not complete in the hub cache; "
            "check the name and the network, or give a local folder"
        ) from error


def _conversion(repository: str) -> str | None:
    """Return the revision of the safetensors that the conversion bot offers, a commit if it is in the hub cache.

    If the hub is out of reach, it is the only pull request in the cache.
    """
    from huggingface_hub import HfApi

    commits = _cached_pull_requests(repository)
    try:
        requests = HfApi().get_repo_discussions(repository, author="SFconvertbot", discussion_type="pull_request")
        offered = next((f"refs/pr/{each.num}" for each in requests if "safetensors" in each.title), None)
    except Exception as error:  # of the HTTP client, which is another one in each version of huggingface_hub
        if len(commits) == 1:
            return next(iter(commits.values()))
        remedy = "fetch it once with the network"
        if commits:
            remedy = (
                f"name one of the pull requests in the hub cache: {', '.join(f'{repository}@{r}' for r in commits)}"
            )
        raise ValueError(
            f"model {repository!r} is in the hub cache without safetensors (pickled weights are never loaded), and the "
            f"hub, which may offer a conversion, is out of reach ({type(error).__name__}); {remedy}"
        ) from error
    return None if offered is None else commits.get(offered, offered)


def _cached_pull_requests(repository: str) -> dict[str, str]:
    """Return the commit of each pull request whose weights are in the hub cache, by its revision ``refs/pr/N``."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    commits = {f"refs/pr/{file.name}": file.read_text().strip() for file in sorted(folder.glob("refs/refs/pr/*"))}
    return {ref: commit for ref, commit in commits.items() if _holds_weights(folder / "snapshots" / commit)}


def _holds_weights(folder: Path) -> bool:
    if (folder / SHARDS).is_file():
        shards = json.loads((folder / SHARDS).read_text(encoding="utf-8"))["weight_map"].values()
        return all((folder / shard).is_file() for shard in shards)
    return any((folder / file).is_file() for file in (WEIGHTS, ADAPTER_WEIGHTS, QUERY_WEIGHTS))
