"""Mask the tokens of a text for pretraining: random ones, or those of the names that the text declares."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llamaindex_code_retrieval._io import clean_text, read_json
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import CONFIG, DAMAGED

SENTINEL = "<extra_id_0>"
"""What stands for a masked span in T5's pretraining; its tokenizers have no mask token."""


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """Token ids of a text of which some are masked: ``labels[i]`` is the original token at ``places[i]``."""

    ids: list[int]
    places: list[int]
    labels: list[int]


class Masker:
    """Masks texts for one tokenizer; a row has at most ``max_tokens`` tokens, special tokens included.

    Each masked token is replaced by the mask token, never by a random token or by itself: the scheme of 80, 10 and 10 %
    hurts code (CodeSage: Zhang et al. 2024, section 3.1). So there is one mask token for each token to predict, also
    where a name has several.
    """

    def __init__(self, encoder: Encoder, *, max_tokens: int) -> None:
        """Find the mask token of the encoder's tokenizer.

        Raises:
            ValueError: it has none.
        """
        self.mask_id = mask_token(encoder)
        tokenization = encoder.tokenization
        self._tokenizer = tokenization.tokenizer
        self._prefix, self._suffix = tokenization.prefix, tokenization.suffix
        self._room = max_tokens - len(self._prefix) - len(self._suffix)
        self._unknown = encoder.tokenizer.unk_token_id  # stands for what the vocabulary lacks

    def mask_tokens(self, text: str, share: float, rng: random.Random) -> MaskedRow:
        """Mask this share of the tokens, at least one (masked language modelling: Devlin et al. 2019)."""
        ids = self._tokenizer.encode(clean_text(text), add_special_tokens=False).ids[: self._room]
        count = min(len(ids), max(1, round(share * len(ids))))
        return self._row(ids, rng.sample(range(len(ids)), count))

    def mask_names(self, text: str, names: Collection[str], share: float, rng: random.Random) -> MaskedRow:
        """Mask this share of the names, at least one, wherever they stand in the text.

        A name is masked in code, comments and strings alike, in any case of its letters, with each token that has one
        of its letters: nothing in the row tells it (DOBF: Rozière et al. 2021; CodeSage, section 3.1). Only names that
        stand within the row are drawn; a row without any has no masked token.
        """
        text = clean_text(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, spans = encoding.ids[: self._room], encoding.offsets[: self._room]
        end = max((last for _, last in spans), default=0)
        found = {name: places for name in sorted(names) if (places := occurrences(name, text, end))}
        if not found:
            return self._row(ids, [])
        drawn = rng.sample(list(found), max(1, round(share * len(found))))
        hidden = {place for name in drawn for span in found[name] for place in range(*span)}
        return self._row(ids, [i for i, span in enumerate(spans) if not hidden.isdisjoint(range(*span))])

    def _row(self, ids: Sequence[int], masked: Sequence[int]) -> MaskedRow:
        row = [*self._prefix, *ids, *self._suffix]
        start = len(self._prefix)
        for place in masked:
            row[start + place] = self.mask_id
        predicted = [place for place in sorted(masked) if ids[place] != self._unknown]
        return MaskedRow(row, [start + place for place in predicted], [ids[place] for place in predicted])


def occurrences(name: str, text: str, end: int) -> list[tuple[int, int]]:
    """Return where a name stands in a text before ``end``, as a whole and in any case of its letters.

    >>> occurrences("total", "def total(a): return Total(a.total_sum)", 100)
    [(4, 9), (21, 26)]
    """
    pattern = re.compile(rf"(?i)(?<!\w){re.escape(name)}(?!\w)")
    return [match.span() for match in pattern.finditer(text, 0) if match.start() < end]


def mask_token(encoder: Encoder) -> int:
    """Return the id of the mask token: the tokenizer's, that of the checkpoint's configuration, or T5's first sentinel.

    Raises:
        ValueError: there is none.
    """
    settings = read_json(encoder.folder / CONFIG, remedy=DAMAGED)
    sentinel = encoder.tokenization.tokenizer.token_to_id(SENTINEL)
    for found in (encoder.tokenizer.mask_token_id, settings.get("mask_token_id"), sentinel):
        if found is not None:
            return int(found)
    raise ValueError(
        f"the base {encoder.name} has no mask token, so nothing can be masked; bases of the kinds BERT, RoBERTa, "
        "MPNet, CodeSage and T5 have one: name one of them as the base"
    )
