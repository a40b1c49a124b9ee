"""Turn subjects of commits into questions, and reject those that do not tell what changed in the code."""

from __future__ import annotations

import re

from llamaindex_code_retrieval.training.repositories.comments import remove_links
from llamaindex_code_retrieval.training.repositories.filters import reject_query
from llamaindex_code_retrieval.training.repositories.stop_words import content_words

MAX_CHARACTERS = 200
MIN_CONTENT_WORDS = 2
"""Words of a subject that are neither stop words nor say that something changed."""

_REFERENCE = r"(?:[\w.-]+/[\w.-]+)?#\d+|\bgh-\d+"  # org/name#12, #12, GH-12
_ISSUE = rf"(?:{_REFERENCE}|\b(?:pr|pull\s+request|issue|bug|ticket)\s*#?\d+)"
_CLOSES = (
    r"(?:fix(?:es|ed)?|clos(?:e|es|ed)|resolv(?:e|es|ed)|refs?|references|addresses|see|re|cf\.?|from|for|in|part\s+of)"
)
_ISSUES = rf"(?:\b{_CLOSES}:?\s+)?{_ISSUE}(?:[\s,;&]+(?:and\s+|{_CLOSES}:?\s+)?{_ISSUE})*"
_NOT_ISSUES = r"(?!(?:UTF|SHA|ISO|RFC|MD|HTTP|TLS|AES|CVE|ECMA|PEP|PSR)-)"
_REMOVED = (
    re.compile(r"^(?:\[[^\]]*\]\s*|:\w+:\s*)+"),  # [tag], :emoji:
    re.compile(r"\[(?:ci skip|skip ci|skip \w+|no ci)\]", re.IGNORECASE),
    re.compile(rf"^{_NOT_ISSUES}[A-Z]{{2,10}}-\d{{2,}}\b[\s:-]*"),  # JIRA-123:
    re.compile(r"^[^\s()]+(?:\([^)]*\))?!?:\s+"),  # fix(scope): and the name of a module
    re.compile(r"\s*[(\[](?:thanks|by|via|h/t|cc)\b[^)\]]*[)\]]", re.IGNORECASE),
    re.compile(rf"[\s,;:-]*[(\[]{_ISSUES}[)\]]", re.IGNORECASE),
    re.compile(rf"^{_ISSUES}[\s:,;.-]*", re.IGNORECASE),
    re.compile(rf"[\s,;:.-]*{_ISSUES}", re.IGNORECASE),
    re.compile(r"\s*,?\s*\b(?:thanks\s+(?:to\s+)?|via\s+|by\s+|cc\s+)@[\w-]+", re.IGNORECASE),
    re.compile(r"[.,;]\s+(?:[Ff]rom|(?:\w+\s+)?[Bb]y)\s+[A-Z][\w'-]+\s+[A-Z].*$"),  # , from Ada Lovelace
    re.compile(r"^[^\w`\"'(<@$.-]+|[\s.,;:!]+$"),
)
_BOT = re.compile(r"\bbot\b|dependabot|renovate|greenkeeper|github-actions|pre-commit-ci|snyk", re.IGNORECASE)
_CUT_OFF = re.compile(r"(?:…|\.\.\.)\s*$")
_OTHER_TYPE = re.compile(
    r"(?:chore|docs?|documentation|ci|build|styles?|tests?|testing|release|deps?|meta|infra|website|site|examples?"
    r"|bench\w*|changelog|readme|license|lint\w*|fmt)(?:\([^)]*\))?!?:"
    r"|\w+\((?:deps?|deps-dev|docs?|release|ci|tests?)\)!?:",
    re.IGNORECASE,
)  # of a conventional commit


def _starting_with(*phrases: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{'|'.join(phrases)})\b", re.IGNORECASE)


def _containing(*phrases: str) -> re.Pattern[str]:
    """Return a pattern that matches where a phrase stands anywhere in the text, or at its start after ``^``."""
    return re.compile(rf"(?:^|.*\b)(?:{'|'.join(phrases)})\b", re.IGNORECASE)


