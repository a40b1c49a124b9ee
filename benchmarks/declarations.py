"""Declarations found by regular expressions: the reference of ``definitions.py`` where ctags has no parser."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ctags import Tag

_C_TOKENS = r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\""


@dataclass(frozen=True, slots=True)
class Declarations:
    """Comments and strings of a language, which are blanked, and patterns of declarations by kind.

    The name of a declaration is the group ``name`` of its pattern, and its line that of the name.
    """

    skipped: str
    patterns: Mapping[str, str]
    optional: str = ""


_NO_STATEMENT = r"(?!(?:if|for|while|switch|catch|return|await|throw|new|else|do|assert|yield|case|super|this)\b)"
_DART_TYPE = r"(?:[\w$<>,.?\[\]() ]*?[ \t])??"
_TYPE_PARAMETERS = r"(?:<(?:[^<>()]|<(?:[^<>()]|<[^<>()]*>)*>)*>)?"
_PARAMETERS = r"\((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*\)"
DECLARATIONS: Mapping[str, Declarations] = {
    "starlark": Declarations(
        r"\"\"\".*?\"\"\"|#[^\n]*",
        {
            "function": r"^def[ \t]+(?P<name>\w+)|^[\w.]+\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*?"
            r"\bname[ \t]*=[ \t]*[\"'](?P<name2>[^\"'\n]+)",
        },
    ),
    "swift": Declarations(
        r"\"\"\".*?\"\"\"|" + _C_TOKENS,
        {
            "class": r"(?:^|[ \t])(?:class|struct|enum|protocol|extension|actor|typealias)[ \t]+"
            r"(?!func\b|var\b|let\b|subscript\b)(?P<name>\w+(?:\.\w+)*)",
            "function": r"(?:^|[ \t])func[ \t]+(?P<name>`?\w+`?|[^\w\s(]+)[ \t]*[<(]|"
            r"(?:^|(?<=[ \t]))(?P<name2>init|deinit)\b[ \t]*[?!]?[ \t]*[<({]",
        },
    ),
    "scala": Declarations(
        r"\"\"\".*?\"\"\"|" + _C_TOKENS,
        {
            "class": r"(?:^|[ \t])(?:class|object|trait|enum)[ \t]+(?P<name>\w+)",
            "function": r"(?:^|[ \t])def[ \t]+(?P<name>`[^`\n]+`|[\w$]+(?:(?<=_)[^\w\s(\[:`]+)?|[^\w\s(\[`]+)",
        },
        optional=r"(?:^|[ \t])(?:type|given)[ \t]+(?P<name>\w+)",
    ),
    "dart": Declarations(
        r"r?'''.*?'''|r?\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|" + _C_TOKENS,
        {
            "class": r"^[ \t]*(?:(?:abstract|base|final|sealed|interface|mixin)[ \t]+)*(?:class|mixin|enum|extension"
            r"(?:[ \t]+type(?:[ \t]+const)?)?)[ \t]+(?!on\b)(?P<name>[\w$]+)|"
            r"^[ \t]*typedef[ \t]+(?:[\w$.<>?, ]+[ \t]+)?(?P<name2>[\w$]+)(?:<.*?>)?\s*[=(]|"
            r"^[ \t]*extension[ \t]+on[ \t]+(?:[a-z_]\w*\.)?(?P<name3>[\w$]+)",
            "function": rf"^[ \t]*{_NO_STATEMENT}{_DART_TYPE}(?:[\w$]+\.)?(?P<name>{_NO_STATEMENT}[\w$]+)"
            rf"{_TYPE_PARAMETERS}{_PARAMETERS}\s*(?:async\*?|sync\*)?\s*(?:\{{|=>)|"
            rf"^[ \t]*{_DART_TYPE}(?:get|set)[ \t]+(?P<name2>[\w$]+)\s*(?:async\*?|sync\*)?\s*[({{=;]",
        },
        # operators, abstract methods, constructors without a body, local functions
        optional=r"\b(?P<name>operator[ \t]*(?:\[\]=?|[^\w\s(]+))|"
        rf"^[ \t]*{_NO_STATEMENT}{_DART_TYPE}(?:[\w$]+\.)?(?P<name2>[\w$]+){_TYPE_PARAMETERS}{_PARAMETERS}\s*[;:=]|"
        r"^[ \t]*(?:[\w$<>?, ]+[ \t])?(?P<name3>[\w$]+)\s*=\s*(?:[\w$.<>, ]*\()?\([^()]*\)\s*(?:async)?\s*(?:\{|=>)",
    ),
    "zig": Declarations(
        r"//[^\n]*|\\\\[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'",
        {
            "class": r"\bconst[ \t]+(?P<name>\w+)(?:[ \t]*:[ \t]*type)?[ \t]*=[ \t]*(?:packed[ \t]+|extern[ \t]+)?"
            r"(?:struct|enum|union|opaque)\b",
            "function": r"\bfn[ \t]+(?P<name>\w+)[ \t]*\(",
        },
    ),
    "solidity": Declarations(
        _C_TOKENS,
        {
            "class": r"^[ \t]*(?:abstract[ \t]+)?(?:contract|interface|library|struct|enum)[ \t]+(?P<name>\w+)",
            "function": r"^[ \t]*(?:function|modifier)[ \t]+(?P<name>[\w$]+)|^[ \t]*(?P<name2>constructor)[ \t]*\(",
        },
        optional=r"^[ \t]*(?:event|error|type)[ \t]+(?P<name>\w+)|^[ \t]*(?P<name2>receive|fallback)[ \t]*\(",
    ),
    "hcl": Declarations(
        r"#[^\n]*|//[^\n]*|/\*.*?\*/|<<[~-]?(\w+)\n.*?^[ \t]*\1$",
        {
            "class": r"^[a-z_]\w*[ \t]+(?:\"[^\"\n]*\"[ \t]+)*\"(?P<name>[^\"\n]+)\"[ \t]*\{|"
            r"^(?P<name2>[a-z_]\w*)[ \t]*\{",
        },
    ),
    "graphql": Declarations(
        r"\"\"\".*?\"\"\"|\"(?:\\.|[^\"\\\n])*\"|#[^\n]*",
        {
            "class": r"^[ \t]*(?:extend[ \t]+)?(?:type|interface|enum|input|union|scalar)[ \t]+(?P<name>\w+)",
            "function": r"^[ \t]*(?:query|mutation|subscription|fragment)[ \t]+(?P<name>\w+)",
        },
        # directives, fields
        optional=r"^[ \t]*directive[ \t]+(?P<name>@\w+)|^[ \t]+(?P<name2>\w+)[ \t]*[(:]",
    ),
    "powershell": Declarations(
        r"<\#.*?\#>|\#[^\n]*|@\"[ \t]*\r?\n.*?\n\"@|@'[ \t]*\r?\n.*?\n'@|'[^'\n]*'|\"(?:`.|[^\"`\n])*\"",
        {
            "class": r"^[ \t]*(?:class|enum)[ \t]+(?P<name>\w+)",
            "function": r"(?:^|\{)[ \t]*(?:[Ff]unction|[Ff]ilter|workflow)[ \t]+(?P<name>(?:\w+:)?[^\s(){}=]+)",
        },
        optional=r"^[ \t]+(?:(?:static|hidden)[ \t]+)*(?:\[[\w.\[\]]+\][ \t]*)?(?P<name>\w+)[ \t]*\(",
    ),
    "groovy": Declarations(
        r"\"\"\".*?\"\"\"|'''.*?'''|'(?:\\.|[^'\\\n])*'|" + _C_TOKENS,
        {
            "class": r"^[ \t]*(?:@\w+[ \t]+)?(?:(?:public|private|protected|static|final|abstract)[ \t]+)*"
            r"(?:class|interface|trait|enum|@interface)[ \t]+(?P<name>\w+)",
            "function": r"^[ \t]*(?:@\w+(?:\([^()\n]*\))?[ \t]+)*(?:(?:public|private|protected|static|final)[ \t]+)*"
            r"(?:<[^()\n]*>[ \t]*)?(?!return|else|new|throw|task)(?:[a-z]+|[A-Z][\w.]*(?:<[^()\n]*>)?)(?:\[\])*"
            r"[ \t]+(?P<name>\w+)[ \t]*" + _PARAMETERS + r"[ \t]*(?:throws[\w., \t]+)?\{",
        },
        optional=r"^[ \t]*(?:(?:public|private|protected)[ \t]+)?(?P<name>[A-Z]\w*)\(|\b(?P<name2>\w+)[ \t]*=[ \t]*\{",
    ),
    "ocaml": Declarations(  # ctags loses its place after the first signature
        r"\(\*.*?\*\)|'(?:\\.|[^'\\\n])'|\"(?:\\.|[^\"\\])*\"",
        {
            "class": r"^[ \t]*(?:type(?:[ \t]+nonrec)?[ \t]+(?:[-+]?(?:'\w+|_)[ \t]+|\([^()]*\)[ \t]*)?|"
            r"exception[ \t]+|class[ \t]+(?:type[ \t]+|virtual[ \t]+)?|module[ \t]+(?:type[ \t]+|rec[ \t]+)?)"
            r"(?P<name>(?!(?:of|type|_)\b)\w+\b)(?!\.)",
            "function": r"^let(?:\[@[^\]\n]*\])?[ \t]+(?:rec[ \t]+)?(?P<name>(?!rec\b)[a-z_][\w']*)[ \t]+(?=[^\s=:,])|"
            r"^[ \t]*(?:val|external|method(?:[ \t]+private)?)[ \t]+"
            r"(?:\([ \t]*)?(?P<name2>[a-z_][\w']*|[^\w\s()]+)",
        },
        optional=r"^[ \t]*(?:let[ \t]+(?:rec[ \t]+)?|and[ \t]+(?:[-+]?'\w+[ \t]+|\([^()\n]*\)[ \t]*)?)"
        r"(?P<name>[a-z_][\w']*)|\blet[ \t]+\([ \t]*(?P<name2>(?:let|and)?[^\w\s()]+)",
    ),
    "haskell": Declarations(
        r"\{-.*?-\}|--[^\n]*|\"(?:\\.|[^\"\\\n])*\"",
        {
            "class": r"^(?:data|newtype|type|class)[ \t]+(?:(?:family|instance)[ \t]+)?(?:[^\n=]*=>[ \t]*)?"
            r"(?P<name>[A-Z]\w*)",
            "function": r"^(?:\([ \t]*)?(?P<name>[a-z_][\w']*|[^\w\s()]+)(?:[ \t]*\))?\s*::",
        },
        optional=r"^[ \t]*(?:pattern[ \t]+)?(?!(?:module|import|data|type|newtype|class|instance|where|deriving|"
        r"infix[lr]?|default|foreign|pattern)\b)(?P<name>\w[\w']*)|"
        r"^instance[ \t]+(?:[^\n=]*=>[ \t]*)?(?P<name2>[A-Z].*?)[ \t]*(?:where.*)?$",
    ),
}


def declared(source: str, language: str) -> list[Tag]:
    """Return the declarations of ``source`` in the order of their lines.

    >>> [(tag.kind, tag.name, tag.line) for tag in declared('// fn a()\\nfn b() void {}\\n', "zig")]
    [('function', 'b', 2)]
    """
    rules = DECLARATIONS[language]
    code = re.sub(rules.skipped, lambda match: re.sub(r"[^\n]", " ", match[0]), source, flags=re.DOTALL | re.MULTILINE)
    tags: set[Tag] = set()
    for kind, pattern in [*rules.patterns.items(), ("optional", rules.optional)]:
        for match in re.finditer(pattern, code, re.MULTILINE) if pattern else ():
            group = next(name for name, text in match.groupdict().items() if text is not None)
            line = code.count("\n", 0, match.start(group)) + 1
            tags.add(Tag("class" if kind == "optional" else kind, match[group], line, kind != "optional", kind))
    return sorted(tags, key=lambda tag: (tag.line, tag.name))
