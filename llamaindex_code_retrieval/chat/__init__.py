"""Answers from a code base: passages for a prompt, and citations. The public names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamaindex_code_retrieval._optional import lazy_attributes

if TYPE_CHECKING:
    from llamaindex_code_retrieval.chat.citations import CitationCheck, Citations, check_citations
    from llamaindex_code_retrieval.chat.context import CodeContextPostprocessor
    from llamaindex_code_retrieval.chat.llms import load_llm

_MODULES = {
    "CitationCheck": "citations",
    "Citations": "citations",
    "CodeContextPostprocessor": "context",
    "check_citations": "citations",
    "load_llm": "llms",
}

__all__ = ["CitationCheck", "Citations", "CodeContextPostprocessor", "check_citations", "load_llm"]

__getattr__ = lazy_attributes(__name__, _MODULES)
