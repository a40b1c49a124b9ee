"""Find the programming languages that a question names."""

from __future__ import annotations

import re

from llamaindex_code_retrieval.languages.table import language_of

# not in compounds such as `python-requests`, nor in names such as `java.util`
_NAMES = {
    "python": "python[23]?",
    "javascript": "javascript|(?-i:JS)",
    "typescript": "typescript|(?-i:TS)",
    "java": "java",
    "kotlin": "kotlin",
    "go": "golang",
    "php": "php",
    "ruby": "ruby",
    "rust": "rustlang",
    "zig": "(?-i:Zig)",
    "haskell": "haskell",
    "ocaml": "ocaml",
    "cpp": r"c\+\+(?:[0-9]{2})?|cpp",
    "csharp": "c#|csharp",
    "objectivec": "objective-c|objc",
    "scala": "scala",
    "perl": "(?-i:Perl)",
    "lua": "lua",
    "elixir": "elixir",
    "julia": "julialang",
    "solidity": "(?-i:Solidity)",
    "starlark": "starlark",
    "groovy": "(?-i:Groovy)",
    "cmake": "cmake",
    "makefile": "makefiles?",
    "dockerfile": "dockerfiles?",
    "hcl": "(?-i:Terraform|HCL)",
}
# words that are mostly something else: only as in `in Go` and `Go code`
_WORDS = {
    "go": "Go",
    "c": "C",
    "r": "R",
    "swift": "[Ss]wift",
    "rust": "[Rr]ust",
    "dart": "[Dd]art",
    "julia": "Julia",
    "zig": "zig",
    "perl": "perl",
    "solidity": "solidity",
    "groovy": "groovy",
    "bash": "[Bb]ash|shell|sh|zsh",
    "powershell": "[Pp]ower[Ss]hell",
    "sql": "SQL|sql",
    "graphql": "GraphQL|graphql",
    "protobuf": "[Pp]rotobuf|proto",
    "cuda": "CUDA|cuda",
    "vue": "Vue|vue",
    "svelte": "[Ss]velte",
}
_FORMATS = frozenset(("sql", "graphql", "protobuf", "vue", "svelte"))
_NAMED = re.compile(
    r"(?<![\w.+#-])(?<![^C]/)(?:"
    + "|".join(f"(?P<{name}>{words})" for name, words in _NAMES.items())
    + r")(?![\w+#-]|[./]\w)",
    re.IGNORECASE,
)
_ANY_WORD = "|".join(f"(?P<{name}>{words})" for name, words in _WORDS.items())
_LANGUAGE_WORD = "|".join(f"(?P<{name}>{words})" for name, words in _WORDS.items() if name not in _FORMATS)
_CODE_WORD = "|".join(
    f"(?P<{name}>{words})" for name, words in _WORDS.items() if name not in (*_FORMATS, "bash", "powershell")
)
_IN_LANGUAGE = re.compile(
    rf"\b[Ii]n\s+(?:{_LANGUAGE_WORD})(?![\w+#&-]|[.]\w|/\w(?!\+\+)|\s*&|\s+(?:to|the|a|of|that)\b)"
)
_CODE_IN_LANGUAGE = re.compile(
    rf"(?<![\w.+#&/-])(?:{_CODE_WORD})\s+(?:code|files?|functions?|source|sources|programs?|headers?|packages?|structs?"
    r"|kernels?)\b"
)
_IN_FILES = r"\b(?:[Ii]n|[Ii]nside|[Ww]hich|[Ww]hat)\s+(?:the\s+|a\s+|an\s+|all\s+)?"  # not those that the code reads
_FILES = r"\s+(?:files?|functions?|modules?|schemas?|scripts?|sources?)\b"
_IN_FILES_OF_LANGUAGE = re.compile(rf"{_IN_FILES}(?:{_ANY_WORD}){_FILES}")
_EXTENSION = re.compile(rf"{_IN_FILES}\*?(?P<extension>\.[A-Za-z+]{{1,10}}){_FILES}")


def named_languages(text: str) -> tuple[str, ...]:
    """Return the languages that a text names, as ``LANGUAGES`` calls them, in the order of the text.

    Words such as "go" and "swift" count only where they can be nothing else.

    >>> named_languages("in Python or Go code, as C++ does it")
    ('python', 'go', 'cpp')
    """
    found = [
        (match.start(match.lastgroup), match.lastgroup)
        for pattern in (_NAMED, _IN_LANGUAGE, _CODE_IN_LANGUAGE, _IN_FILES_OF_LANGUAGE)
        for match in pattern.finditer(text)
        if match.lastgroup
    ]
    found += [(match.start(), "c") for match in re.finditer(r"\bC/C\+\+", text)]
    for match in _EXTENSION.finditer(text):
        if language := language_of(f"a{match['extension']}"):
            found.append((match.start(), language))
    return tuple(dict.fromkeys(name for _, name in sorted(found)))
