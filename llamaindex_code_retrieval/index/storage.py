"""Save an index into a folder, and load it."""

from __future__ import annotations

import copy
import json
import logging
import secrets
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser.node_utils import default_id_func
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llamaindex_code_retrieval._io import sha256, write_atomically
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.index.embedders import AnyEmbedding, Embedder, UnloadedModel, embedder_of
from llamaindex_code_retrieval.index.faiss_store import FaissStore
from llamaindex_code_retrieval.index.manifest import (
    FORMAT,
    MANIFEST,
    OWN_FILES,
    check_folder,
    damaged,
    read_manifest,
    rebuild_command,
    saved_source_options,
)
from llamaindex_code_retrieval.index.records import FileRecord, NodeRecord, upgrade_record
from llamaindex_code_retrieval.index.snapshot import Snapshot, search_among
from llamaindex_code_retrieval.index.words import LexicalIndex

logger = logging.getLogger(__name__)


def save(folder: str | Path, snapshot: Snapshot, parser: CodeNodeParser) -> None:
    """Write an index into ``folder``, atomically.

    All files go to a new subfolder; then one rename of ``manifest.json`` makes it the index. A kill at any moment
    leaves the old index or the new one. An error leaves the old one and nothing else.
    """
    target = Path(folder)
    check_folder(target)
    target.mkdir(parents=True, exist_ok=True)
    generation = f"data-{secrets.token_hex(8)}"
    try:
        _write_data(target / generation, snapshot)
        manifest = _manifest(target / generation, snapshot, parser)
        write_atomically(target / MANIFEST, json.dumps(manifest, indent=1))
    except BaseException:
        saved = target / MANIFEST
        if not saved.exists() or generation not in saved.read_text(encoding="utf-8"):
            shutil.rmtree(target / generation, ignore_errors=True)
        raise
    for old in target.iterdir():  # of earlier saves, finished or killed
        if OWN_FILES.fullmatch(old.name):
            if old.name.startswith("data-") and old.name != generation:
                shutil.rmtree(old, ignore_errors=True)
            elif old.name.endswith(".tmp"):
                old.unlink(missing_ok=True)


def _write_data(data: Path, snapshot: Snapshot) -> None:
    (data / "bm25").mkdir(parents=True)
    with (data / "nodes.jsonl").open("w", encoding="utf-8") as file:
        for node_id, record in snapshot.records.items():
            file.write(json.dumps({"id": node_id, **record}) + "\n")
    (data / "files.json").write_text(json.dumps(snapshot.files), encoding="utf-8")
    snapshot.words.save(data / "bm25")
    if isinstance(snapshot.vectors, FaissStore):
        snapshot.vectors.persist(data / "vectors.faiss")
    if isinstance(snapshot.embedder, AnyEmbedding):
        (data / "probe.json").write_text(json.dumps({"vector": snapshot.embedder.probe}), encoding="utf-8")


def _manifest(data: Path, snapshot: Snapshot, parser: CodeNodeParser) -> dict[str, Any]:
    embedder = snapshot.embedder
    return {
        "format": FORMAT,
        "generation": data.name,
        "fingerprint": embedder.fingerprint,
        "adapters": {language: fingerprint for language, fingerprint in embedder.fingerprints.items() if language},
        "dim": embedder.dim,
        "embedding": embedder.to_dict(),
        "parser": snapshot.parser_settings or parser.to_dict(),
        "vector_store": snapshot.vectors.class_name(),
        "roots": list(snapshot.roots),
        "sources": snapshot.sources.given(),
        "files": len(snapshot.files),
        "nodes": len(snapshot.records),
        "updated": snapshot.updated,
        "contents": {
            path.relative_to(data).as_posix(): sha256(path) for path in sorted(data.rglob("*")) if path.is_file()
        },
    }


class LoadedIndex(NamedTuple):
    """The parts of an index that :func:`load` has read."""

    embedder: Embedder
    parser: CodeNodeParser
    vector_store: BasePydanticVectorStore
    snapshot: Snapshot


