"""Tokenize texts as a checkpoint expects them: its special tokens, prompts and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llamaindex_code_retrieval._io import clean_text, read_json
from llamaindex_code_retrieval.models.byte_level import read_byte_level
from llamaindex_code_retrieval.models.catalog import Architecture
from llamaindex_code_retrieval.models.files import DAMAGED, TOKENIZER, TOKENIZER_CONFIG
from llamaindex_code_retrieval.models.pair_layout import PairLayout
from llamaindex_code_retrieval.models.static_encoder import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Tokenization:
    """A tokenizer with the special tokens that the architecture puts around a text.

    Several threads may use it at once.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        architecture: Architecture,
        *,
        end: int | None = None,
        pad_id: int = 0,
        pretrained: PreTrainedTokenizerFast | None = None,
    ) -> None:
        """Use a tokenizer of the package ``tokenizers``, of which truncation and padding are switched off."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self._architecture = architecture
        self.prefix, self.suffix = _special_tokens(tokenizer, architecture, end)
        self.pad_id = pad_id
        self.pretrained = pretrained
        """The tokenizer of transformers, where it was loaded."""

    @classmethod
    def load(cls, folder: Path, architecture: Architecture) -> Self:
        """Load the fast tokenizer of a checkpoint by transformers, which also converts older formats."""
        from transformers import AutoTokenizer, GPT2TokenizerFast, RobertaTokenizerFast

        from llamaindex_code_retrieval.models.backbone import quiet_transformers

        # The configs of these two name classes of remote code, which AutoTokenizer would need.
        known: dict[Architecture, type[PreTrainedTokenizerFast]] = {
            "codesage": GPT2TokenizerFast,
            "codet5p-embedding": RobertaTokenizerFast,
        }
        with quiet_transformers():
            if architecture in known:
                pretrained = known[architecture].from_pretrained(folder, local_files_only=True)
            else:
                pretrained = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return cls(
            Tokenizer.from_str(pretrained.backend_tokenizer.to_str()),  # a copy: users of the other may truncate
            architecture,
            end=pretrained.eos_token_id,
            pad_id=0 if pretrained.pad_token_id is None else pretrained.pad_token_id,
            pretrained=pretrained,
        )

    @classmethod
    def read(cls, folder: Path, architecture: Architecture) -> Self:
        """Read ``tokenizer.json``, or the files of a byte-level BPE, without transformers.

        Raises:
            FileNotFoundError: the checkpoint has none of them.
            ValueError: they are damaged.
        """
        if not (folder / TOKENIZER).is_file():
            tokenizer, end = read_byte_level(folder, architecture)
            return cls(tokenizer, architecture, end=tokenizer.token_to_id(end))
        tokenizer = read_tokenizer(folder)
        return cls(tokenizer, architecture, end=_end_token(folder, tokenizer) if architecture == "codesage" else None)

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
        return replace(PairLayout.of_tokenizer(self.tokenizer, has_types=False), before=self.prefix)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read ``tokenizer.json`` without transformers; truncation and padding are switched off.

    Raises:
        FileNotFoundError: the checkpoint has none.
        ValueError: it is damaged.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise FileNotFoundError(path)
    tokenizer = load_tokenizer(path, remedy=DAMAGED)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, without special tokens; of any length if the tokenizer truncates nothing."""
    clean = [clean_text(text) for text in texts]  # tokenizers refuse lone surrogates
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(clean, add_special_tokens=False)]


def _end_token(folder: Path, tokenizer: Tokenizer) -> int | None:
    """Return the id of the token that ``tokenizer_config.json`` names as the end of a text."""
    path = folder / TOKENIZER_CONFIG
    token = read_json(path, remedy=DAMAGED).get("eos_token") if path.is_file() else None
    name = token.get("content") if isinstance(token, dict) else token
    return None if name is None else tokenizer.token_to_id(str(name))


def _special_tokens(tokenizer: Tokenizer, architecture: Architecture, end: int | None) -> tuple[list[int], list[int]]:
    """Return the ids before and after a text."""
    if architecture == "codesage":
        if end is None:
            raise ValueError("CodeSage's tokenizer has no end token; use the tokenizer of its checkpoint")
        return [], [end]
    text = tokenizer.encode("a", add_special_tokens=False).ids
    row = tokenizer.encode("a").ids
    start = next(i for i in range(len(row)) if row[i : i + len(text)] == text)
    prefix, suffix = row[:start], row[start + len(text) :]
    if architecture == "unixcoder":
        mode = tokenizer.token_to_id("<encoder-only>")
        if mode is None:
            raise ValueError("UniXcoder's tokenizer has no <encoder-only> token; use the tokenizer of its checkpoint")
        prefix = [prefix[0], mode, suffix[0]]  # <s> <encoder-only> </s>
    return list(prefix), list(suffix)
