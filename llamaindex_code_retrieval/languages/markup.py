"""Read HTML, Vue and Svelte files: the code in their ``<script>`` elements, and how their markup is nested."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_SCRIPT = re.compile(rb"(?is)<!--.*?-->|<script\b((?:[^>\"']|\"[^\"]*\"|'[^']*')*)>(.*?)</script\s*>")
_ATTRIBUTE = re.compile(rb"""(?i)(?:^|\s)(?:type|lang)\s*=\s*["']?([^\s"'>]*)""")
_CODE_TYPE = re.compile(rb"(?i)(?:(?:text|application)/)?(?:(?:x-)?(?:java|ecma|type)script|babel|module|[jt]sx?)?$")
_NOT_LINE_BREAK = re.compile(rb"[^\r\n]")


def only_scripts(raw: bytes) -> bytes:
    """Return a source in which all but the JavaScript and TypeScript of its ``<script>`` elements is spaces.

    >>> only_scripts(b'<b>1</b><script lang="ts">f()</script><script type="application/json">{}</script>').split()
    [b'f()']
    """
    result, end = [], 0
    for match in _SCRIPT.finditer(raw):
        if match[2] and all(_CODE_TYPE.match(value) for value in _ATTRIBUTE.findall(match[1])):
            result += [_blank(raw[end : match.start(2)]), match[2]]
            end = match.end(2)
    return b"".join([*result, _blank(raw[end:])])


def markup_depths(lines: Sequence[str], code: Mapping[int, int]) -> dict[int, int]:
    """Return the depths of the rows of markup by their indentation; ``code`` has those in scripts."""
    depths = {row: _indentation(line) // 2 for row, line in enumerate(lines) if line.strip()}
    return depths | {row: depth + 1 for row, depth in code.items()}  # a script is inside its element


def _blank(raw: bytes) -> bytes:
    return _NOT_LINE_BREAK.sub(b" ", raw)


def _indentation(line: str) -> int:
    return len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())
