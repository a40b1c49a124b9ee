"""The regular expressions that find definitions in languages without a grammar."""

from __future__ import annotations

from dataclasses import dataclass

from llamaindex_code_retrieval.languages.tokens import SQL_STRING


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that finds definitions in a language without a grammar; ``^`` and ``$`` are ends of rows.

    Its group ``name`` is the name, with or without quotes. Other groups add to it, if there are such: ``owner`` is the
    type and ``qualifier`` the schema in front of it, and ``call`` a word that becomes part of the name, as in
    ``task build``. Comments are spaces to it.

    The definition ends where the brackets end that the match leaves open; if it leaves none open, with the match. With
    ``has_body``, the brackets that the match leaves open are those of the parameters, and the definition ends with the
    block in braces or the statement that follows them. With ``is_whole`` the match is the definition.

    With ``calls``, a match among the arguments of a call counts only if the call has one of these names.
    """

    kind: str
    """"function" (in a class, a method), "method", "class", "module", which is a class whose functions are no methods,
    or "scope", which is only part of the names in it."""
    expression: str
    has_body: bool = False
    is_whole: bool = False
    calls: tuple[str, ...] | None = None


PROTOBUF = (
    Pattern("class", r"^[ \t]*(?:message|service|enum)\s+(?P<name>\w+)\s*\{"),
    Pattern("method", r"^[ \t]*rpc\s+(?P<name>\w+)\s*\([^()]*\)\s*returns\s*\([^()]*\)\s*[{;]"),
)

_ANNOTATIONS = r"^[ \t]*(?:@(?!interface\b)\w[\w.]*(?:\([^()\n]*\))?\s+)*"
_GROOVY_MODIFIERS = r"(?:(?:public|protected|private|static|final|abstract|synchronized)\s+)*"
_GROOVY_PARAMETERS = r"\s*\((?!\s*['\"])(?:[^()]|\([^()]*\))*\)\s*(?:throws\s[\w.,\s]+)?\{"
_GROOVY_STRING = r"'[^'\n]*'|\"[^\"\n]*\""
GROOVY = (
    Pattern(
        "class",
        _ANNOTATIONS + _GROOVY_MODIFIERS + r"(?:class|@?interface|trait|enum|record)\s+(?P<name>\w+)\b[^{};=]*\{",
    ),
    Pattern(  # a method, which may be named by a string
        "function",
        _ANNOTATIONS
        + r"(?!(?:return|throw|new|else|in|assert|case|task|import|package)\b)"
        + _GROOVY_MODIFIERS
        + r"(?:<[^<>()\n]*>\s*)?\w[\w.]*(?:<[^()\n]*>)?(?:\[\])*[ \t]+"
        + rf"(?P<name>(?!(?:if|for|while|switch|catch)\b)\w+|{_GROOVY_STRING})"
        + _GROOVY_PARAMETERS,
    ),
    Pattern("method", _ANNOTATIONS + _GROOVY_MODIFIERS + r"(?P<name>[A-Z]\w*)" + _GROOVY_PARAMETERS),
    Pattern("function", r"^[ \t]*(?:static\s+)?(?:def|Closure(?:<[^<>\n]*>)?)\s+(?P<name>\w+)\s*=\s*\{"),
    Pattern("function", r"^[ \t]*(?P<call>task)\s+(?P<name>\w+)\s*(?:\([^()]*\))?\s*(?:<<\s*)?\{"),
    Pattern(
        "function",
        rf"^[ \t]*(?:\w+\.)*(?P<call>stage|register|create)\s*\(\s*(?P<name>{_GROOVY_STRING})[^()\n]*\)\s*\{{",
    ),
)

_SQL_HEAD = r"(?i)^(?P<indent>[ \t]*)CREATE\s+(?:OR\s+(?:REPLACE|ALTER)\s+)?"
_SQL_NAME = (
    r"(?:IF\s+NOT\s+EXISTS\s+)?(?:(?:[^\s.(;]+\.)*(?P<qualifier>[^\s.(;]+)\s*\.\s*)?"
    r"(?P<name>\"[^\"\n]+\"|`[^`\n]+`|\[[^\]\n]+\]|[\w$#@]+)"
)
_SQL_TEXT = SQL_STRING + r"|\$(?P<{0}>\w*)\$[\s\S]*?\$(?P={0})\$"
_SQL_END = r"^(?P=indent)END\b(?!\s+(?:IF|LOOP|CASE|WHILE|REPEAT)\b)"
_SQL_STOP = _SQL_END + r"|^[ \t]*(?:GO|//?|\$\$)[ \t]*$|^(?P=indent)CREATE\b"
_SQL_BLOCK = r"\bBEGIN\b|\b[AI]S[ \t]*$(?!\s*['$])|\b[AI]S\s+(?:BEGIN|DECLARE|SELECT|SET|WITH|INSERT|UPDATE|DELETE)\b"
SQL = (
    Pattern(
        "class",
        _SQL_HEAD + r"(?:(?:GLOBAL|LOCAL|TEMP(?:ORARY)?|UNLOGGED|EXTERNAL|FOREIGN|VIRTUAL|MATERIALIZED|RECURSIVE"
        r"|FORCE|TRANSIENT|DEFINER\s*=\s*\S+|ALGORITHM\s*=\s*\w+|SQL\s+SECURITY\s+\w+)\s+)*"
        r"(?:TABLE|VIEW|TYPE(?!\s+BODY)|DOMAIN)\s+"
        + _SQL_NAME
        + rf"(?:{_SQL_TEXT.format('tag')}|(?!{_SQL_STOP})[^;'])*+;?",
        is_whole=True,
    ),
    # without a block up to the semicolon, else up to the END below CREATE
    Pattern(
        "function",
        _SQL_HEAD + r"(?:(?:CONSTRAINT|AGGREGATE|DEFINER\s*=\s*\S+|(?:NON)?EDITIONABLE)\s+)*"
        r"(?:FUNCTION|PROC(?:EDURE)?|TRIGGER|AGGREGATE|EVENT)\s+"
        + _SQL_NAME
        + rf"(?:(?:{_SQL_TEXT.format('tag')}|(?!{_SQL_BLOCK})[^;'])*+;"
        rf"|(?:{_SQL_TEXT.format('tag2')}|(?!{_SQL_STOP})[^'])*+(?:END\b[^\n]*)?)",
        is_whole=True,
    ),
    Pattern(
        "class",
        _SQL_HEAD
        + r"(?:PACKAGE(?:\s+BODY)?|TYPE\s+BODY)\s+"
        + _SQL_NAME
        + rf"(?:{_SQL_TEXT.format('tag')}|(?!{_SQL_END})[^'])*+(?:END\b[^\n]*)?",
        is_whole=True,
    ),
    Pattern(
        "method",
        r"(?i)^(?P<indent>[ \t]+)(?:(?:MEMBER|STATIC|CONSTRUCTOR|OVERRIDING|MAP|ORDER|FINAL)\s+)*"
        r"(?:FUNCTION|PROCEDURE)\s+(?P<name>[A-Za-z_]\w*)(?:(?!\b[AI]S\b)[^;'])*+"
        rf"(?:;|(?:{_SQL_TEXT.format('tag')}|(?!{_SQL_END})[^'])*+(?:END\b[^\n]*)?)",
        is_whole=True,
    ),
)

_R_NAME = r"(?P<name>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')"
R = (
    Pattern(
        "function",
        r"^[ \t]*(?P<name>`[^`\n]+`|\"[^\"\n]+\"|'[^'\n]+'|[\w.]+(?:[$@][\w.]+)*)"
        r"\s*(?:<<?-|=)\s*(?:function\b|\\)\s*\(",
        has_body=True,
        calls=("list",),
    ),
    Pattern("scope", r"^[ \t]*(?P<name>[\w.]+)\s*<-\s*list\("),
    Pattern(
        "class",
        r"^[ \t]*(?P<name>[\w.]+)\s*(?:<<?-|=)\s*(?:\w+::)?(?:R6Class|setRefClass|new_class|ggproto)\(",
    ),
    Pattern(
        "class",
        r"^[ \t]*(?:[\w.]+\s*<-\s*)?(?:[\w.]+\()?(?:methods::)?setClass\(\s*(?:Class\s*=\s*)?" + _R_NAME,
    ),
    Pattern(
        "function",
        r"^[ \t]*(?:methods::)?set(?:Replace)?Method\(\s*(?:f\s*=\s*)?"
        + _R_NAME
        + r"\s*,\s*(?:signature\s*=\s*)?(?:(?:signature|c)\(\s*)?(?:\w+\s*=\s*)?"
        + _R_NAME.replace("name", "owner"),
    ),
    Pattern("function", r"^[ \t]*(?:methods::)?setGeneric\(\s*(?:name\s*=\s*)?" + _R_NAME),
    Pattern(
        "function",
        r"^[ \t]*method\(\s*(?P<name>[\w.]+)\s*,\s*(?P<owner>[\w.]+)[^()\n]*\)\s*<-\s*function\s*\(",
        has_body=True,
    ),
    Pattern("module", r"^[ \t]*(?P<call>describe|context)\(\s*" + _R_NAME),
    Pattern("function", r"^[ \t]*(?P<call>test_that|it)\(\s*(?:desc\s*=\s*)?" + _R_NAME),
)
