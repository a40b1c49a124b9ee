from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tantivy
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval.index.read_only import ReadOnlyFolder
from llamaindex_code_retrieval.index.words import (
    FIELD_WEIGHTS,
    WordDocument,
    WordIndex,
    WordIndexError,
    WordSearcher,
)


def bodies(texts: Iterable[str], *, first: int = 1) -> list[WordDocument]:
    return [WordDocument(number, "", "", "", "", text) for number, text in enumerate(texts, start=first)]


def index_of(*commits: Iterable[WordDocument], folder: Path | None = None) -> WordIndex:
    index = WordIndex.in_memory() if folder is None else WordIndex.create(folder)
    for documents in commits:
        with index.writer() as writer:
            writer.add(documents)
            writer.commit()
    return index


def bm25(
    documents: Iterable[WordDocument], query: str, weights: Mapping[str, float], *, k1: float = 1.2, b: float = 0.75
) -> dict[int, float]:
    """Return the score of each document that shares a word with the query."""
    documents = list(documents)
    scores: Counter[int] = Counter()
    for field, weight in weights.items():
        texts = {document.number: code_words(getattr(document, field)) for document in documents}
        mean = sum(map(len, texts.values())) / len(texts)
        for word in code_words(query):
            frequency = sum(word in text for text in texts.values())
            idf = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
            for number, text in texts.items():
                if weight and (count := text.count(word)):
                    norm = k1 * (1 - b + b * len(text) / mean)
                    scores[number] += weight * idf * count * (k1 + 1) / (count + norm)
    return dict(scores)


WORDS = st.sampled_from(["read", "file", "line", "http", "größe", "读取"])
TEXT = st.lists(WORDS, max_size=6).map(" ".join)
FIELDS = st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT)


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(FIELDS, min_size=1, max_size=30),
    query=st.lists(WORDS, max_size=4).map(" ".join),
    top_k=st.integers(1, 40),
    weights=st.fixed_dictionaries({name: st.sampled_from([0, 0.5, 1, 2]) for name in FIELD_WEIGHTS}),
    data=st.data(),
)
def test_hits_are_those_of_bm25(
    texts: list[tuple[str, str, str, str, str]],
    query: str,
    top_k: int,
    weights: dict[str, float],
    data: st.DataObject,
) -> None:
    documents = [WordDocument(number, *fields) for number, fields in enumerate(texts, start=1)]
    numbers = [document.number for document in documents]
    allowed = data.draw(st.none() | st.sets(st.sampled_from(numbers)).map(sorted), label="allowed")
    half = len(documents) // 2
    hits = (
        index_of(documents[:half], documents[half:])
        .searcher()
        .search(
            query,
            top_k=top_k,
            allowed=None if allowed is None else np.array(allowed, dtype=np.int64),
            weights=weights,
        )
    )
    expected = bm25(documents, query, weights)
    if allowed is not None:
        expected = {number: score for number, score in expected.items() if number in allowed}
    assert len(hits) == min(top_k, len(expected))
    assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))
    assert dict(hits) == pytest.approx({number: expected[number] for number, _ in hits}, rel=1e-4)
    others = [score for number, score in expected.items() if number not in dict(hits)]
    assert max(others, default=-math.inf) <= min((score for _, score in hits), default=math.inf) * (1 + 1e-4)


def test_score_by_hand() -> None:
    """One of two documents has the word, in a field of two words where the mean is one: idf = ln 2."""
    index = index_of([WordDocument(7, "readFile", "", "", "", "x"), WordDocument(8, "", "", "", "", "x")])
    expected = 2 * math.log(2) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2))
    [(number, score)] = index.searcher().search("file", top_k=3, weights={"symbol": 2.0})
    assert (number, score) == (7, pytest.approx(expected, rel=1e-4))
    [(_, twice)] = index.searcher().search("file File", top_k=3, weights={"symbol": 2.0})
    assert twice == pytest.approx(2 * expected, rel=1e-4)


def test_equal_scores_are_in_the_order_of_numbers() -> None:
    index = index_of(*([WordDocument(number, "read", "", "a/b", "", "read a line")] for number in (9, 3, 7, 1, 5)))
    for top_k in range(1, 6):
        assert [number for number, _ in index.searcher().search("read line", top_k=top_k)] == [1, 3, 5, 7, 9][:top_k]


def test_allowed_documents_that_score_least_are_found() -> None:
    """The best 1,900 of 2,000 documents are not allowed."""
    index = index_of(bodies(["file " * (1 + (number <= 1900)) + "line" for number in range(1, 2001)]))
    searcher = index.searcher()
    allowed = np.arange(1901, 2001, dtype=np.int64)
    assert [number for number, _ in searcher.search("file", top_k=3, allowed=allowed)] == [1901, 1902, 1903]
    assert [number for number, _ in searcher.search("file", top_k=3, allowed=allowed[-1:])] == [2000]
    everything = np.arange(1, 5000, dtype=np.int64)
    assert searcher.search("file", top_k=9, allowed=everything) == searcher.search("file", top_k=9)


