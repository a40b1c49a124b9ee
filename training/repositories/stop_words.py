"""Words that a question can do without."""

from __future__ import annotations

import re

_STOP_WORDS = frozenset(
    "a an and any are as at be been but by can could did do does for from had has have he her his how i if in into "
    "is it its just may me might more my no nor not of off on only or our own shall she should so some such than "
    "that the their them then there these they this those to too under up us was we were what when where whether "
    "which while who whom whose why will with within without would you your".split()
)


def content_words(text: str) -> list[str]:
    """Return the words of a text that are not stop words, without the punctuation around them.

    >>> content_words("Return the total of a cart (without its tax).")
    ['Return', 'total', 'cart', 'tax']
    """
    words = (re.sub(r"^[^\w@#$<-]+|[^\w>+]+$", "", word) for word in text.split())
    return [word for word in words if word and word.lower() not in _STOP_WORDS]
