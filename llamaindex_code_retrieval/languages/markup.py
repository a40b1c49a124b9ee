"""Read HTML, Vue and Svelte files: the code in their ``<script>`` elements, and how their markup is nested."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

_MAX_VALUE = 2_000  # characters of an attribute in quotes
_START = re.compile(
    rf"""<!--|<(script|style|textarea)\b((?:[^>"']|"[^"]{{0,{_MAX_VALUE}}}"|'[^']{{0,{_MAX_VALUE}}}')*)>""",
    re.IGNORECASE,
)
_ENDS = {name: re.compile(rf"</{name}\b", re.IGNORECASE) for name in ("script", "style", "textarea")}
_COMMENT_END = re.compile("-->")
_ATTRIBUTE = re.compile(r"""(?:^|\s)(?:type|lang)\s*=\s*["']?([^\s"'>]*)""", re.IGNORECASE)
_CODE_TYPE = re.compile(
    r"(?:(?:text|application)/)?(?:(?:x-)?(?:java|ecma|type)script|babel|module|[jt]sx?)?$", re.IGNORECASE
)
_NOT_LINE_BREAK = re.compile(r"[^\r\n]")


def only_scripts(raw: bytes) -> bytes:
    """Return a source in which all but the JavaScript and TypeScript of its ``<script>`` elements is spaces.

    >>> only_scripts(b'<b>1</b><script lang="ts">f()</script><script type="application/json">{}</script>').split()
    [b'f()']
    """
    text = raw.decode("latin-1")  # a character is a byte
    result, end = [], 0
    for start, stop in _raw_content(text):
        is_script = (start[1] or "").lower() == "script"
        if is_script and all(_CODE_TYPE.match(value) for value in _ATTRIBUTE.findall(start[2])):
            result += [_blank(text[end : start.end()]), text[start.end() : stop]]
            end = stop
    return "".join([*result, _blank(text[end:])]).encode("latin-1")


def without_raw_content(text: str, *, comments: bool) -> str:
    """Return a source in which what stands in scripts, styles and text areas is spaces, and perhaps in comments.

    >>> without_raw_content("<script>f()</script><!-- <b> --><b>", comments=True)
    '<script>   </script><!--     --><b>'
    """
    result, end = [], 0
    for start, stop in _raw_content(text):
        if comments or start[1]:
            result += [text[end : start.end()], _blank(text[start.end() : stop])]
            end = stop
    return "".join([*result, text[end:]])


def _raw_content(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Yield the start tags of elements without markup in them, and of comments, and where their content ends."""
    position = 0
    unclosed: set[re.Pattern[str]] = set()
    while start := _START.search(text, position):
        position = start.end()
        end = _ENDS[start[1].lower()] if start[1] else _COMMENT_END
        stop = None if end in unclosed else end.search(text, position)
        if stop is None:
            unclosed.add(end)
        else:
            position = stop.start()
            yield start, position


def markup_depths(lines: Sequence[str], code: Mapping[int, int]) -> dict[int, int]:
    """Return the depths of the rows of markup by their indentation; ``code`` has those in scripts."""
    depths = {row: _indentation(line) // 2 for row, line in enumerate(lines) if line.strip()}
    return depths | {row: depth + 1 for row, depth in code.items()}  # a script is inside its element


def _blank(text: str) -> str:
    return _NOT_LINE_BREAK.sub(" ", text)


def _indentation(line: str) -> int:
    return len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())
