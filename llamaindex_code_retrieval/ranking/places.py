"""Find the paths and file names in a question, with their lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llamaindex_code_retrieval.languages.table import language_of
from llamaindex_code_retrieval.ranking.identifiers import Identifier

_TOKEN = re.compile(r"[^\s,;`\"“”<>|*]+")
_LONGEST_PATH = 300
_SIGN_OF_PATH = re.compile(r"[./\\]|file|README|CHANGELOG|CODEOWNERS|LICEN[SC]E|PKGBUILD")
_PATH = re.compile(
    r"(?P<path>(?:[A-Za-z]:[\\/])?(?:[^\s:#()]|\([^\s:#()]*\)/)+)"
    r"(?:(?::|#L?|\(|:L)(?P<line>[0-9]{1,8})(?:(?:-L?|\.\.)(?P<end>[0-9]{1,8})|[:,][0-9]+)?\)?:?|#[\w-]+)?"
)
_LINE_AFTER = re.compile(
    r"[`\"”):]?,?\s+(?:\(?(?:at|on|in|near|around)\s+)?\(?lines?\s+(?P<line>[0-9]{1,8})"
    r"(?:\s*(?:-|–|to)\s*(?P<end>[0-9]{1,8}))?",
    re.IGNORECASE,
)
_LINE_BEFORE = re.compile(
    r"\blines?\s+(?P<line>[0-9]{1,8})(?:\s*(?:-|–|to)\s*(?P<end>[0-9]{1,8}))?\s+(?:of|in|at)\s+(?:the\s+)?(?:file\s+)?[`\"“(]?\Z",
    re.IGNORECASE,
)
_PYTEST = re.compile(r"(?P<path>[^\s:]+\.py)(?P<names>(?:::\w+)+)(?:\[.*)?")  # `test_x.py::TestClass::test_name`
_BLOB_URL = re.compile(r"https?://[^\s/]+/[^\s/]+/[^\s/]+/(?:-/)?(?:blob|raw|blame|tree|src)/[^\s/]+/(?P<path>\S+)")
_FILE_SCHEME = re.compile(r"(?:file://|webpack(?:-internal)?:///?|package:|app://)(?P<path>/?\S*)")

_FOLDERS = frozenset(
    "app apps bench benchmark benchmarks bin cmd components config core crates doc docs examples include internal lib "
    "libs modules packages pkg plugins scripts source sources spec src test tests tools".split()
)
MIME_TYPES = frozenset("application audio font image message model multipart text video".split())
_ROOTS = ("./", "../", "~/", "/etc/", "/home/", "/opt/", "/tmp/", "/usr/", "/var/", "/Users/")
_FILES_WITHOUT_EXTENSION = re.compile(r"[A-Z][A-Za-z]*file|README|CHANGELOG|CODEOWNERS|LICEN[SC]E|PKGBUILD")
_OTHER_FILES = re.compile(
    r"[\w-]+\.(?:csv|dll|exe|gif|gz|jar|jpe?g|pdf|png|svg|tsv|whl|zip|fs|vb|erl|hrl|clj|cljs|nim|vim|wasm|wat|asm)"
    r"|go\.(?:mod|sum|work)|(?:Cargo|Gemfile|Pipfile|composer|flake|mix|poetry|pubspec|uv|yarn)\.lock"
)
# extensions that are names of attributes as well, as in `response.text`
_ATTRIBUTES = frozenset(
    "conf css desktop diff env html json m make org patch plist properties props r rest service sh socket sol t "
    "targets text timer xml".split()
)
_DOT_FILES = (".editorconfig", ".env")
_OBJECTS = frozenset("body c ctx flask req request requests res resp response result self this".split())
_PRODUCTS = frozenset(
    "alpine angular backbone chart d3 discord ember express fastify knockout moment nest next node nuxt p5 pixi "
    "polymer react require solid three underscore vue".split()
)


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder in a question, with its lines and, in a stack trace, its function."""

    path: str
    """As it is written, with ``/`` between folders: it may begin above the folder that is searched."""
    line: int | None = None
    end_line: int | None = None
    """The last line of a range."""
    function: Identifier | None = None


