"""Masked tokens and masked names: what the model sees, and what it predicts."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from snippets import SNIPPETS

from llamaindex_code_retrieval.languages.identifiers import declarations
from llamaindex_code_retrieval.languages.syntax import parse
from llamaindex_code_retrieval.models.catalog import EMBEDDED
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training.masking import Masker, mask_token, occurrences

FOLDERS = ("bert_folder", "roberta_folder", "t5_folder", "codesage_folder")
ROOM = 4096


@pytest.fixture(scope="module")
def embedded() -> Encoder:
    return Encoder.from_pretrained(EMBEDDED, precision="fp32")


def _names(language: str) -> list[str]:
    outline = parse(SNIPPETS[language], language)
    assert outline is not None
    return sorted({each.name for each in declarations(outline)})


def _visible(encoder: Encoder, text: str, masked: list[int]) -> str:
    """Return the text with spaces for the characters of masked tokens."""
    prefix = len(encoder.tokenization.prefix)
    characters = list(text)
    spans = encoder.tokenization.tokenizer.encode(text, add_special_tokens=False).offsets
    for place in masked:
        for i in range(*spans[place - prefix]):
            characters[i] = " "
    return "".join(characters)


@pytest.mark.parametrize("language", SNIPPETS)
def test_no_letter_of_a_masked_name_is_visible(language: str, embedded: Encoder) -> None:
    masker = Masker(embedded, max_tokens=ROOM)
    text, names = SNIPPETS[language], _names(language)
    for seed in range(3):
        for share in (0.01, 0.5, 1.0):
            row = masker.mask_names(text, names, share, random.Random(seed))
            masked = [i for i, token in enumerate(row.ids) if token == masker.mask_id]
            visible = _visible(embedded, text, masked)
            gone = [name for name in names if name.lower() in _words(text) and name.lower() not in _words(visible)]
            assert len(gone) >= max(1, round(share * len([n for n in names if occurrences(n, text, len(text))])))
            for name in gone:
                assert not any(visible[i:j].strip() for i, j in occurrences(name, text, len(text)))
    assert row.places == sorted(row.places)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("language", ["python", "go", "ruby"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_row_with_its_labels_is_the_text_again(folder: str, language: str, request: pytest.FixtureRequest) -> None:
    encoder = Encoder.from_pretrained(request.getfixturevalue(folder), precision="fp32")
    masker = Masker(encoder, max_tokens=ROOM)
    (ids,), _ = encoder.tokenization.rows([SNIPPETS[language]], max_tokens=ROOM)
    for row in (
        masker.mask_names(SNIPPETS[language], _names(language), 0.5, random.Random(1)),
        masker.mask_tokens(SNIPPETS[language], 0.15, random.Random(1)),
    ):
        assert len(row.ids) == len(ids)
        restored = list(row.ids)
        for place, label in zip(row.places, row.labels, strict=True):
            assert restored[place] == masker.mask_id
            restored[place] = label
        unknown = encoder.tokenizer.unk_token_id
        assert [new for new, old in zip(restored, ids, strict=True) if old != unknown] == [
            old for old in ids if old != unknown
        ]


def test_the_share_of_masked_tokens_is_exact(embedded: Encoder) -> None:
    masker = Masker(embedded, max_tokens=102)
    row = masker.mask_tokens("word " * 300, 0.15, random.Random(0))
    assert len(row.ids) == 102
    assert row.ids.count(masker.mask_id) == len(row.labels) == 15
    assert row.ids[0] != masker.mask_id != row.ids[-1]  # special tokens stay


def test_a_text_without_tokens_or_without_its_names_masks_nothing(embedded: Encoder) -> None:
    masker = Masker(embedded, max_tokens=10)
    assert masker.mask_tokens("", 0.15, random.Random(0)).labels == []
    assert masker.mask_names("x = 1\n" * 9 + "late = 2", ["late"], 1.0, random.Random(0)).labels == []
    assert masker.mask_names("def f(): pass", [], 0.5, random.Random(0)).labels == []


def test_a_name_is_masked_in_comments_and_strings_and_in_any_case(embedded: Encoder) -> None:
    text = 'class Cart:  # a cart\n    """The CART of a cart_owner."""'
    masker = Masker(embedded, max_tokens=ROOM)
    row = masker.mask_names(text, ["Cart"], 1.0, random.Random(0))
    assert embedded.tokenizer.decode(row.ids, skip_special_tokens=False).count("[MASK]") == 3
    assert "owner" in embedded.tokenizer.decode(row.ids)


def test_a_base_without_a_mask_token_is_refused(t5_folder: Path, embedded: Encoder) -> None:
    assert mask_token(embedded) == embedded.tokenizer.mask_token_id
    encoder = Encoder.from_pretrained(t5_folder, precision="fp32")
    encoder.tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"has no mask token.*BERT, RoBERTa, MPNet, CodeSage and T5 have one"):
        mask_token(encoder)