def load(
    folder: str | Path,
    *,
    embedding: BaseEmbedding | None = None,
    parser: CodeNodeParser | None = None,
    vector_store: BasePydanticVectorStore | None = None,
    query_encoder: str | Path | None = None,
    cache_folder: str | Path | None = None,
    device: str | None = None,
    words_only: bool = False,
) -> LoadedIndex:
    """Read what :func:`save` wrote; see :meth:`CodeIndex.load` for the options and the errors."""
    target = Path(folder)
    options = {"query_encoder": query_encoder, "cache_folder": cache_folder, "device": device}
    model_options = [name for name, value in options.items() if value is not None]
    if embedding is not None and model_options:
        raise ValueError(f"give {', '.join(model_options)} to the embedding, or leave the embedding out")
    if words_only and (embedding is not None or model_options):
        raise ValueError(f"words_only loads no model; leave out {', '.join(model_options) or 'embedding'}")
    manifest = read_manifest(target)
    embedder = None if embedding is None else embedder_of(embedding)
    if embedder is not None:
        _check_model(target, manifest, embedder)
    while True:
        try:
            data = _read_data(target, manifest, vector_store)
            break
        except (OSError, ValueError) as error:
            newer = read_manifest(target)
            if newer["generation"] == manifest["generation"]:
                if isinstance(error, FileNotFoundError):
                    raise ValueError(damaged(target, manifest, f"{error.filename} is missing")) from error
                raise
            manifest = newer  # an update replaced the files while they were read
    parser = _restore_parser(target, manifest, parser)
    if words_only:
        embedder = _unloaded_model(manifest)
    elif embedder is None:
        embedder = _load_model(target, manifest, query_encoder, cache_folder, device)
    _check_model(target, manifest, embedder, probe=data.probe)
    snapshot = Snapshot(
        vectors=data.vectors,
        embedder=copy.deepcopy(embedder),
        files=data.files,
        records=data.records,
        words=data.words,
        without_vector=_without_vector(target, manifest, data),
        roots=tuple(manifest["roots"]),
        sources=saved_source_options(target, manifest),
        parser_settings=manifest["parser"],
        updated=manifest["updated"],
    )
    return LoadedIndex(embedder, parser, data.vectors, snapshot)


class _Data(NamedTuple):
    vectors: BasePydanticVectorStore
    files: dict[str, FileRecord]
    records: dict[str, NodeRecord]
    words: LexicalIndex
    probe: list[float] | None


def _read_data(target: Path, manifest: dict[str, Any], vectors: BasePydanticVectorStore | None) -> _Data:
    if vectors is None and manifest["vector_store"] != FaissStore.class_name():
        raise ValueError(f"{target} keeps its vectors in a {manifest['vector_store']}; pass it as vector_store")
    data = target / manifest["generation"]
    for name, digest in manifest["contents"].items():
        if sha256(data / name) != digest:
            raise ValueError(damaged(target, manifest, f"{data / name} is not what was written"))
    records: dict[str, NodeRecord] = {}
    with (data / "nodes.jsonl").open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            node_id = record.pop("id")
            records[node_id] = upgrade_record(node_id, record) if manifest["format"] == 2 else record
    probe = data / "probe.json"
    return _Data(
        vectors=FaissStore.from_persist_path(data / "vectors.faiss") if vectors is None else vectors,
        files=json.loads((data / "files.json").read_text(encoding="utf-8")),
        records=records,
        words=LexicalIndex.load(data / "bm25", size=len(records)),
        probe=json.loads(probe.read_text(encoding="utf-8"))["vector"] if probe.exists() else None,
    )


def _load_model(
    target: Path,
    manifest: dict[str, Any],
    query_encoder: str | Path | None,
    cache_folder: str | Path | None,
    device: str | None,
) -> CodeEmbedding:
    saved = dict(manifest["embedding"])
    if saved.get("class_name") != CodeEmbedding.class_name():
        raise ValueError(
            f"the index in {target} was built with the model {saved.get('model_name')!r} of the class "
            f"{saved.get('class_name')}; pass that model as embedding"
        )
    for name in ("precision", "query_encoder"):  # choices of each machine and each search
        saved.pop(name, None)
    if query_encoder is None:  # _check_model names both models; with a query encoder the base may never be loaded
        del saved["fingerprint"]
    return CodeEmbedding(**saved, query_encoder=query_encoder, cache_folder=cache_folder, device=device)


