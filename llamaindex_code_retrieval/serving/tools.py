"""The tools that agents call: what each is for, its arguments as a JSON schema, and its result as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llamaindex_code_retrieval.chat.question import MAX_QUESTION
from llamaindex_code_retrieval.index.places import Place
from llamaindex_code_retrieval.languages.outline import KINDS
from llamaindex_code_retrieval.serving.arguments import Arguments
from llamaindex_code_retrieval.serving.files import MAX_PATH
from llamaindex_code_retrieval.serving.service import CodeService
from llamaindex_code_retrieval.serving.tool_texts import (
    outline_text,
    read_text,
    related_text,
    search_text,
    status_text,
)

_LIMIT, _MAX_LIMIT = 8, 30
_FURTHER = 12
"""Places after the first ``limit`` that a search names by one line each."""

_SEARCH = """Search the code base by meaning and by words, ranked. Use it first, in place of grep and of listing \
files, for questions such as "where is the session cookie signed", for a symbol (`Flask.run`), for quoted code and for \
a stack trace. Returns the best places as `path:start-end scope`, the first with their code cut to the lines that \
matter (`...` stands for lines left out), and further places by one line each. Read more of a place with read_code."""
_READ = """Read a file, or lines of it, with line numbers, as it is on disk now. Use it after search_code, \
find_related or outline, with their `path`; `path:start-end` in one string works too. Long files come in pieces; the \
end of the result says how to read on. Only text files of the code base are read."""
_RELATED = """Find code that is related to a place: what calls or uses the definition at this line, what it calls or \
uses, the rest of its class, and code like it. Use it to see what a change affects, or to find examples and tests. \
Returns one line a place with the reason; names are matched, not types, so check before you rely on it."""
_OUTLINE = """List the definitions of a file with their lines and signatures; or the files and folders in a folder, \
with what each file defines. Use it to find your way without reading whole files. Without a path: the top of the code \
base."""
_STATUS = """Say which repositories are served, in which state their indexes are, how many files they have in which \
languages, and whether anything is not up to date. Use it when results seem to be missing."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool and what it does."""

    name: str
    title: str
    description: str
    properties: Mapping[str, Mapping[str, Any]]
    """The JSON schema of each argument."""
    required: tuple[str, ...]
    run: Callable[[CodeService, Arguments], str]

    def schema(self, repositories: list[str]) -> dict[str, Any]:
        """Return the JSON schema of its arguments; ``repository`` is one of them where there are several."""
        properties = dict(self.properties)
        if len(repositories) > 1 and self.properties:
            about = "Only this repository; paths in results begin with the name of theirs."
            properties["repository"] = {"type": "string", "enum": repositories, "description": about}
        return {
            "type": "object",
            "properties": properties,
            "required": list(self.required),
            "additionalProperties": False,
        }


def run_tool(service: CodeService, name: str, values: Mapping[str, Any]) -> str:
    """Return what a tool returns for arguments by name.

    Raises:
        ValueError: there is no such tool, or an argument is wrong; the message says what is right.
        TimeoutError: too many requests are running.
    """
    tool = next((tool for tool in TOOLS if tool.name == name), None)
    if tool is None:
        raise ValueError(f"there is no tool {name!r}; there are {', '.join(tool.name for tool in TOOLS)}")
    known = tool.schema([each.name for each in service.repositories])["properties"]
    unknown = ", ".join(sorted(map(repr, values.keys() - known.keys())))
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes no arguments"
        raise ValueError(f"{name} has no argument {unknown}; it {takes}")
    return tool.run(service, Arguments({key: _lenient(known[key], value) for key, value in values.items()}))


def _lenient(schema: Mapping[str, Any], value: Any) -> Any:
    """Return a single text in place of a list as a list: some models send it so."""
    return [value] if schema["type"] == "array" and isinstance(value, str) else value


def _several(service: CodeService) -> bool:
    return len(service.repositories) > 1


