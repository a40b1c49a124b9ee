"""Make training questions for the ranking from repositories: their commits, names, paths and doc comments."""

from llamaindex_code_retrieval.training.ranking_questions.pipeline import LIMITS, make_questions, write_questions
from llamaindex_code_retrieval.training.ranking_questions.selection import names_file

__all__ = ["LIMITS", "make_questions", "names_file", "write_questions"]
