"""Restore the model and the parser of an index from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser.node_utils import default_id_func
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.index.embedders import AnyEmbedding, Embedder, UnloadedModel, embedder_of
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


def new_settings(
    embedder: Embedder, parser: CodeNodeParser, vector_store: BasePydanticVectorStore | None
) -> dict[str, Any]:
    """Return the settings of an index without files."""
    return {
        **model_settings(embedder),
        "parser": parser.to_dict(),
        "vector_store": None if vector_store is None else vector_store.class_name(),
        "roots": [],
        "sources": {},
        "rules": [],
        "unfinished": False,  # whether an update that read all files was interrupted
        "updated": "",
    }


def restore_embedder(
    folder: Path,
    settings: Mapping[str, Any],
    embedding: BaseEmbedding | None,
    options: Mapping[str, Any],
    *,
    words_only: bool,
) -> Embedder:
    """Return ``embedding``, or load the model that made the vectors of an index with the ``options`` that are not None.

    With ``words_only`` return a stand-in for the model, which is not loaded.

    Raises:
        ValueError: ``embedding`` is another model; options without effect; a model that cannot be loaded.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if embedding is not None and given:
        raise ValueError(f"give {', '.join(given)} to the embedding, or leave the embedding out")
    if words_only and (embedding is not None or given):
        raise ValueError(f"words_only loads no model; leave out {', '.join(given) or 'embedding'}")
    embedder: Embedder
    if embedding is not None:
        embedder = embedder_of(embedding)
    elif words_only:
        embedder = _unloaded_model(settings)
    else:
        embedder = _load_model(folder, settings, given)
    _check_model(folder, settings, embedder)
    return embedder


def _load_model(folder: Path, settings: Mapping[str, Any], options: Mapping[str, Any]) -> CodeEmbedding:
    saved = dict(settings["embedding"])
    if saved.get("class_name") != CodeEmbedding.class_name():
        raise ValueError(
            f"the index in {folder} was built with the model {saved.get('model_name')!r} of the class "
            f"{saved.get('class_name')}; pass that model as embedding"
        )
    for name in ("precision", "query_encoder"):  # choices of each machine and each search
        saved.pop(name, None)
    if "query_encoder" not in options:  # _check_model names both models; a query encoder may never load the base
        saved.pop("fingerprint", None)
    unknown = saved.keys() - CodeEmbedding.model_fields.keys() - {"class_name"}
    if unknown:
        raise ValueError(
            f"the model of the index in {folder} cannot be restored: it has no setting {unknown.pop()!r}; build the "
            "index again with `code-retrieval index`"
        )
    return CodeEmbedding(**saved, **options)


def _unloaded_model(settings: Mapping[str, Any]) -> UnloadedModel:
    """Return a stand-in for the model of an index that is searched by words only."""
    fingerprint = settings["fingerprint"]
    by_language = {"": fingerprint, **settings["adapters"]}
    return UnloadedModel(settings["embedding"], settings["dim"], fingerprint, by_language)


def _check_model(folder: Path, settings: Mapping[str, Any], embedder: Embedder) -> None:
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
    try:
        return CodeNodeParser.from_dict(saved)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the parser of the index in {folder} cannot be restored: {error}; build the index again with "
            "`code-retrieval index`"
        ) from error


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
