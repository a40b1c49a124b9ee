"""Hard negatives: nearest codes that do not answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaindex_code_retrieval import CodeEmbedding
from llamaindex_code_retrieval.training.negatives import hard_negatives, pack_rows, read_distractors, unpack_rows


def _unit(rows: list[list[float]]) -> np.ndarray:
    array = np.array(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


# Cosines of the query (1, 0) to these: 1.0, 0.995, 0.8, 0.6, 0.0.
CODES = _unit([[1, 0], [0.995, 0.0999], [0.8, 0.6], [0.6, 0.8], [0, 1]])
QUERY = _unit([[1, 0]])


def test_nearest_first_and_false_negatives_by_margin_left_out() -> None:
    assert hard_negatives(QUERY, CODES, [0], per_query=2, margin=0.05) == [[2, 3]]
    assert hard_negatives(QUERY, CODES, [0], per_query=2, margin=0.0) == [[1, 2]]
    assert hard_negatives(QUERY, CODES, [3], per_query=5, margin=0.05) == [[4]]  # all nearer ones may be answers


def test_near_duplicates_and_other_answers_are_no_negatives() -> None:
    assert hard_negatives(QUERY, CODES, [0], per_query=2, clusters=[7, 7, 7, 1, 2]) == [[3, 4]]
    assert hard_negatives(QUERY, CODES, [0], per_query=2, answers=[frozenset({2})]) == [[3, 4]]


def test_refuses_none() -> None:
    with pytest.raises(ValueError, match="per_query and depth must be at least 1, got 0 and 100"):
        hard_negatives(QUERY, CODES, [0], per_query=0)
    with pytest.raises(ValueError, match="per_query and depth must be at least 1, got 1 and 0"):
        hard_negatives(QUERY, CODES, [0], per_query=1, depth=0)


@given(st.integers(0, 1000), st.integers(1, 6), st.floats(0, 0.5))
def test_laws(seed: int, per_query: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    codes, queries = _unit(rng.normal(size=(20, 4)).tolist()), _unit(rng.normal(size=(5, 4)).tolist())
    positives = rng.integers(20, size=5).tolist()
    found = hard_negatives(queries, codes, positives, per_query=per_query, margin=margin, depth=20)
    cosines = queries @ codes.T
    for i, rows in enumerate(found):
        limit = cosines[i, positives[i]] - margin
        allowed = [j for j in range(20) if cosines[i, j] <= limit and j != positives[i]]
        best = sorted(allowed, key=lambda j: (-cosines[i, j], j))[:per_query]
        assert rows == best


def test_what_is_packed_comes_back() -> None:
    cases: list[list[list[int]]] = [[], [[3, 1], [], [2]], [[], []]]
    for mined in cases:
        assert unpack_rows(pack_rows(mined)) == mined


def test_distractors_lie_between_functions(repository: Path, tmp_path: Path, bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder))
    found = read_distractors([repository], embedding)
    assert sorted(found.values()) == ["java", "python", "python"]
    assert any("import smtplib" in code for code in found)
    heads = [code for code in found if "class " in code]
    assert {"class Cart:" in head for head in heads} == {True, False}  # Cart and Tax
    for code in found:  # bodies of functions are what answers
        for body in ("self.items.append", "return sum", "server.sendmail", "1.19", "def secret"):
            assert body not in code
    again = tmp_path / "again"
    again.mkdir()
    (again / "mail.py").write_bytes((repository / "src" / "mail.py").read_bytes())
    assert len(read_distractors([repository, again], embedding)) == len(found)  # the same code once
    assert read_distractors([], embedding) == {}


def test_distractors_are_embedded_to_their_end(repository: Path, bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), max_code_tokens=16)
    assert not embedding.truncated_codes(list(read_distractors([repository], embedding)))
    assert embedding.truncated_codes(list(read_distractors([repository], CodeEmbedding(str(bert_folder)))))


def test_a_folder_without_distractors_is_refused(tmp_path: Path, bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder))
    with pytest.raises(ValueError, match=r"no code between functions in .*; name a folder with source code"):
        read_distractors([tmp_path], embedding)
    with pytest.raises(ValueError, match="is not a folder"):
        read_distractors([tmp_path / "missing"], embedding)