def _unloaded_model(manifest: dict[str, Any]) -> UnloadedModel:
    fingerprint = manifest["fingerprint"]
    by_language = {"": fingerprint, **manifest["adapters"]}
    return UnloadedModel(manifest["embedding"], manifest["dim"], fingerprint, by_language)


def _check_model(
    target: Path, manifest: dict[str, Any], embedder: Embedder, *, probe: list[float] | None = None
) -> None:
    is_same = embedder.fingerprint == manifest["fingerprint"]
    if is_same and probe is not None and isinstance(embedder, AnyEmbedding):
        is_same = embedder.is_like(probe)
    if is_same:
        return
    old, new = manifest["adapters"], embedder.fingerprints
    others = sorted(
        language for language in {*old, *new} - {""} if old.get(language, "none") != new.get(language, "none")
    )
    reason = f" (another adapter for {', '.join(others)})" if others else ""
    if embedder.fingerprint == manifest["fingerprint"]:
        reason = " but computes other vectors"
    raise ValueError(
        f"the index in {target} was built by model {manifest['embedding'].get('model_name')!r} with fingerprint "
        f"{manifest['fingerprint']}, but this model has fingerprint {embedder.fingerprint}{reason}; "
        f"rebuild it with: {rebuild_command(target, manifest)}"
    )


def _restore_parser(target: Path, manifest: dict[str, Any], parser: CodeNodeParser | None) -> CodeNodeParser:
    saved = manifest["parser"]
    if parser is not None:
        settings = parser.to_dict()
        changed = [name for name, value in saved.items() if name != "version" and settings.get(name) != value]
        if changed:
            differences = ", ".join(f"{name}={saved[name]!r}, not {settings.get(name)!r}" for name in changed)
            raise ValueError(f"the index in {target} was built by a parser with {differences}; pass an equal one")
        return parser
    class_name = saved.get("class_name", CodeNodeParser.class_name())
    if class_name != CodeNodeParser.class_name():
        raise ValueError(f"the index in {target} was built by a parser of the class {class_name}; pass it as parser")
    id_func = saved.get("id_func", {}).get("id_func_name", default_id_func.__name__)
    if id_func != default_id_func.__name__:
        raise ValueError(
            f"the index in {target} was built by a parser with the function {id_func!r} as id_func, which cannot be "
            "restored from its name; pass parser=CodeNodeParser(id_func=…)"
        )
    if saved.get("max_tokens") is not None:
        raise ValueError(
            f"the index in {target} was built by a parser with max_tokens={saved['max_tokens']} and a tokenizer, which "
            "is not saved; pass parser=CodeNodeParser(max_tokens=…, tokenizer=…)"
        )
    return CodeNodeParser.from_dict(saved)


def _without_vector(target: Path, manifest: dict[str, Any], data: _Data) -> frozenset[str]:
    """Return the nodes that the vector store does not hold.

    Raises:
        ValueError: it holds none of them.
    """
    store, records = data.vectors, data.records
    if isinstance(store, FaissStore):
        missing = frozenset(node_id for node_id in records if node_id not in store)
    else:
        any_query = np.full(manifest["dim"], manifest["dim"] ** -0.5).tolist()
        hits = search_among(store, any_query, top_k=len(records), wanted=records.keys()) if records else []
        missing = frozenset(records.keys() - {node_id for node_id, _ in hits})
    if records and len(missing) == len(records):
        raise ValueError(
            f"the {store.class_name()} holds none of the {len(records)} nodes of the index in {target}; pass the store "
            f"that was in use when the index was saved, or rebuild it with: {rebuild_command(target, manifest)}"
        )
    if missing:
        logger.warning(
            "the %s lacks %d of the %d nodes of the index in %s; the next update embeds them again",
            *(store.class_name(), len(missing), len(records), target),
        )
    return missing
