"""The index of a code base: its files, vectors and words. The public names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.faiss_store import FaissStore
    from llamaindex_code_retrieval.index.update import IndexReport

_HOMES = {"CodeIndex": "code_index", "FaissStore": "faiss_store", "IndexReport": "update"}

__all__ = ["CodeIndex", "FaissStore", "IndexReport"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