def clean_path(path: str) -> str:
    """Return a path with ``/`` between folders, without ``file://`` and ``./``."""
    if match := _FILE_SCHEME.match(path):
        path = match["path"]
    path = re.sub(r"(?<![:/\\])[/\\]+|(?<=:)\\+", "/", path.strip())
    while path.startswith("./"):
        path = path[2:]
    return path


def find_places(text: str) -> tuple[tuple[Place, ...], str]:
    """Return the places in a text, each once, and the text with spaces instead of them.

    >>> find_places("is app.py:12 read")
    ((Place(path='app.py', line=12, end_line=None, function=None),), 'is           read')
    """
    places: list[Place] = []
    rest: list[str] = []
    end = 0
    for place, first, last in _read(text):
        places.append(place)
        first = max(first, end)  # `a.py, line 1 of b.py`
        rest += text[end:first], " " * (last - first)
        end = last
    return tuple(dict.fromkeys(places)), "".join([*rest, text[end:]])


def _read(text: str) -> Iterator[tuple[Place, int, int]]:
    """Yield each place with the span of its text."""
    for token in _TOKEN.finditer(text.replace("](", "  ")):  # of links in Markdown
        if len(token[0]) > _LONGEST_PATH or not _SIGN_OF_PATH.search(token[0]):
            continue
        written = token[0].lstrip("('{‘" if re.match(r"\W*\[\w+\]", token[0]) else "('[{‘").rstrip(".!?'’]}")
        if written.endswith(":") or (written.endswith(")") and "(" not in written):
            written = written[:-1].rstrip(".!?'’:")
        first = token.start() + token[0].find(written) if written else 0
        if found := _place(text, written, first):
            yield found


def _place(text: str, written: str, start: int) -> tuple[Place, int, int] | None:
    span = start, start + len(written)
    if match := _BLOB_URL.match(written):
        written, is_path = match["path"], True
    else:
        is_path = written.startswith("file://")
        is_url = not is_path and ("://" in written or written.startswith("www."))
        if is_url or "@" in written[1:].partition("/")[0]:
            return None
    if match := _PYTEST.fullmatch(written):
        return Place(path=clean_path(match["path"]), function=Identifier.of(match["names"][2:])), *span
    match = _PATH.fullmatch(clean_path(written))
    if not match:
        return None
    path, line, end_line = match["path"], match["line"], match["end"]
    if not line and (
        beside := _LINE_AFTER.match(text, span[1]) or _LINE_BEFORE.search(text, max(0, start - 60), start)
    ):
        line, end_line = beside["line"], beside["end"]
        span = min(start, beside.start()), max(span[1], beside.end())
    if not (is_path or is_file(path, has_line=line is not None) or _is_folder(path)):
        return None
    first, last = (int(number) if number else None for number in (line, end_line))
    return Place(path=path, line=first, end_line=last if first and last and last >= first else None), *span


def is_file(path: str, *, has_line: bool = False) -> bool:
    """Whether a path names a file: by its extension, which must not be that of an attribute or a product.

    >>> [is_file(path) for path in ("app.py", "src/util.text", "Makefile", "response.text", "Node.js", "Plug.Conn")]
    [True, True, True, False, False, False]
    """
    folder, _, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    if not dot:
        return bool(_FILES_WITHOUT_EXTENSION.fullmatch(name)) and language_of(name) is not None
    if not (extension.islower() or name.isupper() or extension in ("R", "Rmd")) or not re.search(r"\w", name):
        return False
    if language_of(name) is None:
        return bool(_OTHER_FILES.fullmatch(name) or (folder and has_line))
    if not stem:
        return language_of(f"_{name}") is None or name in _DOT_FILES  # not `.py`, an extension
    if folder or has_line:
        return True
    if len(extension) == 1 and (len(stem) == 1 or "." in stem):
        return False
    if extension in _ATTRIBUTES:
        is_name = stem.lower() in _OBJECTS or "(" in stem
        return {"json": not is_name, "m": stem[:1].isupper(), "sh": not is_name}.get(extension, False)
    return not (extension == "js" and stem.lower() in _PRODUCTS)


def _is_folder(path: str) -> bool:
    if path.startswith(_ROOTS):
        return len(path) > 3
    parts = path.split("/")
    return (
        len(parts) > 1
        and parts[0] in _FOLDERS
        and (parts[1] not in _FOLDERS or len(parts) > 2)
        and all(re.fullmatch(r"[\w@.+\[\]-]*", part) for part in parts)
    )
