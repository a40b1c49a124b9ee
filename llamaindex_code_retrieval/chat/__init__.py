"""Answers from a code base: passages for a prompt, and citations. The public names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamaindex_code_retrieval._optional import lazy_attributes

if TYPE_CHECKING:
    from llamaindex_code_retrieval.chat.citations import CitationCheck, Citations, check_citations
    from llamaindex_code_retrieval.chat.context import CodeContextPostprocessor

_MODULES = {
    "CitationCheck": "citations",
    "Citations": "citations",
    "CodeContextPostprocessor": "context",
    "check_citations": "citations",
}

__all__ = ["CitationCheck", "Citations", "CodeContextPostprocessor", "check_citations"]

__getattr__ = lazy_attributes(__name__, _MODULES)
