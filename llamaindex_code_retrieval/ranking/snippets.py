"""Find pasted code in a question."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llamaindex_code_retrieval.languages.table import LANGUAGES, language_of

_FENCE = re.compile(
    r"^[ \t]{0,3}(?P<fence>```|~~~)[ \t]*(?P<tag>[\w.+#-]*)[^\n`]*\n(?P<code>.*?)(?:^[ \t]{0,3}(?P=fence)|\Z)",
    re.MULTILINE | re.DOTALL,
)

_MARK_OF_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE)
_OTHER_NAMES = {"c++": "cpp", "c#": "csharp", "golang": "go", "objective-c": "objectivec", "shell": "bash"}

_MODIFIER = "abstract|async|default|export|final|inline|local|override|private|protected|pub|public|static|unsafe"
_KEYWORD = (
    "bool|class|const|enum|fn|fun|func|function|impl|int|interface|let|namespace|static|string|struct|trait|type|val|var"
    "|void"
)
_LINE_OF_CODE = re.compile(
    "|".join(
        (
            r"(?:async\s+)?def\s+[\w.]+.*(?:[:)]|end)\s*$",
            r"class\s+(?:\w+.*[:{]|[A-Z]\w*)\s*$",
            r"from\s+[\w.]+\s+import\s",
            r"import\s+(?:[\w.*{}\"'/@-]+;?\s*$|[\w.]+\s+as\s+\w+\s*$|[\w{}*, ]+\s+from\s)",
            r"#\s*include\s*[<\"]|#!|<\?php",
            r"@\w+(?:\.\w+)*(?:\(.*\))?\s*$",
            rf"(?:(?:{_MODIFIER})\s+)*(?:{_KEYWORD})\s+[\w$.:<>*&\[\], ]+(?:[=({{]|:\s*[\w\[])",
            r"(?:if|elif|for|while|switch|catch|with|match|else if|unless)\b.*[{):]\s*$",
            r"(?:else|try|finally|do|begin)\s*[:{]?\s*$",
            r"(?:return|yield|raise|throw|await|assert|print|echo)\b.*[;()\[\]{}=.]",
            r"[\w$.\[\]\"'@*, ]+(?:[-+*/|&%:?]|\|\|)?=\s*[^\n=]+$",
            r".*[;{}]\s*$|[)\]}]+[,;]?\s*$",
            r"[\w$.:>-]+\(.*\);?\s*$|\.\w+\(",
            r"(?://|/\*|\*/|--)|end\s*$",
        )
    )
)
_STRING = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`")
_WORDS_OF_CODE = re.compile(
    rf"\b(?:{_MODIFIER}|{_KEYWORD}|and|as|assert|await|char|double|else|extern|float|for|from|if|import|in|is|long|mut|new|not"
    r"|or|readonly|return|short|signed|throws|unsigned|using|with|yield)\b"
)
_PROSE = re.compile(r"(?<![\w$.])(?:[A-Za-z]+[ ,]+){2}[A-Za-z]+")
_SYMBOLS = re.compile(r"[;{}()\[\]=<>_.:#@*&|/\\\"'$]")
_LONGEST_LINE = 400


def find_snippet(text: str) -> tuple[str | None, str | None, str]:
    """Return the code that is pasted into a text, its language if the fence names it, and the rest of the text.

    Code stands between fences, or it is the longest run of lines that are written like code: at least two of them, or
    the only line of the text.

    >>> find_snippet("what does this do?\\n```go\\nx := 1\\n```")
    ('x := 1', 'go', 'what does this do?\\n\\n')
    """
    fences = list(_FENCE.finditer(text))
    if fences:
        code = "\n".join(fence["code"].rstrip("\n") for fence in fences if fence["code"].strip())
        return code or None, _language(fences[0]["tag"].lower()), _FENCE.sub("\n", text)
    lines = text.splitlines()
    first, end = _longest_run_of_code(lines)
    if end - first < 2 and not (end - first == sum(bool(line.strip()) for line in lines) == 1):
        return None, None, text
    return "\n".join(lines[first:end]), None, "\n".join([*lines[:first], *lines[end:]])


def without_fences(text: str) -> str:
    """Return a text without the marks of its fences."""
    return _MARK_OF_FENCE.sub("", text)


def _language(tag: str) -> str | None:
    tag = _OTHER_NAMES.get(tag, tag)
    language = tag if tag in LANGUAGES else language_of(f"_.{tag}")
    return language if language != "text" else None


def _longest_run_of_code(lines: Sequence[str]) -> tuple[int, int]:
    """Return the first line of the longest run of lines of code, and the line after it."""
    kinds = [False] * len(lines)
    for number, line in enumerate(lines):
        kinds[number] = _is_code(line, after_code=number > 0 and kinds[number - 1])
    best = (0, 0)
    start: int | None = None
    for number, kind in enumerate([*kinds, False]):
        if kind and start is None and lines[number].strip():
            start = number
        elif not kind and start is not None:
            best = max(best, (start, number), key=lambda run: (run[1] - run[0], -run[0]))
            start = None
    first, end = best
    while end > first and not lines[end - 1].strip():
        end -= 1
    return first, end


def _is_code(line: str, *, after_code: bool) -> bool:
    if len(line) > _LONGEST_LINE:
        return False
    if not line.strip():
        return after_code
    if line[:1] in " \t" and after_code:
        return True
    line = line.strip()
    if not _LINE_OF_CODE.match(line) or len(_SYMBOLS.findall(line)) * 12 < len(line) - 20:
        return False
    is_comment = line.startswith(("//", "/*", "--", "#"))
    return (is_comment and after_code) or not _PROSE.search(_WORDS_OF_CODE.sub(";", _STRING.sub(";", line)))
