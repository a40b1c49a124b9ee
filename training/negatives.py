"""Hard negatives: codes that the current model takes for answers, and that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from llama_index.core.schema import Document
from numpy.typing import NDArray
from torch import Tensor

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.index.sources import read_sources


def hard_negatives(
    queries: NDArray[np.float32],
    codes: NDArray[np.float32],
    positives: Sequence[int],
    *,
    per_query: int,
    margin: float = 0.05,
    depth: int = 100,
    clusters: Sequence[int] | None = None,
    answers: Sequence[frozenset[int]] | None = None,
) -> list[list[int]]:
    """Return for each query the rows of at most ``per_query`` codes nearest to it that do not answer it.

    ``queries`` (n, dim) and ``codes`` (m, dim) are unit vectors, ``positives[i]`` is the code of query i, and
    ``answers[i]`` all that are known to answer it. False negatives are filtered by margin: a code nearer than the
    positive's cosine less ``margin`` is taken for an unmarked answer (NV-Retriever, Moreira et al. 2024, section 3),
    and so is a near-duplicate of an answer (the same ``clusters`` entry). Only the ``depth`` nearest
    codes are looked at.

    >>> codes = np.eye(3, dtype=np.float32)
    >>> hard_negatives(np.array([[0.8, 0.6, 0.0]], dtype=np.float32), codes, [0], per_query=1)
    [[1]]
    """
    if per_query < 1:
        raise ValueError(f"per_query must be at least 1, got {per_query}")
    groups = list(range(len(codes))) if clusters is None else clusters
    found: list[list[int]] = []
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024] @ codes.T  # (queries, codes)
        for i, row in enumerate(scores, start=start):
            known = answers[i] | {positives[i]} if answers is not None else {positives[i]}
            excluded = {groups[code] for code in known}
            size = min(len(row), depth + len(known))
            nearest = np.argpartition(-row, size - 1)[:size]
            nearest = nearest[np.lexsort((nearest, -row[nearest]))]
            limit = row[positives[i]] - margin
            found.append([int(j) for j in nearest if row[j] <= limit and groups[j] not in excluded][:per_query])
    return found


def distractors(roots: Sequence[Path]) -> dict[str, str]:
    """Return what source trees hold between their functions, code -> language: imports, constants, heads of classes.

    An index holds such nodes too, and pairs of documented functions teach nothing of them.

    Raises:
        ValueError: a root is no folder, or holds no source.
    """
    parser = CodeNodeParser()
    found: dict[str, str] = {}
    for path, text in read_sources(roots):
        for node in parser.get_nodes_from_documents([Document(text=text, metadata={"path": path})]):
            if node.metadata["kind"] in ("module", "class"):
                found.setdefault(node.get_content(), node.metadata["language"])
    if roots and not found:
        raise ValueError(f"no source between functions in {', '.join(map(str, roots))}; name a folder with source code")
    return found


def pack(mined: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return mined rows as tensors for the state of an unfinished run; nothing where nothing was mined."""
    if not mined:
        return {}
    rows = [row for own in mined for row in own]
    return {
        "mined/sizes": torch.tensor([len(own) for own in mined]),
        "mined/rows": torch.tensor(rows, dtype=torch.int64),
    }


def unpack(tensors: Mapping[str, Tensor]) -> list[list[int]]:
    """Return what :func:`pack` was given."""
    if "mined/sizes" not in tensors:
        return []
    return [rows.tolist() for rows in torch.split(tensors["mined/rows"], tensors["mined/sizes"].tolist())]
