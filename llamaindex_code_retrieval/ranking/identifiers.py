"""Find the identifiers in a question."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = r"[^\W\d]\w*"
_QUALIFIED_NAME = rf"{_NAME}(?:(?:\.|::|->|\?\.|#|\\){_NAME})*"
_SEPARATOR = re.compile(r"\?\.|->|::|[.#\\]")
_WORD = re.compile(
    rf"(?P<sigil>[$@]?)(?<!\w[$@])(?<!\w)(?P<name>{_QUALIFIED_NAME})(?P<after>\((?!e?s\))|/[0-9]\b|<(?=[A-Z]))?"
)
_BACKTICKED_NAME = re.compile(rf"`(?:[$@:]|::)?(?P<name>{_QUALIFIED_NAME}(?:-\w+)*[?!]?)(?:\(\))?`")
_QUOTED_NAME = re.compile(
    rf"(?<![\w\"'])(?:\"(?P<double>{_QUALIFIED_NAME})\"|'(?P<single>{_QUALIFIED_NAME})'|“(?P<curly>{_QUALIFIED_NAME})”)"
    r"(?![\w\"'])"
)
_URL = re.compile(r"\b[A-Za-z][A-Za-z+.-]{1,20}://\S+|(?<!\w)www\.\S+")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+\.[\w.-]+(?::\S+)?")  # and addresses of Git
CJK = re.compile("[\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u4dbf\u4e00-\u9fff\uac00-\ud7ff]+")

_CAMEL_CASE = re.compile(r"[a-z][a-z0-9]*[A-Z]\w*|[A-Z]\w*[a-z0-9]\w*[A-Z]\w*|[A-Z]{2,}[a-z]{2,}\w*")
_START_OF_SENTENCE = re.compile(r"(?:^|[.!?:]|\n)[\s\"'“‘(*>-]*\Z")

_PRODUCTS = frozenset(
    "chatgpt css3 csrftoken devops ebay ecmascript etag fastapi firefox github gitlab graphql grpc icloud ios ipados "
    "iphone javafx javascript jetbrains jquery json5 jsonp langchain latex linkedin linux llamaindex macos mariadb "
    "mathjax mongodb mysql neovim nosql numpy oauth oauth2 objectivec ocaml openai openapi opengl openssl openid orms "
    "oses paypal phd phpstorm phpunit postgresql powershell pycharm pypi pytorch rabbitmq reactjs readme restful "
    "rubygems scikit sqlite stackoverflow tensorflow trpc typescript vscode watchos webassembly webgl webrtc websocket "
    "websockets wifi wordpress youtube".split()
)
"""Names with inner capitals that are words of prose."""
_SUFFIXES_OF_PRODUCTS = frozenset("com dev io js net nvim org".split())
_KEYWORDS = frozenset(
    "and assert async await catch const def delete elif else elseif except fn for foreach func function if import in "
    "include let new not or print return self sizeof super switch this throw typeof unless until var void while with "
    "yield".split()
)
_NO_NAMES = frozenset(
    "a an and are but for how i if in is it nil no none not note null ok or the then this to true false undefined we "
    "what when where which why with yes you".split()
)
_GERMAN = frozenset("auf bei das dem den der eine einen einer für ist mit oder und von werden wie wird wo".split())
_LIMIT = 64  # the ranking compares each with each candidate


@dataclass(frozen=True, slots=True)
class Identifier:
    """A name in a question that is written like code, or that may be one of code."""

    name: str
    """The last part: ``send`` of ``Session.send``."""
    scope: tuple[str, ...] = ()
    """The parts before the name."""
    text: str = ""
    """As it is written in the question."""
    is_certain: bool = True
    """False for capitalised words, acronyms and quoted words, which may be prose as well."""

    @staticmethod
    def of(text: str, *, is_certain: bool = True) -> Identifier:
        """Divide a qualified name at ``.``, ``::``, ``->``, ``#`` and backslashes.

        >>> Identifier.of("http::Session.send")
        Identifier(name='send', scope=('http', 'Session'), text='http::Session.send', is_certain=True)
        """
        *scope, name = [part for part in _SEPARATOR.split(text) if part] or [text]
        return Identifier(name=name, scope=tuple(scope), text=text, is_certain=is_certain)


def find_identifiers(text: str) -> tuple[Identifier, ...]:
    """Return the identifiers of a text, each once, in the order of the text.

    >>> [identifier.text for identifier in find_identifiers("how does Session.send call the HTTPAdapter, e.g. twice")]
    ['Session.send', 'HTTPAdapter']
    """
    found: dict[tuple[str, tuple[str, ...]], Identifier] = {}
    for identifier in _read(text):
        key = identifier.name, identifier.scope
        if key not in found or (identifier.is_certain and not found[key].is_certain):
            found[key] = identifier
            if len(found) == _LIMIT:
                break
    return tuple(found.values())


def _read(text: str) -> Iterator[Identifier]:
    text = _EMAIL.sub(" ", _URL.sub(" ", text))
    quoted = [
        (match.start(), Identifier.of(match["name"]))
        for match in _BACKTICKED_NAME.finditer(text)
        if match["name"].lower() not in _NO_NAMES
    ]
    text = _BACKTICKED_NAME.sub(lambda match: " " * len(match[0]), text)
    for match in _QUOTED_NAME.finditer(text):
        name = match["double"] or match["single"] or match["curly"]
        if len(name) > 1:
            quoted.append((match.start(), Identifier.of(name, is_certain=looks_like_code(name))))
    text = _QUOTED_NAME.sub(lambda match: " " * len(match[0]), text)
    if not text.isascii():
        text = CJK.sub(lambda match: " " * len(match[0]), text)
    may_be_names = _capitals_mean_names(text)
    words = [
        (match.start(), identifier)
        for match in _WORD.finditer(text)
        if (identifier := _identifier(text, match, may_be_names=may_be_names))
    ]
    yield from (identifier for _, identifier in sorted([*quoted, *words], key=lambda found: found[0]))


def _identifier(text: str, match: re.Match[str], *, may_be_names: bool) -> Identifier | None:
    name, after = match["name"], match["after"] or ""
    if name.startswith("_") and name.endswith("_") and not name.startswith("__"):
        name = name.strip("_")  # emphasis in Markdown
        if not name:
            return None
    if match["sigil"] and name.lower() not in _KEYWORDS:
        return Identifier.of(name)
    if after == "(" and name not in _KEYWORDS and not (len(name) == 1 and name.isupper()):
        return Identifier.of(name)
    if after.startswith("/") and (name[0].islower() or "." in name):  # `call/2` of Elixir and Erlang
        return Identifier.of(name)
    if after == "<" and name[0].isupper():
        return Identifier.of(name)
    if looks_like_code(name):
        return Identifier.of(name)
    if may_be_names and _may_be_name(text, match, name):
        return Identifier.of(name, is_certain=False)
    return None


def looks_like_code(name: str) -> bool:
    """Whether a name is qualified, or has inner capitals or underscores, and is not a known word of prose.

    >>> [looks_like_code(name) for name in ("send_receipt", "toJson", "HTTPAdapter", "Rack::Lint")]
    [True, True, True, True]
    >>> [looks_like_code(name) for name in ("HTTP", "e.g", "Node.js")]
    [False, False, False]
    """
    if _SEPARATOR.search(name):
        parts = _SEPARATOR.split(name)
        if all(len(part) <= 1 for part in parts) or ("\\" in name and not parts[0][:1].isupper()):
            return False  # `e.g`, `and\or`
        return not (len(parts) == 2 and "." in name and parts[1].lower() in _SUFFIXES_OF_PRODUCTS)
    if "_" in name:
        return bool(name.strip("_")) and name != "x86_64"
    return bool(_CAMEL_CASE.fullmatch(name)) and name.lower() not in _PRODUCTS


def _may_be_name(text: str, match: re.Match[str], name: str) -> bool:
    """Whether a capitalised word may be a name, as it is neither the start of a sentence nor part of a compound."""
    start, end = match.span("name")
    if name.lower() in _PRODUCTS:
        return not name.islower()
    if not name[0].isupper() or len(name) < 2 or "." in name or name.lower() in _NO_NAMES:
        return False
    if text[end : end + 1] == "-" or text[start - 1 : start] == "-":
        return False
    return name.isupper() or not _START_OF_SENTENCE.search(text[max(0, start - 8) : start])


def _capitals_mean_names(text: str) -> bool:
    """Whether capitals tell names from other words: neither in titles nor in German."""
    words = [word for word in text.split() if word[0].isalpha()]
    capitalised = sum(word[0].isupper() for word in words)
    if len(words) > 3 and capitalised * 4 >= len(words) * 3:
        return False
    return len(_GERMAN.intersection(text.lower().split())) < 2