def _search(service: CodeService, arguments: Arguments) -> str:
    query = arguments.text("query", longest=None) or ""
    limit = arguments.number("limit", most=_MAX_LIMIT) or _LIMIT
    result = service.search(
        query,
        limit=limit + _FURTHER,
        repository=arguments.text("repository"),
        paths=arguments.texts("paths"),
        languages=arguments.texts("languages"),
        kind=arguments.text("kind"),
        include_tests=arguments.flag("include_tests", default=True),
    )
    return search_text(result, query, limit=limit, qualified=_several(service))


def _read(service: CodeService, arguments: Arguments) -> str:
    place = _place(arguments, arguments.number("start"))
    end = arguments.number("end")
    last = place.last if end is None and place.last != place.first else end
    read = service.read(place.path, place.first, last, repository=arguments.text("repository"))
    return read_text(read, wanted=last, qualified=_several(service))


def _related(service: CodeService, arguments: Arguments) -> str:
    place = _place(arguments, arguments.number("line"))
    limit = arguments.number("limit", most=_MAX_LIMIT) or _LIMIT
    found = service.related(place.path, place.first, limit=limit, repository=arguments.text("repository"))
    return related_text(found, qualified=_several(service))


def _place(arguments: Arguments, line: int | None) -> Place:
    """Return the place that the argument ``path`` names, at ``line`` if that is given."""
    path = arguments.required("path")
    place = Place(path, line, line) if line is not None else Place.parse(path)
    if place.cell is not None:
        raise ValueError(f"{path!r} names a cell; name the file and lines of it, as results do")
    return place


def _outline(service: CodeService, arguments: Arguments) -> str:
    outline = service.outline(arguments.text("path") or "", repository=arguments.text("repository"))
    return outline_text(outline, qualified=_several(service))


def _status(service: CodeService, arguments: Arguments) -> str:
    return status_text(service.status())


def _string(description: str, *, longest: int = MAX_PATH) -> dict[str, Any]:
    return {"type": "string", "description": description, "minLength": 1, "maxLength": longest}


def _number(description: str, **bounds: int) -> dict[str, Any]:
    return {"type": "integer", "description": description, "minimum": 1, **bounds}


def _strings(description: str) -> dict[str, Any]:
    items = {"type": "string", "minLength": 1, "maxLength": MAX_PATH}
    return {"type": "array", "description": description, "items": items, "maxItems": 20}


_PATH = _string("As in results, such as src/cart.py; or absolute, below a served folder.")

TOOLS = (
    Tool(
        "search_code",
        "Search code",
        _SEARCH,
        {
            "query": _string("What the code should do, in natural language, or a name.", longest=MAX_QUESTION),
            "limit": _number("Places that are quoted.", maximum=_MAX_LIMIT, default=_LIMIT),
            "paths": _strings("Only files that match one of these globs of .gitignore, such as src/** or *.go."),
            "languages": _strings("Only these languages, such as python or typescript."),
            "kind": {"type": "string", "description": "Only definitions of this kind.", "enum": list(KINDS)},
            "include_tests": {"type": "boolean", "description": "Whether tests are searched.", "default": True},
        },
        ("query",),
        _search,
    ),
    Tool(
        "read_code",
        "Read code",
        _READ,
        {
            "path": _PATH,
            "start": _number("First line, from 1 (default: the first)."),
            "end": _number("Last line (default: as many as fit)."),
        },
        ("path",),
        _read,
    ),
    Tool(
        "find_related",
        "Find related code",
        _RELATED,
        {
            "path": _PATH,
            "line": _number("A line of the definition (default: the whole file)."),
            "limit": _number("Places that are returned.", maximum=_MAX_LIMIT, default=_LIMIT),
        },
        ("path",),
        _related,
    ),
    Tool("outline", "Outline a file or folder", _OUTLINE, {"path": _PATH}, (), _outline),
    Tool("index_status", "Show the state of the index", _STATUS, {}, (), _status),
)