def test_searches_without_hits() -> None:
    searcher = index_of(bodies(["read a file"])).searcher()
    assert searcher.search("absent", top_k=3) == []
    assert searcher.search("-- ", top_k=3) == []
    assert searcher.search("file", top_k=3, weights={}) == []
    assert searcher.search("file", top_k=3, weights={"symbol": 1.0}) == []
    assert searcher.search("file", top_k=3, allowed=np.array([], dtype=np.int64)) == []
    assert WordIndex.in_memory().searcher().search("file", top_k=3) == []


@pytest.mark.parametrize(
    ("top_k", "weights", "message"),
    [
        (0, None, "top_k must be at least 1, got 0"),
        (1, {"name": 1.0}, "'name' is no field"),
        (1, {"body": -1.0}, "at least 0, got -1.0 for body"),
        (1, {"body": math.nan}, "at least 0, got nan for body"),
    ],
)
def test_bad_searches(top_k: int, weights: dict[str, float] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordIndex.in_memory().searcher().search("x", top_k=top_k, weights=weights)


def found(searcher: WordSearcher, query: str) -> list[int]:
    return sorted(number for number, _ in searcher.search(query, top_k=100))


def segments(folder: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in folder.iterdir() if len(path.name.partition(".")[0]) == 32}


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_searcher_keeps_its_commit(on_disk: bool, tmp_path: Path) -> None:
    index = index_of(bodies(["a file", "a line"]), folder=tmp_path / "words" if on_disk else None)
    before, stamp = index.searcher(), index.opstamp()
    with index.writer() as writer:
        writer.remove([1, 99])
        writer.add(bodies(["another file"], first=2**62))
        assert found(index.searcher(), "file") == [1]
        writer.commit()
        assert found(index.searcher(), "file") == [2**62]
    assert index.opstamp() > stamp
    assert (before.documents, index.documents) == (2, 2)
    assert (found(before, "file"), found(index.searcher(), "file line")) == ([1], [2, 2**62])


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_not_committed_is_discarded(on_disk: bool, tmp_path: Path) -> None:
    index = index_of(bodies(["a file"]), folder=tmp_path / "words" if on_disk else None)
    stamp = index.opstamp()

    def fail() -> None:
        with index.writer() as writer:
            writer.remove([1])
            writer.add(bodies(["a line"], first=2))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    with index.writer() as writer:
        writer.add(bodies(["a line"], first=3))
    assert (index.documents, index.opstamp(), found(index.searcher(), "file line")) == (1, stamp, [1])


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    index = index_of(bodies(["a file"]), folder=tmp_path / "words")
    with index.writer(), pytest.raises(OSError, match=r"cannot be written: .*LockBusy"):
        WordIndex.open(tmp_path / "words").writer().__enter__()


def test_files_of_old_commits_do_not_stay(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    index = index_of(*(bodies(["a file"], first=number) for number in range(1, 21)), folder=folder)
    with index.writer() as writer:
        writer.remove(range(1, 20))
        writer.commit()
        writer.add(bodies(["never committed"], first=30))
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert segments(folder) == {each["segment_id"].replace("-", "") for each in meta["segments"]}
    assert len(segments(folder)) < 10
    assert found(WordIndex.open(folder).searcher(), "file") == [20]


CHILD = """
import sys
from pathlib import Path
from llamaindex_code_retrieval.index.words import WordDocument, WordIndex

with WordIndex.open(Path(sys.argv[1])).writer() as writer:
    writer.add([WordDocument(2, "", "", "", "", "a file")])
    writer.commit()
    writer.remove([1])
    writer.add([WordDocument(3, "", "", "", "", "a file")])
    print("written", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_its_last_commit_and_no_lock(tmp_path: Path) -> None:
    index = index_of(bodies(["a file"]), folder=tmp_path / "words")
    command = [sys.executable, "-c", CHILD, str(tmp_path / "words")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        assert found(index.searcher(), "file") == [1, 2]  # a reader waits for nothing
        child.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    with index.writer() as writer:
        writer.add(bodies(["a file"], first=4))
        writer.commit()
    assert found(index.searcher(), "file") == [1, 2, 4]


FULL_DISK = """
import resource, sys
from pathlib import Path
from llamaindex_code_retrieval.index.words import WordDocument, WordIndex

index = WordIndex.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    with index.writer() as writer:
        writer.add([WordDocument(2, "", "", "", "", "a file")])
        writer.commit()
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="a limit on the size of files stands for a full disk")
def test_a_full_disk_leaves_the_last_commit(tmp_path: Path) -> None:
    index = index_of(bodies(["a file"]), folder=tmp_path / "words")
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "words")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("the word index cannot be written: ")
    assert found(index.searcher(), "file") == [1]


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(WordIndexError, match=r"no word index in .*build it again"):
            WordIndex.open(folder)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="not empty"):
        WordIndex.create(tmp_path)


