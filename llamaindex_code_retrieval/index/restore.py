"""Restore the model and the parser of an index from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.core.node_parser.node_utils import default_id_func

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.index.embedders import AnyEmbedding, Embedder, UnloadedModel
from llamaindex_code_retrieval.index.folder import rebuild_command
from llamaindex_code_retrieval.index.source_options import SourceOptions


def model_settings(embedder: Embedder) -> dict[str, Any]:
    """Return what an index saves of its model."""
    return {
        "embedding": embedder.to_dict(),
        "fingerprint": embedder.fingerprint,
        "adapters": {language: each for language, each in embedder.fingerprints.items() if language},
        "dim": embedder.dim,
        "probe": list(embedder.probe) if isinstance(embedder, AnyEmbedding) else None,
    }


def load_model(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    query_encoder: str | Path | None,
    cache_folder: str | Path | None,
    device: str | None,
) -> CodeEmbedding:
    """Load the model that made the vectors of an index."""
    saved = dict(settings["embedding"])
    if saved.get("class_name") != CodeEmbedding.class_name():
        raise ValueError(
            f"the index in {folder} was built with the model {saved.get('model_name')!r} of the class "
            f"{saved.get('class_name')}; pass that model as embedding"
        )
    for name in ("precision", "query_encoder"):  # choices of each machine and each search
        saved.pop(name, None)
    if query_encoder is None:  # check_model names both models; with a query encoder the base may never be loaded
        del saved["fingerprint"]
    return CodeEmbedding(**saved, query_encoder=query_encoder, cache_folder=cache_folder, device=device)


def unloaded_model(settings: Mapping[str, Any]) -> UnloadedModel:
    """Return a stand-in for the model of an index that is searched by words only."""
    fingerprint = settings["fingerprint"]
    by_language = {"": fingerprint, **settings["adapters"]}
    return UnloadedModel(settings["embedding"], settings["dim"], fingerprint, by_language)


def check_model(folder: Path, settings: Mapping[str, Any], embedder: Embedder) -> None:
    """Check that a model is the one that made the vectors of an index.

    Raises:
        ValueError: it is another one.
    """
    is_same = embedder.fingerprint == settings["fingerprint"]
    if is_same and settings["probe"] is not None and isinstance(embedder, AnyEmbedding):
        is_same = embedder.is_like(settings["probe"])
    if is_same:
        return
    old, new = settings["adapters"], embedder.fingerprints
    others = sorted(
        language for language in {*old, *new} - {""} if old.get(language, "none") != new.get(language, "none")
    )
    reason = f" (another adapter for {', '.join(others)})" if others else ""
    if embedder.fingerprint == settings["fingerprint"]:
        reason = " but computes other vectors"
    raise ValueError(
        f"the index in {folder} was built by model {settings['embedding'].get('model_name')!r} with fingerprint "
        f"{settings['fingerprint']}, but this model has fingerprint {embedder.fingerprint}{reason}; "
        f"rebuild it with: {rebuild_command(folder, settings)}"
    )


def restore_parser(folder: Path, settings: Mapping[str, Any], parser: CodeNodeParser | None) -> CodeNodeParser:
    """Return the parser of an index, or ``parser`` if it has equal settings.

    Raises:
        ValueError: ``parser`` has other settings, or the parser cannot be restored without it.
    """
    saved = settings["parser"]
    if parser is not None:
        given = parser.to_dict()
        changed = [name for name, value in saved.items() if name != "version" and given.get(name) != value]
        if changed:
            differences = ", ".join(f"{name}={saved[name]!r}, not {given.get(name)!r}" for name in changed)
            raise ValueError(f"the index in {folder} was built by a parser with {differences}; pass an equal one")
        return parser
    class_name = saved.get("class_name", CodeNodeParser.class_name())
    if class_name != CodeNodeParser.class_name():
        raise ValueError(f"the index in {folder} was built by a parser of the class {class_name}; pass it as parser")
    id_func = saved.get("id_func", {}).get("id_func_name", default_id_func.__name__)
    if id_func != default_id_func.__name__:
        raise ValueError(
            f"the index in {folder} was built by a parser with the function {id_func!r} as id_func, which cannot be "
            "restored from its name; pass parser=CodeNodeParser(id_func=…)"
        )
    if saved.get("max_tokens") is not None:
        raise ValueError(
            f"the index in {folder} was built by a parser with max_tokens={saved['max_tokens']} and a tokenizer, which "
            "is not saved; pass parser=CodeNodeParser(max_tokens=…, tokenizer=…)"
        )
    return CodeNodeParser.from_dict(saved)


def restore_source_options(folder: Path, settings: Mapping[str, Any]) -> SourceOptions:
    """Return the options by which the files of an index were selected.

    Raises:
        ValueError: they are damaged, or name a language that this version does not know.
    """
    try:
        return SourceOptions(**settings["sources"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the source options of the index in {folder} cannot be used: {error}; build the index again with "
            "`code-retrieval index`"
        ) from error
