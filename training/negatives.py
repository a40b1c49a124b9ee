"""Mine hard negatives: codes near a query that do not answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from llama_index.core.schema import Document
from numpy.typing import NDArray
from torch import Tensor

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.index.sources import read_sources
from llamaindex_code_retrieval.index.update import bounded_parser


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
    device: torch.device | str = "cpu",
) -> list[list[int]]:
    """Return for each query the rows of at most ``per_query`` codes nearest to it that do not answer it, nearest first.

    Probable false negatives are left out: codes nearer than the cosine of the positive minus ``margin``
    (NV-Retriever: Moreira et al. 2024, section 3), and near-duplicates of an answer.

    Args:
        queries: unit vectors, ``(queries, dim)``.
        codes: unit vectors, ``(codes, dim)``.
        positives: the row in ``codes`` of each query's positive.
        per_query: negatives of a query at most.
        margin: a negative value also admits codes nearer than the positive.
        depth: only so many of the nearest codes are considered.
        clusters: for each code the number of its cluster of near-duplicates.
        answers: for each query the rows of all codes that are known to answer it.
        device: computes the cosines.

    >>> codes = np.eye(3, dtype=np.float32)
    >>> hard_negatives(np.array([[0.8, 0.6, 0.0]], dtype=np.float32), codes, [0], per_query=1)
    [[1]]
    """
    if per_query < 1 or depth < 1:
        raise ValueError(f"per_query and depth must be at least 1, got {per_query} and {depth}")
    groups = list(range(len(codes))) if clusters is None else clusters
    negatives: list[list[int]] = []
    most_answers = max(map(len, answers), default=1) if answers is not None else 1
    size = min(len(codes), depth + most_answers + 1)
    columns = torch.from_numpy(codes).to(device).T  # (dim, codes)
    for start in range(0, len(queries), 1024):
        cosines = torch.from_numpy(queries[start : start + 1024]).to(device) @ columns  # (queries, codes)
        answer = torch.tensor(positives[start : start + 1024], device=device)[:, None]
        limits = (cosines.gather(1, answer) - margin).cpu().numpy()[:, 0]
        best = cosines.topk(size, dim=1)
        for i, (values, rows) in enumerate(zip(best.values.cpu().numpy(), best.indices.cpu().numpy(), strict=True)):
            known = {positives[start + i]} | (answers[start + i] if answers is not None else frozenset())
            excluded = {groups[code] for code in known}
            taken = slice(min(size, depth + len(known)))
            order = np.lexsort((rows, -values))[taken]
            allowed = [int(j) for j in rows[order][values[order] <= limits[i]] if groups[j] not in excluded]
            negatives.append(allowed[:per_query])
    return negatives


def read_distractors(folders: Sequence[Path], embedding: CodeEmbedding) -> dict[str, str]:
    """Return code -> language of what source trees hold between their functions: imports, constants, class headers.

    An index of ``embedding`` retrieves such nodes as well, and pairs of documented functions hold none of them.

    Raises:
        ValueError: a path is not a folder, or no folder holds such code.
    """
    parser = bounded_parser(CodeNodeParser(), embedding)
    languages: dict[str, str] = {}
    for path, text in read_sources(folders):
        for node in parser.get_nodes_from_documents([Document(text=text, metadata={"path": path})]):
            if node.metadata["kind"] in ("module", "class"):
                languages.setdefault(node.get_content(), node.metadata["language"])
    if folders and not languages:
        raise ValueError(f"no code between functions in {', '.join(map(str, folders))}; name a folder with source code")
    return languages


def pack_rows(mined: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return mined rows as tensors for the state of an unfinished run; an empty dict where nothing was mined."""
    if not mined:
        return {}
    return {
        "mined/sizes": torch.tensor([len(rows) for rows in mined]),
        "mined/rows": torch.tensor([row for rows in mined for row in rows], dtype=torch.int64),
    }


def unpack_rows(tensors: Mapping[str, Tensor]) -> list[list[int]]:
    """Return the rows that :func:`pack_rows` packed."""
    if "mined/sizes" not in tensors:
        return []
    return [rows.tolist() for rows in torch.split(tensors["mined/rows"], tensors["mined/sizes"].tolist())]
