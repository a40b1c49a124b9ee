"""The arguments of a request, from a query, a form or a JSON object, read and checked by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from llamaindex_code_retrieval.chat.question import MAX_QUESTION, check_question
from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.serving.service import search_filter

SEARCH_NAMES = ("question", "repository", "paths", "languages", "kind", "include_tests")
"""The arguments that :class:`Search` reads."""

_MOST_VALUES = 20
_LONGEST_VALUE = 1000  # characters of all but the question
_FLAGS = {"true": True, "false": False}


class Arguments:
    """Values by name. Each method reads one; :meth:`finish` refuses those that were not read.

    Raises:
        ValueError: a value has the wrong type or is too long; the message names it.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[str, str]]) -> Self:
        """Read names and values of a query or a form; a name may be repeated."""
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        return cls(values)

    @classmethod
    def of_json(cls, body: bytes) -> Self:
        """Read a JSON object."""
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ValueError('the body must be a JSON object, such as {"question": "how is a receipt sent?"}')
        return cls(values)

    def question(self) -> str:
        """Return the question."""
        question = self.text("question", longest=None)
        if question is None:
            raise ValueError(f"question is missing; send the question as text of at most {MAX_QUESTION:,} characters")
        check_question(question)
        return question

    def text(self, name: str, *, longest: int | None = _LONGEST_VALUE) -> str | None:
        """Return a text; ``None`` if it is absent or empty."""
        value = self._one(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a text, got {_shown(value)}")
        if longest is not None and len(value) > longest:
            raise ValueError(f"{name} has {len(value):,} characters and at most {longest:,} are read")
        return value

    def required(self, name: str) -> str:
        """Return a text that must be there."""
        value = self.text(name)
        if value is None:
            raise ValueError(f"{name} is missing")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the texts of a list, which is empty if it is absent."""
        values = self._values.pop(name, None) or []
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise ValueError(f"{name} must be a list of texts, got {_shown(values)}")
        if len(values) > _MOST_VALUES or any(len(each) > _LONGEST_VALUE for each in values):
            raise ValueError(f"{name} may have {_MOST_VALUES} values of {_LONGEST_VALUE:,} characters; leave some out")
        return tuple(each for each in values if each)

    def number(self, name: str, *, most: int = 100_000_000) -> int | None:
        """Return a whole number from 1 to ``most``; ``None`` if it is absent."""
        value = self._one(name)
        if value is None:
            return None
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most:,}, got {_shown(value)}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._one(name)
        if value is None:
            return default
        value = _FLAGS.get(value, value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {_shown(value)}")
        return value

    def finish(self, *known: str) -> None:
        """Refuse arguments that were not read; ``known`` are those that were, for the message."""
        if self._values:
            names = ", ".join(_shown(each) for each in self._values)
            raise ValueError(f"unknown argument {names}; known are {', '.join(known)}")

    def _one(self, name: str) -> Any:
        value = self._values.pop(name, None)
        if isinstance(value, list):
            if len(value) != 1:
                raise ValueError(f"{name} must be a single value, got {len(value)}")
            return value[0]
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched for, and where."""

    question: str
    repository: str | None = None
    paths: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    kind: str | None = None
    include_tests: bool = True

    @classmethod
    def of(cls, arguments: Arguments) -> Self:
        """Read the arguments that a search and a question have in common."""
        return cls(
            question=arguments.question(),
            repository=arguments.text("repository"),
            paths=arguments.texts("paths"),
            languages=arguments.texts("languages"),
            kind=arguments.text("kind"),
            include_tests=arguments.flag("include_tests", default=True),
        )

    def options(self) -> dict[str, Any]:
        """Return the arguments of :meth:`.CodeService.search`."""
        return asdict(self)

    def node_filter(self) -> NodeFilter:
        """Return where is searched."""
        return search_filter(
            paths=self.paths, languages=self.languages, kind=self.kind, include_tests=self.include_tests
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
