"""Stages of Dockerfiles, targets of makefiles, functions of CMake files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llamaindex_code_retrieval.languages.sections import Layout, SectionStart, comments_above

_MAX_NAME = 80  # characters
_COMMENT = re.compile(r"\s*#")

_STAGE = re.compile(r"\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_INSTRUCTION = re.compile(r"\s*[A-Za-z]+\s")
_HEREDOC = re.compile(r"<<-?[\"']?(\w+)")

_ABOVE_TARGET = re.compile(r"#|\.PHONY\b")
_TARGET = re.compile(r"(?!\$\((?:info|warning|error|eval|call|foreach)\b)([^\s#:=][^:=#]*)::?(?!=)")
_VARIABLE = re.compile(r"(?:export\s+|override\s+)*([\w.-]+)\s*(?:[:?+!]|::)?=")
_DEFINE = re.compile(r"define\s+(\S+)")

_CMAKE_DEFINITION = re.compile(r"\s*(function|macro)\s*\(\s*([^\s()]+)", re.IGNORECASE)
_COMMAND = re.compile(r"[A-Za-z_]\w*\s*\(")


def dockerfile_layout(lines: Sequence[str]) -> Layout:
    """Find the stages; a long one is cut between instructions."""
    starts: list[SectionStart] = []
    depths: dict[int, int] = {}
    continues, heredoc = False, ""
    last_rows = {line.strip(): row for row, line in enumerate(lines)}
    for row, line in enumerate(lines):
        text = line.strip()
        if heredoc:
            heredoc = "" if text == heredoc else heredoc
            continue
        if text.startswith("#") or (continues and not text):
            continue
        if not continues and text:
            first = comments_above(lines, row, _COMMENT)
            if stage := _STAGE.match(line):
                starts.append(SectionStart(first, 1, (stage[2] or stage[1])[:_MAX_NAME], first))
            elif _INSTRUCTION.match(line):
                depths[first] = 1
            here = _HEREDOC.search(line)
            if here is not None and last_rows.get(here[1], -1) > row:
                heredoc = here[1]
        continues = text.endswith("\\")
    return Layout(starts, depths)


def makefile_layout(lines: Sequence[str]) -> Layout:
    """Find targets, variables and ``define`` blocks."""
    starts: list[SectionStart] = []
    continues = in_define = False
    for row, line in enumerate(lines):
        was_continued, continues = continues, line.rstrip().endswith("\\")
        if in_define or was_continued or line.startswith(("\t", "#")):
            in_define = in_define and not line.startswith("endef")
            continue
        match = _DEFINE.match(line) or _VARIABLE.match(line) or _TARGET.match(line)
        if match is not None and not line.startswith(".PHONY"):
            in_define = match.re is _DEFINE
            first = comments_above(lines, row, _ABOVE_TARGET)
            starts.append(SectionStart(first, 1, match[1].rstrip(" \t&")[:_MAX_NAME], first))
    return Layout(starts)


def cmake_layout(lines: Sequence[str]) -> Layout:
    """Find functions and macros, and the paragraphs of commands between them."""
    starts: list[SectionStart] = []
    depths: dict[int, int] = {}
    end = ""  # the command that ends the function
    is_new = True
    for row, line in enumerate(lines):
        text = line.strip()
        if _COMMAND.match(text):
            depths[row] = 1 + len(line) - len(line.lstrip())
        definition = _CMAKE_DEFINITION.match(line)
        if definition is not None and (not end or line == text):
            first = comments_above(lines, row, _COMMENT)
            starts.append(SectionStart(first, 1, definition[2][:_MAX_NAME], first, "function"))
            end = f"end{definition[1].lower()}"
        elif end:
            end = "" if text.lower().startswith(end) else end
            is_new = True
        elif not text:
            is_new = True
        elif is_new and _COMMAND.match(line):
            first = comments_above(lines, row, _COMMENT)
            starts.append(SectionStart(first, 1, "", first))
            is_new = False
        else:
            is_new = is_new and text.startswith("#")
    return Layout(starts, depths)
