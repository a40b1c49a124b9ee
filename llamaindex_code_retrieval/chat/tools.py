"""Tools for agents: search, read and list the code of an index, and find what is related to a place."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from llama_index.core.llms import LLM
from llama_index.core.schema import MetadataMode
from llama_index.core.tools import BaseTool, FunctionTool, QueryEngineTool

from llamaindex_code_retrieval.chat.context import CodeContextPostprocessor
from llamaindex_code_retrieval.chat.engines import code_query_engine
from llamaindex_code_retrieval.chat.excerpts import more_lines, numbered_lines, place_line
from llamaindex_code_retrieval.chat.passages import Passage, passages_of
from llamaindex_code_retrieval.chat.question import check_question
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.ignore import Globs
from llamaindex_code_retrieval.index.places import Place, rows_at

_Arguments = ParamSpec("_Arguments")

_TOKENS = 3000  # of the passages that a search returns
_HITS = 20
_LINES = 200
_FILES = 200


def code_tools(index: CodeIndex[Any], *, llm: LLM | str | None = None) -> list[BaseTool]:
    """Return tools for an agent: ``search_code``, ``read_code``, ``find_related`` and ``list_files``.

    They show files of the index only, as they were when it was last updated. Outputs are limited; they say what is left
    out, and how to get it. An argument that is wrong is answered by a text that begins with "error:".

    With ``llm`` there is a fifth tool, ``ask_code``, in which this LLM answers from the code, with citations.
    """
    tools = _CodeTools(index)
    functions = (tools.search_code, tools.read_code, tools.find_related, tools.list_files)
    made: list[BaseTool] = [FunctionTool.from_defaults(_reporting(function)) for function in functions]
    if llm is not None:
        made.append(
            QueryEngineTool.from_defaults(
                code_query_engine(index, llm=llm),
                name="ask_code",
                description="Answers a question about the code base, with citations of files and lines.",
            )
        )
    return made


class _CodeTools:
    def __init__(self, index: CodeIndex[Any]) -> None:
        self._index = index
        self._context = CodeContextPostprocessor(index, max_tokens=_TOKENS)

    def search_code(self, question: str, top_k: int = 5) -> str:
        """Search the code base by a question in natural language, or by names; return the best passages (up to 20)."""
        check_question(question)
        hits = self._index.search(question, top_k=_at_most(top_k))
        passages = self._context.postprocess_nodes(hits, query_str=question)
        shown = [each.node.get_content(MetadataMode.LLM) for each in passages]
        return "\n\n".join(shown) or "nothing was found; ask in other words"

    def read_code(self, place: str) -> str:
        """Read a file (PATH), some of its lines (PATH:FIRST-LAST), or the definition at a line (PATH:LINE)."""
        wanted = Place.parse(place)
        with self._index.view(words=False) as view:
            rows = rows_at(view.reading, wanted, [Path(root) for root in self._index.roots])
        lines: dict[int, str] = {}
        for row in rows:
            for number, line in enumerate(row.text.split("\n"), start=row.metadata.get("start_line", 1)):
                lines.setdefault(number, line)
        if wanted.first is not None and wanted.last is not None and wanted.first < wanted.last and not wanted.cell:
            lines = {number: line for number, line in lines.items() if wanted.first <= number <= wanted.last}
        first, last = min(lines), max(lines)
        shown = range(first, min(last, first + _LINES - 1) + 1)
        texts = [f"{rows[0].path}:{first}-{shown[-1]}"]
        texts += numbered_lines(lines, shown)
        if shown[-1] < last:
            texts.append(more_lines(rows[0].path, shown[-1], last))
        return "\n".join(texts)

    def find_related(self, place: str, top_k: int = 10) -> str:
        """Find code that calls, is called by, is similar to, or belongs to what is at PATH:LINE; at most 20 places."""
        found = self._index.related(place, top_k=_at_most(top_k))
        lines = [
            place_line(passage.path, passage.ranges, passage.scope, hit.node.metadata["related"])
            for hit, passage in zip(found, passages_of(found), strict=True)
        ]
        return "\n".join(lines) or "nothing is related"

    def list_files(self, glob: str = "") -> str:
        """List the files of the code base, at most 200; a glob such as src/** or *.py restricts them."""
        globs = Globs.parse([glob]) if glob else None
        with self._index.view(words=False) as view:
            paths = [path for path in view.reading.paths() if globs is None or globs.matches(path)]
        more = [f"({len(paths) - _FILES} more; restrict them by a glob)"] if len(paths) > _FILES else []
        names = [Passage(path, "").place for path in paths[:_FILES]]
        return "\n".join([*names, *more]) or "no file matches; list all by an empty glob"


def _at_most(top_k: int) -> int:
    return max(1, min(top_k, _HITS))


def _reporting(function: Callable[_Arguments, str]) -> Callable[_Arguments, str]:
    """Return a function whose wrong arguments are told the agent, which can then try others."""

    @wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> str:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            return f"error: {error}"

    return call