_ABOUT_OTHER_THINGS = {
    "subject of a merge, a revert or unfinished work": _starting_with(
        r"merged?|revert(?:s|ed)?|back(?:ed)?\s*out|undo|reapply|fixup!|squash!|amend!|wip|oops|forgot|again|sync|more",
        r"(?:address|apply|respond\s+to|incorporate)\w*\s+(?:\w+\s+)*(?:comments?|feedback|review|suggestions?|nits?)",
        r"start(?:ing)?\s+(?:work|dev)|begin|initial\s+commit|first\s+commit|minor|misc\w*|various|touch\w*",
    ),
    "subject of a release": _containing(
        r"bump\w*|version\s+(?:bump|number)|snapshot\s+version|copyright|licen[cs]e|changelog|changes\.\w+|nightly",
        r"(?:change|set|update)\s+version\s+to|^(?:release[sd]?|prepar(?:e|ing)|version|v?\d+\.\d+|tag|cut|publish)",
    ),
    "subject about documentation": _containing(
        r"docs|\w*documentat\w*|readme|man\s?pages?|\w+\.(?:md|rst|adoc|txt|ya?ml|toml|json|cabal|html)|explanations?",
        r"(?:doc|code|inline|api)\s+(?:comments?|strings?)|docstrings?|docblocks?|haddocks?|instructions?|sphinx",
        r"(?:java|k|go|php|scala|rust)docs?|in\s+(?:a\s+|the\s+)?comments?|^(?:docs?|document|comments?)",
        r"^(?:add|fix|update|improve|remove|clarify)\w*\s+(?:\w+\s+)?(?:comments?|examples?|links?|todos?|translations?)",
    ),
    "subject about tests": _containing(r"tests?|testing\s+(?:code|setup)|(?:unit|missing|failing|flaky)\s+specs?"),
    "subject about style": _containing(
        r"typos?|spelling|misspell\w*|grammar|wording|whitespaces?|indentation|code\s+style|coding\s+standards?",
        r"prettier|rustfmt|gofmt|gofumpt|shfmt|clang-format|clang-tidy|scalafmt|ktlint|detekt|swiftformat|swiftlint",
        r"stylua|ormolu|hlint|phpcs|php-cs-fixer|phpstan|psalm|rubocop|eslint|tslint|shell\s?check|flake8|pylint|isort",
        r"mypy|pyupgrade|ruff|pre-commit|clippy|golangci\w*|errcheck|luacheck|credo|dialyzer|sonar\w*|lint(?:er|ing)?",
        r"review\s+(?:comments?|feedback)|unused\s+(?:imports?|variables?|includes?|usings?)|(?:re)?format\s+code",
        r"type[\s-]+(?:check\w*|errors?|hints?|annotations?)|^(?:\w+ly\s+)?(?:re)?(?:format|indent)(?:ting)?",
        r"^(?:cleanups?|clean(?:ing)?[\s-]?ups?|tid(?:y|ied|ying)|cosmetics?|polish|nits?|(?:code|coding)\s+\w+|styles?)",
    ),
    "subject about the build or dependencies": _containing(
        r"dependenc(?:y|ies)|deps|ci|travis|appveyor|circleci|github\s+actions?|workflows?|docker\w*|submodules?|gemfile",
        r"makefile|cmake|meson|autoconf|autotools|configure\.ac|bazel|fix\w*\s+(?:the\s+)?build|regenerate",
        r"build\s+(?:errors?|warnings?|failures?|issues?|system)",
        r"compil(?:e|er|ation)\s+(?:errors?|warnings?|failures?|issues?|on|with|for)",
        r"(?:upgrade|update|downgrade|pin)\w*\b.*\b(?:to|from)\s+v?\d+(?:\.\d+)*",
    ),
}
_CHANGE_WORDS = frozenset(
    "add adds added fix fixes fixed update updates updated remove removes removed change changes changed make makes "
    "made use uses used improve improves improved refactor refactored rename renamed move moved allow support handle "
    "handling bug bugs issue issues problem error code better anymore needed simplify small some stuff thing things "
    "work works correctly properly instead wrong case edge account sort".split()
)


def clean_subject(subject: str) -> str:
    """Return the subject of a commit without its type or module, issue numbers, credits, links and last full stop.

    >>> clean_subject("fix(http): keep the port of a redirect (#1234)")
    'keep the port of a redirect'
    >>> clean_subject("Fixes #12, #13: Close files after reading. (thanks @ada)")
    'Close files after reading'
    """
    subject = remove_links(" ".join(subject.split()))
    for pattern in _REMOVED:
        subject = pattern.sub("", subject.strip())
    return " ".join(subject.split())


def reject_commit(subject: str, author: str) -> str | None:
    """Return why a commit makes no question, or ``None`` if it does; ``author`` is its name and address.

    >>> reject_commit("fix(http): keep the port of a redirect (#1234)", "Ada")
    >>> reject_commit("Bump lodash from 4.17.20 to 4.17.21", "Ada")
    'subject of a release'
    >>> reject_commit("Fix it", "Ada")
    'subject is too vague'
    """
    if _BOT.search(author):
        return "author is a bot"
    if len(subject) > MAX_CHARACTERS:
        return f"subject over {MAX_CHARACTERS} characters"
    if _CUT_OFF.search(subject):
        return "subject is cut off"
    if _OTHER_TYPE.match(subject):
        return "not a change of behaviour, by its type"
    query = clean_subject(subject)
    for reason, pattern in _ABOUT_OTHER_THINGS.items():
        if pattern.match(query):
            return reason
    if len(set(content_words(query.lower())) - _CHANGE_WORDS) < MIN_CONTENT_WORDS:
        return "subject is too vague"
    return reject_query(query)
