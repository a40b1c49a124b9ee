"""The student models: a token table, the teacher's backbone with fewer layers, a small transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from llamaindex_code_retrieval._io import clean_text
from llamaindex_code_retrieval.models.catalog import Side
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.modify import add_projection, keep_layers
from llamaindex_code_retrieval.models.static_encoder import StaticEncoder, static_tensors, table_rows
from llamaindex_code_retrieval.training.adapters import attach_adapter
from llamaindex_code_retrieval.training.config import AdapterConfig, StudentConfig


class StaticStudent(nn.Module):
    """A trainable table of token vectors; :meth:`to_static_encoder` returns the form for use."""

    def __init__(self, teacher: Encoder, config: StudentConfig, *, max_tokens: int, seed: int) -> None:
        """Initialise with the ``table_rank`` principal components of the teacher's vectors of single tokens."""
        super().__init__()
        self._tokenizer = teacher.tokenizer.backend_tokenizer.__class__.from_str(
            teacher.tokenizer.backend_tokenizer.to_str()
        )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens
        self.buckets = config.buckets
        self.words = len(teacher.tokenizer)
        vectors = token_vectors(teacher)
        centred = vectors - vectors.mean(0)
        rank = min(config.table_rank, *centred.shape)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        rows = torch.zeros(self.words + self.buckets, rank)
        rows[: self.words] = centred @ axes[:rank].T
        self.table = nn.EmbeddingBag.from_pretrained(rows, freeze=False, mode="sum")
        self.projection = nn.Parameter(axes[:rank].clone())  # (rank, dim)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner = nn.Linear(rank, config.hidden)
        self.outer = nn.Parameter(torch.zeros(config.hidden, teacher.dim))  # zero, so that it adds nothing at first

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.projection.device

    def tokenize(self, texts: Sequence[str], *, side: Side = "query") -> list[list[int]]:
        """Return the rows of the table of each text: those of its tokens and of its pairs of neighbouring tokens."""
        clean = [clean_text(text) for text in texts]
        encodings = self._tokenizer.encode_batch(clean, add_special_tokens=False)
        return [table_rows(each.ids[: self.max_tokens], words=self.words, buckets=self.buckets) for each in encodings]

    def embed(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return unit vectors, ``(texts, dim)``."""
        flat = torch.tensor([row for rows in ids for row in rows], dtype=torch.long)
        starts = np.cumsum([0, *(len(rows) for rows in ids)])[:-1]
        sums = self.table(flat, torch.from_numpy(starts))  # (texts, rank)
        vectors = sums @ self.projection
        if len(self.outer):
            directions = F.normalize(sums, dim=1) * sums.shape[1] ** 0.5
            lengths = sums.norm(dim=1, keepdim=True)
            vectors = vectors + lengths * (F.gelu(self.inner(directions), approximate="tanh") @ self.outer)
        return F.normalize(vectors, dim=1)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, ``(queries, dim)``."""
        with torch.inference_mode():
            return self.embed(self.tokenize(queries)).numpy()

    def to_static_encoder(self) -> StaticEncoder:
        """Return the student in the form for use, without torch."""
        return StaticEncoder(self._tokenizer, self.tensors(), buckets=self.buckets, max_tokens=self.max_tokens)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to save: the table in int8, the rest in half precision."""
        parts = (self.table.weight, self.projection, self.inner.weight.T, self.inner.bias, self.outer)
        return static_tensors(*(part.detach().numpy() for part in parts))

    def tokenizer_json(self) -> str:
        """Return the tokenizer in the format of the package ``tokenizers``."""
        text: str = self._tokenizer.to_str()
        return text


Student = StaticStudent | Encoder
"""A query encoder that is trained."""


def token_vectors(teacher: Encoder) -> Tensor:
    """Return the teacher's vector of each single token, ``(tokens, dim)``."""
    layout = teacher.tokenization.pair_layout()
    words = len(teacher.tokenizer)
    with torch.inference_mode():
        parts = [
            teacher.embed(
                [[*layout.before, token, *layout.after] for token in range(start, min(words, start + 512))]
            ).cpu()
            for start in range(0, words, 512)
        ]
    return torch.cat(parts).clone()


def check_student(teacher: Encoder, config: StudentConfig) -> None:
    """Refuse a student that cannot be made of this teacher, before the teacher embeds anything.

    Raises:
        ValueError: layers that the teacher lacks; ``int8`` on a GPU.
    """
    if config.kind == "layers":
        teacher.with_backbone(lambda base: keep_layers(base, config.layers))
    if config.int8 and teacher.device.type != "cpu":
        raise ValueError(
            f"int8 is computed on a CPU only, and on {teacher.device.type} the student could not be measured as it "
            "will be used; train it with --device cpu, or leave int8 out"
        )


def new_student(
    teacher: Encoder, config: StudentConfig, adapter: AdapterConfig, *, max_tokens: int, seed: int = 0
) -> Student:
    """Return an untrained student; it shares the weights that it keeps of the teacher's base.

    A student of kind ``layers`` is trained as ``adapter`` says: by an adapter on the kept layers of the base, which
    come without the teacher's own adapter, or in full. Students of the other kinds are trained in full.

    Raises:
        ValueError: layers that the teacher lacks, or an adapter that does not fit.
    """
    if config.kind == "static":
        return StaticStudent(teacher, config, max_tokens=max_tokens, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.kind == "transformer":
            encoder = teacher.with_backbone(
                lambda base: add_projection(_small_backbone(base, teacher, config), teacher.dim)
            )
        else:
            encoder = attach_adapter(
                teacher.without_adapter(),
                adapter,
                seed=seed,
                prepare=lambda base: add_projection(keep_layers(base, config.layers), teacher.dim),
            )
    if not hasattr(teacher.base, "proj"):  # the base's own projection stays frozen
        encoder.backbone.proj.requires_grad_(True)
    encoder.max_query_tokens = max_tokens
    return encoder


def _small_backbone(base: Any, teacher: Encoder, config: StudentConfig) -> nn.Module:
    """Return a small BERT whose token embeddings are the principal components of the base's."""
    from transformers import BertConfig, BertModel

    words: Tensor = base.get_input_embeddings().weight.detach().float()
    small = BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.width // 32,
            intermediate_size=4 * config.width,
            max_position_embeddings=teacher.positions or 512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )
    rank = min(config.width, *words.shape)
    _, _, axes = torch.linalg.svd(words - words.mean(0), full_matrices=False)
    with torch.no_grad():
        small.embeddings.word_embeddings.weight[:, :rank] = (words - words.mean(0)) @ axes[:rank].T
    backbone: nn.Module = small
    return backbone


def student_record(config: StudentConfig, adapter: AdapterConfig) -> dict[str, Any]:
    """Return the settings of a student that its kind uses."""
    record = config.model_dump(include={"kind", *config.SETTINGS_OF[config.kind]})
    if config.kind == "layers":
        record["adapter"] = adapter.model_dump()
    return record
