"""Keys of YAML, TOML and INI files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamaindex_code_retrieval.languages.sections import Layout, SectionStart, comments_above

NAMING_KEYS = ("name", "id", "title", "key", "label", "uses", "repo", "hosts", "alias")
"""Keys whose value names an item of a list, the first before the others."""
_MAX_NAME = 80  # characters of a key or of the name of an item
_MAX_ITEMS = 10  # lists nested in one line

_HASH_COMMENT = re.compile(r"\s*#")
_YAML_SEPARATOR = re.compile(r"---(?:\s.*)?|\.\.\.\s*")
_YAML_QUOTED_KEY = re.compile(r"""("[^"]*"|'[^']*')\s*:(?:\s+|$)""")
_YAML_KEY_SEPARATOR = re.compile(r"\s*:(?:\s+|$)")
_NO_YAML_VALUE = re.compile(r"(?:[&!]\S*(?:\s+|$))*(?:#.*)?")

_TOML_TABLE = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?")
_TOML_NAME = r"""(?:"[^"]*"|'[^']*'|[\w-]++)"""
_TOML_KEY = re.compile(rf"\s*({_TOML_NAME}(?:\s*\.\s*{_TOML_NAME})*+)\s*=")
_TOML_TOKEN = re.compile(r"""\"\"\"|\'\'\'|"(?:[^"\\]|\\.)*+"?|'[^']*'?|#.*|[\[\]{}]""")

_INI_COMMENT = re.compile(r"\s*[#;!]")
_INI_SECTION = re.compile(r"\s*\[([^\]]+)\]\s*(?:[#;].*)?")
_INI_KEY = re.compile(r"(?:export\s+)?([\w$*.@/%-][^\s=:#;\[\]{}()<>\"']*)\s*[=:]")


@dataclass(slots=True)
class _Entry:
    """A key of a YAML mapping or an item of a sequence. ``place`` orders columns: an item before a key in it."""

    row: int
    place: int
    level: int
    name: str
    value: str
    is_item: bool


def yaml_layout(lines: Sequence[str]) -> Layout:
    """Find keys and items of lists; several documents are sections named by their ``kind`` and ``metadata.name``."""
    documents: list[tuple[int, list[_Entry]]] = [(0, [])]
    stack: list[_Entry] = []
    inside: int | None = None  # lines with a larger indent are part of a value
    for row, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if indent == len(line) or line[indent] == "#" or (inside is not None and indent > inside):
            continue
        inside = None
        if _YAML_SEPARATOR.fullmatch(line):
            documents.append((row, []))
            stack = []
            continue
        for entry in _yaml_entries(line, indent, row):
            while stack and stack[-1].place >= entry.place:
                stack.pop()
            entry.level = len(stack) + 1
            if stack and stack[-1].is_item and entry.name in NAMING_KEYS and entry.value:
                _name_item(stack[-1], entry)
            stack.append(entry)
            documents[-1][1].append(entry)
            if entry.value and not _NO_YAML_VALUE.fullmatch(entry.value):
                inside = entry.place // 2
    return Layout(list(_yaml_starts(lines, [document for document in documents if document[1]])))


def _yaml_entries(line: str, column: int, row: int) -> Iterator[_Entry]:
    """Yield the items and the key that start in a line."""
    for _ in range(_MAX_ITEMS):
        if not line.startswith(("- ", "-\t"), column) and line[column:].rstrip() != "-":
            break
        rest = line[column + 1 :].lstrip()
        key = _yaml_key(rest)
        is_scalar = key is None and not rest.startswith("- ")
        yield _Entry(row, 2 * column + 1, 0, "", rest if is_scalar else "", True)
        column = len(line) - len(rest)
        if not rest or is_scalar:
            return
    key = _yaml_key(line[column:])
    if key is not None:
        yield _Entry(row, 2 * column, 0, key[0], key[1], False)


def _yaml_key(text: str) -> tuple[str, str] | None:
    """Return the key and the value of a line of a mapping."""
    if match := _YAML_QUOTED_KEY.match(text):
        return match[1][1:-1][:_MAX_NAME], text[match.end() :].strip()
    match = _YAML_KEY_SEPARATOR.search(text, 0, 2 * _MAX_NAME)
    if match is None or match.start() == 0 or text[0] in "[]{}#|>@`\"'%,":
        return None
    return text[: match.start()][:_MAX_NAME], text[match.end() :].strip()


def _name_item(item: _Entry, entry: _Entry) -> None:
    if not item.name or entry.name == NAMING_KEYS[0]:
        item.name = _scalar(entry.value)


def _scalar(value: str) -> str:
    """Return a value without quotes and comment."""
    return value.split(" #")[0].strip(" \"'")[:_MAX_NAME]


def _yaml_starts(lines: Sequence[str], documents: Sequence[tuple[int, list[_Entry]]]) -> Iterator[SectionStart]:
    nesting = int(len(documents) > 1)
    for first, entries in documents:
        if nesting:
            yield SectionStart(first, 1, _document_name(entries), first)
        for entry in entries:
            row = comments_above(lines, entry.row, _HASH_COMMENT)
            yield SectionStart(row, entry.level + nesting, entry.name, row)


def _document_name(entries: Sequence[_Entry]) -> str:
    """Return the kind and the name of a Kubernetes object, or nothing."""
    kind = name = path = ""
    for entry in entries:
        if entry.level == 1:
            path = entry.name
        if entry.level == 1 and entry.name == "kind":
            kind = _scalar(entry.value)
        elif entry.level == 2 and path == "metadata" and entry.name == "name":
            name = _scalar(entry.value)
    return f"{kind} {name}".strip()[:_MAX_NAME]


def toml_layout(lines: Sequence[str]) -> Layout:
    """Find tables and their keys."""
    starts: list[SectionStart] = []
    in_table = 0
    quote, brackets = "", 0  # what is open at the start of the line
    for row, line in enumerate(lines):
        if not quote and brackets <= 0:
            brackets = 0
            table = _TOML_TABLE.fullmatch(line)
            match = table or _TOML_KEY.match(line)
            if match is not None:
                first = comments_above(lines, row, _HASH_COMMENT)
                level = 1 if table else 1 + in_table
                starts.append(SectionStart(first, level, match[1].strip()[:_MAX_NAME], first))
            if table:
                in_table = 1
                continue
        for token in _TOML_TOKEN.findall(line):
            if token in ('"""', "'''"):
                quote = "" if quote == token else quote or token
            elif not quote and len(token) == 1:
                brackets += 1 if token in "[{" else -1
    return Layout(starts)


def ini_layout(lines: Sequence[str]) -> Layout:
    """Find sections and keys of INI files, properties and files of environment variables."""
    starts: list[SectionStart] = []
    in_section = 0
    continues = False
    for row, line in enumerate(lines):
        was_continued, continues = continues, line.rstrip().endswith("\\")
        first = row
        if was_continued or _INI_COMMENT.match(line):
            continue
        if section := _INI_SECTION.fullmatch(line):
            in_section = 1
            first = comments_above(lines, row, _INI_COMMENT)
            starts.append(SectionStart(first, 1, section[1].strip()[:_MAX_NAME], first))
        elif key := _INI_KEY.match(line.lstrip() if in_section and line.startswith("\t") else line):
            first = comments_above(lines, row, _INI_COMMENT)
            starts.append(SectionStart(first, 1 + in_section, key[1][:_MAX_NAME], first))
    return Layout(starts)