def test_an_index_of_another_format_is_refused(tmp_path: Path) -> None:
    index_of(bodies(["a file"]), folder=tmp_path / "words")
    (tmp_path / "words" / "words.json").write_text('{"format": 0}', encoding="utf-8")
    with pytest.raises(WordIndexError, match=r"of \{'format': 0\}, not of format 1"):
        WordIndex.open(tmp_path / "words")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    index_of(bodies(["a file"]), folder=folder)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        if content:  # tantivy's lock files are empty
            path.write_bytes(content[: len(content) // 2])
            with pytest.raises(WordIndexError, match="is damaged; build it again"):
                WordIndex.open(folder)
            path.write_bytes(content)
    assert found(WordIndex.open(folder).searcher(), "file") == [1]


@pytest.mark.skipif(os.name != "posix", reason="access is decided by permissions")
def test_a_read_only_folder_is_searched(tmp_path: Path) -> None:
    """Its reader sees later commits of a process that can write. Root can always write, so links are made here."""
    folder = tmp_path / "words"
    index = index_of(bodies(["a file"]), folder=folder)
    links = ReadOnlyFolder(folder)
    reader = WordIndex(tantivy.Index.open(str(links.path)), folder, read_only=links)
    assert found(reader.searcher(), "file") == [1]
    with index.writer() as writer:
        writer.add(bodies(["a file"], first=2))
        writer.commit()
    assert (found(reader.searcher(), "file"), reader.opstamp()) == ([1, 2], index.opstamp())
    with pytest.raises(PermissionError, match="opened to be read only"), reader.writer():
        pass
    folder.chmod(0o500)
    try:
        assert found(WordIndex.open(folder).searcher(), "file") == [1, 2]
    finally:
        folder.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_who_may_read_one_file_may_read_all(tmp_path: Path) -> None:
    index_of(bodies(["a file"]), folder=tmp_path / "words")
    modes = {path.stat().st_mode for path in (tmp_path / "words").iterdir() if not path.name.endswith(".lock")}
    assert len(modes) == 1


def test_documents_with_all_words_of_a_text_in_one_field() -> None:
    documents = [
        WordDocument(1, "read_file", "", "a.py", "", "def read_file(path)"),
        WordDocument(2, "read", "", "file.py", "", "def read(path): file"),
        WordDocument(3, "file", "", "b.py", "", "path"),
        WordDocument(4, "", "", "b.py", "", "readFile(path) " * 20),
    ]
    searcher = index_of(documents[:2], documents[2:]).searcher()
    assert searcher.with_all_words("readFile", field="symbol", top_k=9) == ([1], 1)
    assert searcher.with_all_words("read", field="symbol", top_k=9) == ([2, 1], 2)  # nothing else first
    numbers, count = searcher.with_all_words("read_file", field="body", top_k=9)
    assert (sorted(numbers), count) == ([1, 2, 4], 3)
    first, count = searcher.with_all_words("read_file", field="body", top_k=1)
    assert (first, count) == (numbers[:1], 3)
    for text in ("", "!", "read nothing"):
        assert searcher.with_all_words(text, field="body", top_k=9) == ([], 0)
    with pytest.raises(ValueError, match="'text' is no field of a word index; the fields are symbol"):
        searcher.with_all_words("read", field="text", top_k=9)


def test_numbers_of_documents_above_one() -> None:
    index = index_of(bodies(["a", "", "c"], first=5), bodies(["d"], first=2**62))
    with index.writer() as writer:
        writer.remove([6])
        writer.commit()
    searcher = index.searcher()
    assert [searcher.numbers_above(number) for number in (0, 5, 7, 2**62)] == [[5, 7, 2**62], [7, 2**62], [2**62], []]
    assert WordIndex.in_memory().searcher().numbers_above(0) == []


# --- rarity ----------------------------------------------------------------------------------------------------------


def test_the_rarity_of_a_word_is_its_inverse_document_frequency() -> None:
    """By bodies or paths, whichever have it more often; a word of symbols alone counts as new."""
    documents = [
        WordDocument(1, "load", "", "shop cart", "", "read file"),
        WordDocument(2, "", "", "shop mail", "", "read mail"),
        WordDocument(3, "", "", "bank", "", "read"),
    ]
    searcher = index_of(documents).searcher()
    expected = {"read": 3, "shop": 2, "mail": 1, "file": 1, "load": 0, "unknown": 0, "": 0, "\0": 0}
    for word, count in expected.items():
        assert searcher.rarity(word) == pytest.approx(math.log(1 + (3 - count + 0.5) / (count + 0.5)))
    assert index_of([]).searcher().rarity("read") == pytest.approx(math.log(2))


def test_rarity_is_positive_although_documents_were_removed() -> None:
    """Removed documents count until their segment is merged."""
    index = index_of(bodies(["read"] * 20))
    with index.writer() as writer:
        writer.remove(range(1, 19))
        writer.commit()
    searcher = index.searcher()
    assert searcher.documents == 2
    assert 0 < searcher.rarity("read") < searcher.rarity("write")
