"""Tokenize texts as a checkpoint expects them: its special tokens, prompts and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llamaindex_code_retrieval._io import clean_text
from llamaindex_code_retrieval.models.backbone import quiet_transformers
from llamaindex_code_retrieval.models.catalog import Architecture
from llamaindex_code_retrieval.models.pair_layout import PairLayout


class Tokenization:
    """A tokenizer of transformers with the special tokens that the architecture puts around a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, architecture: Architecture) -> None:
        self.tokenizer = tokenizer
        self.prefix, self.suffix = _special_tokens(tokenizer, architecture)
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._architecture = architecture

    @classmethod
    def load(cls, folder: Path, architecture: Architecture) -> Tokenization:
        """Load the fast tokenizer of a checkpoint."""
        from transformers import GPT2TokenizerFast, RobertaTokenizerFast

        # The configs of these two name classes of remote code, which AutoTokenizer would need.
        known: dict[Architecture, type[PreTrainedTokenizerFast]] = {
            "codesage": GPT2TokenizerFast,
            "codet5p-embedding": RobertaTokenizerFast,
        }
        with quiet_transformers():
            if architecture in known:
                tokenizer = known[architecture].from_pretrained(folder, local_files_only=True)
            else:
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return cls(tokenizer, architecture)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens and of any length."""
        return token_ids(self.tokenizer, texts)

    def rows(
        self, texts: Sequence[str], *, max_tokens: int | None, prompt: str = ""
    ) -> tuple[list[list[int]], NDArray[np.bool_]]:
        """Return the token ids of each text with ``prompt`` before it, and whether the text was truncated.

        A row has at most ``max_tokens`` tokens, special tokens included; ``None`` truncates nothing.
        """
        ids = self.ids([prompt + text for text in texts])
        room = None if max_tokens is None else max_tokens - len(self.prefix) - len(self.suffix)
        if room is None:
            return [[*self.prefix, *row, *self.suffix] for row in ids], np.zeros(len(ids), dtype=np.bool_)
        truncated = np.fromiter((len(row) > room for row in ids), dtype=np.bool_, count=len(ids))
        return [[*self.prefix, *row[:room], *self.suffix] for row in ids], truncated

    def pair_layout(self) -> PairLayout:
        """Return the special tokens around two texts that are read as one; token types are the encoder's task."""
        if self._architecture == "codesage":  # its tokenizer puts nothing between two texts
            return PairLayout([], self.suffix, self.suffix)
        return replace(PairLayout.of_tokenizer(self.tokenizer), before=self.prefix, types=None)


def token_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, without special tokens and of any length.

    Several threads may call at once: the tokenizer's truncation, which is shared state, is never set.
    """
    if not texts:
        return []
    encoded = tokenizer(
        [clean_text(text) for text in texts],  # tokenizers refuse lone surrogates
        add_special_tokens=False,
        truncation=False,
        return_attention_mask=False,
        verbose=False,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _special_tokens(tokenizer: PreTrainedTokenizerFast, architecture: Architecture) -> tuple[list[int], list[int]]:
    """Return the ids before and after a text."""
    if architecture == "codesage":
        return [], [tokenizer.eos_token_id]
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    row = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(row)) if row[i : i + len(text)] == text)
    prefix, suffix = row[:start], row[start + len(text) :]
    if architecture == "unixcoder":
        mode = tokenizer.convert_tokens_to_ids("<encoder-only>")
        if mode is None or mode == tokenizer.unk_token_id:
            raise ValueError("UniXcoder's tokenizer has no <encoder-only> token; use the tokenizer of its checkpoint")
        prefix = [tokenizer.cls_token_id, mode, tokenizer.sep_token_id]
    return list(prefix), list(suffix)
