"""Rows of token ids and types of a query and a code, against what the tokenizers of transformers write."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from llamaindex_code_retrieval.models.pair_layout import PairLayout

QUERY, CODE = "read the file", "def read(path):\n    return open(path).read()"


@pytest.mark.parametrize("folder", ["bert_folder", "roberta_folder", "t5_folder"])
@pytest.mark.parametrize("max_tokens", [12, 16, 512])
def test_rows_and_types_are_the_tokenizers_own(folder: str, max_tokens: int, request: pytest.FixtureRequest) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(folder))
    has_types = "token_type_ids" in tokenizer.model_input_names
    layout = PairLayout.of_tokenizer(tokenizer.backend_tokenizer, has_types=has_types)
    query, code = tokenizer([QUERY, CODE], add_special_tokens=False)["input_ids"]
    assert len(query) + layout.special_tokens < 12 < len(query) + len(code)
    row, start = layout.row(query, code, room=max_tokens - layout.special_tokens)
    expected = tokenizer([QUERY], [CODE], truncation="only_second", max_length=max_tokens)
    assert row == expected["input_ids"][0]
    assert row[start : start + 2] == code[:2]
    if "token_type_ids" in expected:
        assert layout.type_ids(len(row), start) == expected["token_type_ids"][0]


def test_what_is_cut() -> None:
    layout = PairLayout([101], [102], [103], ([0], 0, [0], 1, [1]))
    query, code = list(range(8)), list(range(20, 30))
    assert layout.row(query, code, room=12) == ([101, *query, 102, 20, 21, 22, 23, 103], 10)
    assert layout.row(query, code, room=9) == ([101, *query, 102, 20, 103], 10)
    assert layout.row(query, code, room=8) == ([101, 0, 1, 2, 3, 102, 20, 21, 22, 23, 103], 6)
    assert layout.row([], [], room=8) == ([101, 102, 103], 2)
    assert layout.type_ids(11, 6) == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert PairLayout([101], [102], [103]).type_ids(3, 2) == [0, 0, 0]


def test_a_tokenizer_that_drops_a_text_is_refused() -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.normalizer = Replace("a", "")
    with pytest.raises(ValueError, match="does not write a pair of texts as two texts between special tokens"):
        PairLayout.of_tokenizer(tokenizer, has_types=True)


def test_a_layout_without_types_has_type_0() -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0, "?": 1, "|": 2}, unk_token="?"))
    tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A | $B:1 |:1", special_tokens=[("|", 2)])
    assert PairLayout.of_tokenizer(tokenizer, has_types=True) == PairLayout([], [2], [2], ([], 0, [0], 1, [1]))
    assert PairLayout.of_tokenizer(tokenizer, has_types=False) == PairLayout([], [2], [2])
