"""Split documents into nodes: functions, classes, sections and the code between them."""

from __future__ import annotations

from llamaindex_code_retrieval.chunking.parser import CodeNodeParser

__all__ = ["CodeNodeParser"]
