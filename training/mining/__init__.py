"""Mine training pairs from repositories: which files and functions, which queries, under which licence."""

from llamaindex_code_retrieval.training.mining.pipeline import MINERS, MineReport, mine
from llamaindex_code_retrieval.training.mining.selection import read_held_out

__all__ = ["MINERS", "MineReport", "mine", "read_held_out"]
