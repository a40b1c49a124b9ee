"""Find the right code for a question, inside LlamaIndex.

The public names load on first use, so that importing the package, or its light parts, does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval._optional import lazy_attributes

if TYPE_CHECKING:
    from llamaindex_code_retrieval.cache import EmbeddingCache
    from llamaindex_code_retrieval.chat.context import CodeContextPostprocessor
    from llamaindex_code_retrieval.chat.engines import code_chat_engine, code_query_engine
    from llamaindex_code_retrieval.chat.tools import code_tools
    from llamaindex_code_retrieval.chunking import CodeNodeParser
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.faiss_store import FaissStore
    from llamaindex_code_retrieval.index.filters import NodeFilter
    from llamaindex_code_retrieval.models.encoder import Encoder
    from llamaindex_code_retrieval.reranker import CodeReranker
    from llamaindex_code_retrieval.retriever import CodeRetriever

    __version__: str

_MODULES = {
    "CodeContextPostprocessor": "chat.context",
    "CodeEmbedding": "embedding",
    "CodeIndex": "index.code_index",
    "CodeNodeParser": "chunking",
    "CodeReranker": "reranker",
    "CodeRetriever": "retriever",
    "EmbeddingCache": "cache",
    "Encoder": "models.encoder",
    "FaissStore": "index.faiss_store",
    "NodeFilter": "index.filters",
    "code_chat_engine": "chat.engines",
    "code_query_engine": "chat.engines",
    "code_tools": "chat.tools",
}

__all__ = [
    "CodeContextPostprocessor",
    "CodeEmbedding",
    "CodeIndex",
    "CodeNodeParser",
    "CodeReranker",
    "CodeRetriever",
    "EmbeddingCache",
    "Encoder",
    "FaissStore",
    "NodeFilter",
    "code_chat_engine",
    "code_query_engine",
    "code_tools",
]

_load = lazy_attributes(__name__, _MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    return _load(name)


def _version() -> str:
    """Return the installed version, or that of ``pyproject.toml`` in a checkout that is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version("llamaindex-code-retrieval")
    except importlib.metadata.PackageNotFoundError:
        import tomllib
        from pathlib import Path

        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
        try:
            return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
        except (OSError, ValueError, KeyError):
            return "0+unknown"
