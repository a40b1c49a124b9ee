"""Questions for definitions by name, place or message, and for files by path, as people type them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from random import Random

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.languages.syntax import Definition
from llamaindex_code_retrieval.training.ranking_questions.selection import MAX_TARGETS, sample, targets_of
from llamaindex_code_retrieval.training.repositories.code_files import CodeFile, places
from llamaindex_code_retrieval.training.repositories.filters import reject_name

_NAME = re.compile(r"[^\W\d]\w{2,}[?!]?")
_CLASS_FORMS = (
    *("{name}",) * 5,
    *("{name} {kind}",) * 2,
    "where is {name} defined",
    "definition of {name}",
    "{words}",
)
_FUNCTION_FORMS = (*("{name}",) * 4, "{name}()", "{name} function", "where is {name} defined", "{words}")
_METHOD_FORMS = (
    *("{owner}{separator}{name}",) * 4,
    *("{owner} {name}",) * 3,
    "where is {owner}{separator}{name} defined",
    "{name} method of {owner}",
)
_PLACE_FORMS = (
    *("{path}:{line}",) * 2,
    "what happens in {path} at line {line}",
    "why does {path}:{line} fail",
    'Traceback (most recent call last):\n  File "/srv/app/{path}", line {line}, in {name}\nValueError: invalid value',
    "TypeError: x is not a function\n    at {name} (/srv/app/{path}:{line}:9)",
)
_MESSAGE = re.compile(r"""(["'])(?P<text>[^\W\d_][\w ,-]{6,60}[\w.!])\1""")
"""A string without escapes or placeholders that may be a sentence; those without a space are left out."""
_QUOTE_FORMS = ('"{text}"', 'where does "{text}" come from', 'why do I get "{text}"')
_SEPARATORS = {"ruby": "#", "rust": "::", "cpp": "::", "cuda": "::", "php": "::", "perl": "::"}
_KIND = re.compile(
    r"\b(struct|interface|trait|enum|protocol|object|module|record|union|actor|extension|type|data|class)\b"
)
_Place = tuple[CodeFile, Definition]


def symbol_questions(files: Sequence[CodeFile], *, limit: int, rng: Random) -> list[RepositoryQuestion]:
    """Return questions that name a definition: half of them for classes, the others for functions and methods.

    A name that several files define has all of them as targets; one that more than ``MAX_TARGETS`` define is left out.
    """
    index = _Names(place for place in places(list(files)) if _is_named(place[1]))
    classes = list(_questions(index, (place for place in index.all if place[1].kind == "class"), rng))
    others = list(_questions(index, (place for place in index.all if place[1].kind != "class"), rng))
    selected = sample(others, limit // 2 if classes else limit, max_per_file=2, rng=rng)
    return [*sample(classes, limit - len(selected), max_per_file=2, rng=rng), *selected]


def path_questions(files: Sequence[CodeFile], *, limit: int, rng: Random) -> list[RepositoryQuestion]:
    """Return questions for files: by name, by the last two parts of the path, or by the words of the name."""
    by_text: dict[str, list[str]] = {}
    for file in files:
        path = PurePosixPath(file.path)
        words = code_words(path.stem)
        texts = [path.name, "/".join(path.parts[-2:]), " ".join(words) if len(words) > 1 else ""]
        for text in filter(None, dict.fromkeys(texts)):
            by_text.setdefault(text, []).append(file.path)
    questions = [
        RepositoryQuestion(query=text, category="path", relevant=tuple(map(Target, paths)))
        for text, paths in by_text.items()
        if len(paths) <= MAX_TARGETS
    ]
    return sample(questions, limit, max_per_file=1, rng=rng)


def place_questions(files: Sequence[CodeFile], *, limit: int, rng: Random) -> list[RepositoryQuestion]:
    """Return questions that name a file and a line of a definition, as an editor or a stack trace shows them."""
    names = Counter(PurePosixPath(file.path).name for file in files)
    chosen = [place for place in places(list(files)) if place[1].kind != "class" and _is_named(place[1])]
    questions = []
    for file, definition in chosen:
        name = PurePosixPath(file.path).name
        query = rng.choice(_PLACE_FORMS).format(
            path=name if names[name] == 1 and rng.random() < 0.5 else file.path,
            line=rng.randint(definition.start_line, definition.end_line),
            name=definition.symbol,
        )
        target = Target(file.path, definition.start_line, definition.end_line)
        questions.append(RepositoryQuestion(query=query, category="place", relevant=(target,)))
    return sample(questions, limit, max_per_file=1, rng=rng)


def quote_questions(files: Sequence[CodeFile], *, limit: int, rng: Random) -> list[RepositoryQuestion]:
    """Return questions that quote a text in the code, such as a message, and ask for the definition around it."""
    found: dict[str, list[_Place]] = {}
    for file, definition in places(list(files)):
        if definition.kind != "class":
            for match in _MESSAGE.finditer(definition.code_without_docstring):
                if " " not in match["text"]:
                    continue
                found.setdefault(match["text"], []).append((file, definition))
    questions = [
        RepositoryQuestion(
            query=rng.choice(_QUOTE_FORMS).format(text=text),
            category="quote",
            relevant=(Target(file.path, definition.start_line, definition.end_line),),
        )
        for text, [(file, definition), *others] in found.items()
        if not others
    ]
    return sample(questions, limit, max_per_file=1, rng=rng)


def _is_named(definition: Definition) -> bool:
    return _NAME.fullmatch(definition.symbol) is not None and reject_name(definition) is None


class _Names:
    """The definitions of a repository by name, by class and name, and by the words of the name."""

    def __init__(self, all_places: Iterable[_Place]) -> None:
        self.all = list(all_places)
        self._by_key: dict[str, list[_Place]] = {}
        for place in self.all:
            for form in ("{name}", "{owner}{name}", "{words}"):
                self._by_key.setdefault(_key(form, place[1]), []).append(place)

    def targets(self, form: str, definition: Definition) -> tuple[Target, ...]:
        """Return where the name in a question of this form is defined; prototypes count where nothing else does."""
        found = self._by_key[_key(form, definition)]
        defined = [place for place in found if not place[1].is_prototype] or found
        return targets_of((file.path, definition) for file, definition in defined)


def _key(form: str, definition: Definition) -> str:
    """Return what a question of this form says about a definition."""
    if "{words}" in form:
        return "words " + " ".join(code_words(definition.symbol))
    return f"{_owner(definition)}.{definition.symbol}" if "{owner}" in form else definition.symbol


def _questions(index: _Names, chosen: Iterable[_Place], rng: Random) -> Iterator[RepositoryQuestion]:
    for file, definition in chosen:
        form = rng.choice(_forms(definition))
        targets = index.targets(form, definition)
        if len(targets) <= MAX_TARGETS:
            query = form.format(
                name=definition.symbol,
                owner=_owner(definition),
                separator=_SEPARATORS.get(file.language, "."),
                kind=_kind(definition),
                words=" ".join(code_words(definition.symbol)),
            )
            yield RepositoryQuestion(query=query, category="symbol", relevant=targets)


def _forms(definition: Definition) -> Sequence[str]:
    """Return the forms of a question for this definition; one word alone is no name of a function to search for."""
    is_specific = sum(word.isalpha() for word in code_words(definition.symbol)) > 1
    if definition.kind == "class":
        return _CLASS_FORMS if is_specific else [form for form in _CLASS_FORMS if form != "{words}"]
    if _owner(definition):
        return [*_METHOD_FORMS, "{name}", "{name}"] if is_specific else _METHOD_FORMS
    return _FUNCTION_FORMS if is_specific else [form for form in _FUNCTION_FORMS if form not in ("{words}", "{name}")]


def _owner(definition: Definition) -> str:
    """Return the name of the class around a method, or empty; one letter, as for a module of Lua, is no name."""
    owner = definition.scope.split(".")[-2] if definition.kind == "method" and "." in definition.scope else ""
    return owner if len(owner) > 1 else ""


def _kind(definition: Definition) -> str:
    """Return the word of the language for a class, from the line that names it."""
    lines = definition.code_without_docstring.split("\n")
    line = next((line for line in lines if re.search(rf"\b{re.escape(definition.symbol)}\b", line)), "")
    match = _KIND.search(line)
    return match[1] if match else "class"
