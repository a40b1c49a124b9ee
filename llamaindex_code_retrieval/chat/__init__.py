"""Answers from a code base: passages for a prompt, and citations. The public names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamaindex_code_retrieval._optional import lazy_attributes

if TYPE_CHECKING:
    from llamaindex_code_retrieval.chat.attribution import Attribution, attribute_sentences
    from llamaindex_code_retrieval.chat.citations import CitationCheck, Citations, check_citations
    from llamaindex_code_retrieval.chat.context import CodeContextPostprocessor
    from llamaindex_code_retrieval.chat.engines import code_chat_engine, code_query_engine
    from llamaindex_code_retrieval.chat.llms import load_llm
    from llamaindex_code_retrieval.chat.tools import code_tools

_MODULES = {
    "Attribution": "attribution",
    "CitationCheck": "citations",
    "Citations": "citations",
    "CodeContextPostprocessor": "context",
    "attribute_sentences": "attribution",
    "check_citations": "citations",
    "code_chat_engine": "engines",
    "code_query_engine": "engines",
    "code_tools": "tools",
    "load_llm": "llms",
}

__all__ = [
    "Attribution",
    "CitationCheck",
    "Citations",
    "CodeContextPostprocessor",
    "attribute_sentences",
    "check_citations",
    "code_chat_engine",
    "code_query_engine",
    "code_tools",
    "load_llm",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
