"""Mine training pairs from source code: which files, which functions, which descriptions, under which licence."""

from llamaindex_code_retrieval.training.mining.pipeline import MineReport, check_folders, mine

__all__ = ["MineReport", "check_folders", "mine"]
