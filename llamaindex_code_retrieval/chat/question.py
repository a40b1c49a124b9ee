"""What a question may be."""

from __future__ import annotations

MAX_QUESTION = 8000
"""Characters of the longest question: about 2,000 tokens."""


def check_question(question: str) -> None:
    """Check that a question says something and fits a prompt.

    Raises:
        ValueError: it is empty, or longer than ``MAX_QUESTION``.
    """
    if not question.strip():
        raise ValueError("the question is empty; say in words what you want to know about the code")
    if len(question) > MAX_QUESTION:
        raise ValueError(
            f"the question has {len(question):,} characters and at most {MAX_QUESTION:,} are read; shorten it, or name "
            "a file of the code instead of quoting it"
        )
