"""The models that embed questions, each loaded once for all repositories that were indexed with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval.index.search import QuestionModel


class QuestionModels:
    """Loads the model of an index with its first question."""

    def __init__(self, *, fast_query: str | None = None) -> None:
        self.fast_query = fast_query
        """The query encoder that is used instead of the model, if any."""
        self._loaded: dict[str, QuestionModel] = {}
        self._lock = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether a model is in memory."""
        return bool(self._loaded)

    def load(self, settings: Mapping[str, Any], folder: Path) -> QuestionModel:
        """Return the model of the index in ``folder`` with these ``settings``.

        Raises:
            ValueError: it cannot be loaded, or is not the one that the index was built with.
        """
        key = json.dumps([settings["embedding"], settings["fingerprint"]], sort_keys=True)
        with self._lock:
            model = self._loaded.get(key)
            if model is None:
                model = QuestionModel.load(settings, fast_query=self.fast_query)
                model.check(settings, folder)
                self._loaded[key] = model
            return model


def check_searchable(settings: Mapping[str, Any], folder: Path) -> None:
    """Check that the index in ``folder`` can be searched without LlamaIndex objects of the caller.

    Raises:
        ValueError: its vectors are in a vector store, or another class of LlamaIndex made them.
    """
    if settings["vector_store"] is not None:
        raise ValueError(
            f"the vectors of the index in {folder} are in a {settings['vector_store']}, which only its own program can "
            "open; build an index that keeps them: code-retrieval index PATH --out DIR"
        )
    name = settings["embedding"].get("class_name")
    if name != "CodeEmbedding":
        raise ValueError(
            f"the index in {folder} was built with a {name}, which only its own program can load; build one with: "
            "code-retrieval index PATH --out DIR"
        )
