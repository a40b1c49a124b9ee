"""The index of a code base: its files, vectors and words. The public names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamaindex_code_retrieval._optional import lazy_attributes

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.faiss_store import FaissStore
    from llamaindex_code_retrieval.index.source_options import SourceOptions
    from llamaindex_code_retrieval.index.update import IndexReport

_MODULES = {
    "CodeIndex": "code_index",
    "FaissStore": "faiss_store",
    "IndexReport": "update",
    "SourceOptions": "source_options",
}

__all__ = ["CodeIndex", "FaissStore", "IndexReport", "SourceOptions"]

__getattr__ = lazy_attributes(__name__, _MODULES)
