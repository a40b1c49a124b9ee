from __future__ import annotations

import asyncio
import copy
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from llamaindex_code_retrieval import CodeEmbedding, EmbeddingCache, Encoder


class _Events(BaseEventHandler):
    seen: list[Any] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(event)


@pytest.fixture
def events() -> Any:
    handler = _Events()
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(handler)
    yield handler.seen
    dispatcher.event_handlers.remove(handler)


def test_sync_async_and_encoder_agree(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder))
    codes = [f"def f{i}(): return {i}" for i in range(20)]
    reference = Encoder.from_pretrained(bert_folder).encode_codes(codes)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(codes), reference, atol=1e-5)
    np.testing.assert_allclose([embedding.get_text_embedding(code) for code in codes], reference, atol=1e-5)
    np.testing.assert_allclose(asyncio.run(embedding.aget_text_embedding_batch(codes)), reference, atol=1e-5)
    np.testing.assert_allclose(asyncio.run(embedding.aget_text_embedding(codes[3])), reference[3], atol=1e-5)
    query = embedding.get_query_embedding("read a file")
    assert query == asyncio.run(embedding.aget_query_embedding("read a file"))
    assert all(type(x) is float for x in query)
    assert embedding.get_text_embedding_batch([]) == []


def test_async_leaves_the_event_loop_free(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder))

    async def ticks_while_embedding() -> int:
        task = asyncio.create_task(embedding.aget_text_embedding_batch(["x y z " * 20] * 3_000))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return ticks

    assert asyncio.run(ticks_while_embedding()) > 3


def test_threads_get_the_right_vectors(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder))
    codes = [f"{'x ' * i}" for i in range(1, 9)]
    expected = [embedding.get_text_embedding(code) for code in codes]
    got: dict[int, list[float]] = {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: embedding.get_text_embedding(codes[i])}))  # type: ignore[misc]
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        np.testing.assert_allclose(got[i], expected[i], atol=1e-6)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_events_exactly_once(asynchronous: bool, bert_folder: Path, events: list[Any]) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    embedding = CodeEmbedding(str(bert_folder), callback_manager=CallbackManager([debug]), embed_batch_size=2)
    texts = ["a", "b", "c"]
    if asynchronous:
        asyncio.run(embedding.aget_text_embedding_batch(texts))
        asyncio.run(embedding.aget_query_embedding("q"))
    else:
        embedding.get_text_embedding_batch(texts)
        embedding.get_query_embedding("q")
    started = [event for event in events if isinstance(event, EmbeddingStartEvent)]
    ended = [event for event in events if isinstance(event, EmbeddingEndEvent)]
    assert len(started) == 3  # two batches and a query
    assert sorted(chunk for event in ended for chunk in event.chunks) == ["a", "b", "c", "q"]
    assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 3


def test_ingestion_hash_follows_all_that_changes_a_vector(
    bert_folder: Path, roberta_folder: Path, tmp_path: Path
) -> None:
    """LlamaIndex's HuggingFaceEmbedding fails this: adapters and precision are not in its hash."""
    adapters = []
    for seed in range(2):
        model = get_peft_model(AutoModel.from_pretrained(bert_folder), LoraConfig(r=2 + seed, target_modules=["query"]))
        model.save_pretrained(tmp_path / str(seed))
        adapters.append(tmp_path / str(seed))
    base = str(bert_folder)
    variants = [
        CodeEmbedding(base, precision="fp32"),
        CodeEmbedding(str(roberta_folder), precision="fp32"),
        CodeEmbedding(base, precision="fp32", adapter=adapters[0]),
        CodeEmbedding(base, precision="fp32", adapter=adapters[1]),
        CodeEmbedding(base, precision="fp32", pooling="cls"),
        CodeEmbedding(base, precision="bf16"),
        CodeEmbedding(base, precision="fp32", max_code_tokens=32),
        CodeEmbedding(base, precision="fp32", max_query_tokens=32),
    ]
    nodes = [TextNode(text="x", id_="1")]
    assert len({get_transformation_hash(nodes, variant) for variant in variants}) == len(variants)
    again = CodeEmbedding(base, precision="fp32", cache_folder=tmp_path / "cache")
    assert get_transformation_hash(nodes, again) == get_transformation_hash(nodes, variants[0])


def test_adapter_changed_in_place_changes_the_ingestion_hash(bert_folder: Path, tmp_path: Path) -> None:
    hashes = set()
    for rank in (2, 3):
        model = get_peft_model(AutoModel.from_pretrained(bert_folder), LoraConfig(r=rank, target_modules=["query"]))
        model.save_pretrained(tmp_path)
        embedding = CodeEmbedding(str(bert_folder), adapter=tmp_path)
        hashes.add(get_transformation_hash([TextNode(text="x", id_="1")], embedding))
    assert len(hashes) == 2


def test_round_trips(bert_folder: Path, tmp_path: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), pooling="cls", max_code_tokens=32, cache_folder=tmp_path)
    vector = embedding.get_text_embedding("x y z")
    rebuild, (options,) = embedding.__reduce__()
    for other in (
        CodeEmbedding.from_dict(embedding.to_dict()),
        CodeEmbedding.from_json(embedding.to_json()),
        rebuild(json.loads(json.dumps(options))),  # what travels to IngestionPipeline's worker processes is plain
        copy.deepcopy(embedding),
    ):
        assert isinstance(other, CodeEmbedding)
        assert other.to_dict() == embedding.to_dict()
        assert other.get_text_embedding("x y z") == vector


def test_cache_is_used_and_keeps_queries_and_codes_apart(bert_folder: Path, tmp_path: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), cache_folder=tmp_path)
    plain = CodeEmbedding(str(bert_folder))
    texts = ["a b", "c", "a b", ""]
    np.testing.assert_allclose(
        embedding.get_text_embedding_batch(texts), plain.get_text_embedding_batch(texts), atol=1e-6
    )
    assert len(EmbeddingCache(tmp_path)) == 3
    embedding.get_query_embedding("a b")
    assert len(EmbeddingCache(tmp_path)) == 4

    # A planted vector comes back, so the second call did not compute.
    planted = np.full(32, 0.5, dtype=np.float32)
    key = EmbeddingCache.key(f"{embedding.fingerprint}-{embedding.precision}", "code", "planted")
    EmbeddingCache(tmp_path).put({key: planted})
    assert embedding.get_text_embedding("planted") == planted.tolist()
    assert embedding.get_query_embedding("planted") != planted.tolist()
    other_limit = CodeEmbedding(str(bert_folder), max_code_tokens=16, cache_folder=tmp_path)
    assert other_limit.get_text_embedding("planted") != planted.tolist()


def test_wrong_options(bert_folder: Path) -> None:
    with pytest.raises(ValueError, match="cache_folder"):
        CodeEmbedding(str(bert_folder), embeddings_cache=SimpleKVStore())
    with pytest.raises(TypeError, match="no option poling"):
        CodeEmbedding(str(bert_folder), poling="cls")
    with pytest.raises(ValueError, match=r"now has fingerprint [0-9a-f]{16}, but 0123 is asked for"):
        CodeEmbedding(str(bert_folder), fingerprint="0123")


def test_truncated_codes_are_counted(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), max_code_tokens=8)
    assert embedding.truncated_codes(["a b", "a b c d e f g h"]) == 1
