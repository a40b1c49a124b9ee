from __future__ import annotations

import asyncio
import copy
import gc
import json
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CODES, save_adapter, until_the_event_loop_runs
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
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
    embedding = CodeEmbedding(str(bert_folder), precision="fp32")
    codes = [f"def f{i}(): return {i}" for i in range(20)]
    reference = Encoder.from_pretrained(bert_folder, precision="fp32").encode_codes(codes)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(codes), reference, atol=1e-5)
    np.testing.assert_allclose([embedding.get_text_embedding(code) for code in codes], reference, atol=1e-5)
    np.testing.assert_allclose(asyncio.run(embedding.aget_text_embedding_batch(codes)), reference, atol=1e-5)
    np.testing.assert_allclose(asyncio.run(embedding.aget_text_embedding(codes[3])), reference[3], atol=1e-5)
    query = embedding.get_query_embedding("read a file")
    assert query == asyncio.run(embedding.aget_query_embedding("read a file"))
    assert all(type(x) is float for x in query)
    assert embedding.get_text_embedding_batch([]) == []


def test_async_leaves_the_event_loop_free(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), runtime="torch")
    with until_the_event_loop_runs(embedding.torch_encoder.backbone) as wait:

        async def embed() -> None:
            nodes = [TextNode(text="x")]
            for call in (
                embedding.aget_text_embedding("x"),
                embedding.aget_text_embedding_batch(["x", "y"]),
                embedding.aget_query_embedding("x"),
                embedding.acall(nodes),
            ):
                await wait(call)

        asyncio.run(embed())


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
    with pytest.raises(ValueError, match=r"now has fingerprint [0-9a-f]{16}, not 0123 as expected"):
        CodeEmbedding(str(bert_folder), fingerprint="0123")


def test_unknown_languages_are_refused_with_the_known_ones(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    message = "unknown language 'pyhton'; known are python, java, "
    with pytest.raises(ValueError, match=message):
        CodeEmbedding(str(bert_folder), adapters={"pyhton": adapter_folders["lora"]})
    embedding = CodeEmbedding(str(bert_folder))
    for adapter in (adapter_folders["lora"], None):
        with pytest.raises(ValueError, match=message):
            embedding.use_adapter("pyhton", adapter)


def test_wrong_names_are_refused_before_the_base_is_loaded(bert_folder: Path, tmp_path: Path) -> None:
    """The base has no weights, so that loading it is another error."""
    shutil.copytree(bert_folder, tmp_path / "base", ignore=shutil.ignore_patterns("model.safetensors"))
    base = str(tmp_path / "base")
    with pytest.raises(ValueError, match="safetensors"):
        CodeEmbedding(base)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"adapter": "no-such-adapter"}, "unknown adapter 'no-such-adapter'"),
        ({"adapters": {"java": "no-such-adapter"}}, r"unknown adapter 'no-such-adapter'.*\(the adapter for 'java'\)"),
        ({"query_encoder": "no-such-encoder"}, "no-such-encoder"),
        ({"precision": "fp8"}, "fp8"),
        ({"pooling": "max"}, "max"),
        ({"device": "abacus"}, "this machine has no device 'abacus'"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            CodeEmbedding(base, **options)


def test_equal_embeddings_share_their_encoders(
    bert_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    adapter = shutil.copytree(adapter_folders["lora"], tmp_path / "lora")
    first = CodeEmbedding(bert_folder, adapter=adapter, adapters={"java": adapter_folders["ia3"]})
    second = CodeEmbedding(str(bert_folder), adapter=str(adapter))
    other = CodeEmbedding(bert_folder, adapter=adapter_folders["ia3"])
    assert second.encoder is first.encoder
    assert other.encoder is first.for_language("java").encoder
    assert other.torch_encoder.base is first.torch_encoder.base  # one base for all adapters
    assert CodeEmbedding(bert_folder, max_code_tokens=32).encoder is not CodeEmbedding(bert_folder).encoder
    assert CodeEmbedding(bert_folder, adapter=adapter, merge_adapter=False).encoder is not first.encoder

    vector = first.get_text_embedding("x y z")
    save_adapter("lora", bert_folder, adapter, seed=7)  # trained again in place
    changed = CodeEmbedding(bert_folder, adapter=adapter)
    assert changed.get_text_embedding("x y z") != vector == first.get_text_embedding("x y z")


def test_shared_encoders_go_with_their_last_embedding(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    embedding = CodeEmbedding(bert_folder, adapter=adapter_folders["lora"], max_code_tokens=41)
    encoder = weakref.ref(embedding.encoder)
    copied = copy.deepcopy(embedding)
    del embedding
    gc.collect()
    assert encoder() is copied.encoder
    del copied
    gc.collect()
    assert encoder() is None


def test_truncated_codes_are_counted(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), max_code_tokens=8)
    assert embedding.truncated_codes(["a b", "a b c d e f g h"]) == 1


# --- an adapter for each language ------------------------------------------------------------------------------------

LANGUAGES = ["python", "java", "go", "rust", ""] * 4


def _nodes(languages: list[str] = LANGUAGES) -> list[TextNode]:
    return [
        TextNode(id_=str(i), text=f"{CODES[i % len(CODES)]} {i}", metadata={"language": language} if language else {})
        for i, language in enumerate(languages)
    ]


def _hide_metadata(nodes: list[TextNode]) -> list[TextNode]:
    for node in nodes:
        node.excluded_embed_metadata_keys = ["language"]
    return nodes


@pytest.fixture
def options(bert_folder: Path, adapter_folders: dict[str, Path]) -> dict[str, Any]:
    """LoRA for Python, (IA)3 for Java, prompt tuning for Go, AdaLoRA for all else."""
    return {
        "model_name": str(bert_folder),
        "adapter": adapter_folders["adalora"],
        "adapters": {language: adapter_folders[kind] for language, kind in KINDS.items() if language},
        "max_query_tokens": 48,  # leaves room for virtual tokens
        "max_code_tokens": 48,
        "precision": "fp32",
    }


KINDS = {"python": "lora", "java": "ia3", "go": "prompt", "": "adalora"}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_mixed_batch_equals_each_adapter_alone(
    asynchronous: bool, options: dict[str, Any], adapter_folders: dict[str, Path]
) -> None:
    """PEFT's own mixed batches (``adapter_names``) give row 1 the (IA)3 vector of adapter 0, without a word."""
    embedding = CodeEmbedding(**options)
    nodes = _hide_metadata(_nodes())
    out = asyncio.run(embedding.acall(nodes)) if asynchronous else embedding(nodes)
    assert [node.node_id for node in out] == [str(i) for i in range(len(nodes))]
    kinds = [KINDS.get(language, KINDS[""]) for language in LANGUAGES]
    alone = {
        kind: CodeEmbedding(**options | {"adapter": folder, "adapters": None})
        for kind, folder in adapter_folders.items()
    }
    expected = [alone[kind].get_text_embedding(node.text) for kind, node in zip(kinds, nodes, strict=True)]
    np.testing.assert_allclose([node.embedding for node in nodes], expected, atol=1e-6)
    np.testing.assert_allclose(embedding.embed_codes([node.text for node in nodes], LANGUAGES), expected, atol=1e-6)
    assert embedding.get_text_embedding(nodes[0].text) == pytest.approx(
        alone["adalora"].get_text_embedding(nodes[0].text), abs=1e-6
    )
    for language, kind in KINDS.items():
        one = embedding.for_language(language)
        assert one.fingerprint == alone[kind].fingerprint == embedding.fingerprints[language]
        assert one.to_dict() == alone[kind].to_dict()
        assert one.get_query_embedding("q") == pytest.approx(alone[kind].get_query_embedding("q"), abs=1e-6)
    assert embedding.embed_codes([], []).shape == (0, 32)


def test_each_adapter_embeds_its_nodes_in_one_batch(options: dict[str, Any], events: list[Any]) -> None:
    embedding = CodeEmbedding(**options)
    embedding(_nodes())
    ended = [event for event in events if isinstance(event, EmbeddingEndEvent)]
    assert [len(event.chunks) for event in ended] == [4, 4, 4, 8]  # Python, Java, Go, all else


def test_adapters_in_an_ingestion_pipeline(options: dict[str, Any]) -> None:
    embedding = CodeEmbedding(**options)
    nodes = _hide_metadata(_nodes())
    out = IngestionPipeline(transformations=[embedding]).run(nodes=nodes)
    expected = embedding.embed_codes([node.text for node in nodes], LANGUAGES)
    np.testing.assert_allclose([node.embedding for node in out], expected, atol=1e-6)


def test_adapters_survive_round_trips(options: dict[str, Any]) -> None:
    embedding = CodeEmbedding(**options)
    rebuild, (plain,) = embedding.__reduce__()
    expected = embedding.embed_codes(CODES[:3], ["python", "java", "c"])
    for other in (
        CodeEmbedding.from_dict(embedding.to_dict()),
        CodeEmbedding.from_json(embedding.to_json()),
        rebuild(json.loads(json.dumps(plain))),
        copy.deepcopy(embedding),
    ):
        assert other.to_dict() == embedding.to_dict()
        assert other.fingerprints == embedding.fingerprints
        np.testing.assert_allclose(other.embed_codes(CODES[:3], ["python", "java", "c"]), expected, atol=1e-6)


def test_adapters_share_the_base_and_leave_it_alone(options: dict[str, Any], bert_folder: Path) -> None:
    bare = CodeEmbedding(str(bert_folder), max_query_tokens=48, max_code_tokens=48, precision="fp32", runtime="torch")
    before = {name: weight.clone() for name, weight in bare.torch_encoder.backbone.named_parameters()}
    vectors = bare.get_text_embedding_batch(CODES)
    words = {name: weight.data_ptr() for name, weight in bare.torch_encoder.backbone.named_parameters()}
    bare_encoder = bare.encoder
    for language, adapter in options["adapters"].items():
        bare.use_adapter(language, adapter)
        bare.use_adapter("", adapter)
        for encoder in (bare.encoder, bare.for_language(language).encoder):
            shared = {weight.data_ptr() for weight in encoder.backbone.parameters()}
            assert words["embeddings.word_embeddings.weight"] in shared
    assert isinstance(bare_encoder, Encoder)
    for name, weight in bare_encoder.backbone.named_parameters():
        assert torch.equal(weight, before[name])
    np.testing.assert_array_equal(bare_encoder.encode_codes(CODES), np.float32(vectors))


def test_unmerged_adapters_embed_the_same_and_copy_nothing(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    options: dict[str, Any] = {"adapter": adapter_folders["lora"], "adapters": {"python": adapter_folders["ia3"]}}
    merged = CodeEmbedding(str(bert_folder), **options, precision="fp32")
    saving = CodeEmbedding(str(bert_folder), **options, precision="fp32", merge_adapter=False)
    rebuild, arguments = saving.__reduce__()  # how it gets into another process
    again = rebuild(*arguments)
    for language in ("python", "java"):
        expected = merged.for_language(language).get_text_embedding_batch(CODES)
        for embedding in (saving, again):
            found = embedding.for_language(language).get_text_embedding_batch(CODES)
            np.testing.assert_allclose(found, expected, atol=1e-6)
    saving.use_adapter("java", adapter_folders["adalora"])
    for embedding in (saving, again):
        base = {p.data_ptr() for p in embedding.torch_encoder.base.parameters()}
        for encoder in embedding._adapter_set.encoders.values():
            own = [name for name, p in encoder.backbone.named_parameters() if p.data_ptr() not in base]
            assert own
            assert all("lora_" in name or "ia3_" in name or "ranknum" in name for name in own)


def test_two_languages_with_one_adapter_load_it_once(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    lora = adapter_folders["lora"]
    embedding = CodeEmbedding(str(bert_folder), adapters={"c": lora, "cpp": str(lora)})
    assert embedding.for_language("c").encoder is embedding.for_language("cpp").encoder
    same = CodeEmbedding(str(bert_folder), adapter=lora, adapters={"c": lora})
    assert same.fingerprint == CodeEmbedding(str(bert_folder), adapter=lora).fingerprint


def test_hot_swap(bert_folder: Path, tmp_path: Path, adapter_folders: dict[str, Path]) -> None:
    lora, ia3 = adapter_folders["lora"], adapter_folders["ia3"]
    base = str(bert_folder)
    embedding = CodeEmbedding(base, adapters={"python": lora})
    before, kept = embedding.to_dict(), copy.deepcopy(embedding)
    bare = CodeEmbedding(base)

    embedding.use_adapter("python", ia3)
    assert embedding.to_dict() == CodeEmbedding(base, adapters={"python": ia3}).to_dict()
    assert kept.to_dict() == before  # a copy keeps what it had
    embedding.use_adapter("java", str(lora))
    embedding.use_adapter("", ia3)
    assert embedding.to_dict() == CodeEmbedding(base, adapter=ia3, adapters={"python": ia3, "java": lora}).to_dict()
    embedding.use_adapter("python", None)
    embedding.use_adapter("java", None)
    embedding.use_adapter("rust", None)
    assert embedding.to_dict() == CodeEmbedding(base, adapter=ia3).to_dict()
    embedding.use_adapter("", None)
    assert embedding.to_dict() == bare.to_dict()
    assert embedding.get_text_embedding("x y") == bare.get_text_embedding("x y")

    # An adapter that was trained anew in place is read again.
    save_adapter("lora", bert_folder, tmp_path, seed=1)
    embedding.use_adapter("python", tmp_path)
    first = embedding.fingerprint
    save_adapter("lora", bert_folder, tmp_path, seed=2)
    embedding.use_adapter("python", tmp_path)
    assert embedding.fingerprint != first


def test_a_refused_adapter_leaves_all_as_it_was(
    bert_folder: Path, roberta_folder: Path, tmp_path: Path, adapter_folders: dict[str, Path]
) -> None:
    embedding = CodeEmbedding(str(bert_folder), adapters={"python": adapter_folders["lora"]})
    before = (embedding.to_dict(), embedding.embed_codes(["x"], ["python"]).tolist())
    other_base = tmp_path / "other"
    save_adapter("lora", bert_folder, other_base)
    trained = {"name": "someone/else", "fingerprint": "0" * 16, "pooling": "mean"}
    (other_base / "train_config.json").write_text(json.dumps({"base": trained}))
    other_pooling = tmp_path / "pooling"
    save_adapter("lora", bert_folder, other_pooling)
    trained = {"name": "x", "fingerprint": embedding.encoder.base_fingerprint, "pooling": "cls"}
    (other_pooling / "train_config.json").write_text(json.dumps({"base": trained}))
    for adapter, message in (
        (other_base, r"was trained on 'someone/else' with base fingerprint 0{16}.*\(the adapter for 'java'\)"),
        (other_pooling, "was trained for pooling 'cls'.*pass pooling='cls'"),
        (tmp_path / "missing", "folder .*missing does not exist.*'java'"),
        (roberta_folder, r"holds no adapter_config\.json"),
        ("", "must be a folder or a hub name"),
        (adapter_folders["prompt"], "virtual ones do not fit"),
    ):
        for language in ("java", "python"):
            with pytest.raises(ValueError, match=message.replace("'java'", f"'{language}'")):
                embedding.use_adapter(language, adapter)
        with pytest.raises(ValueError, match=message.partition(".*")[0]):
            CodeEmbedding(str(bert_folder), adapters={"java": adapter})
    assert (embedding.to_dict(), embedding.embed_codes(["x"], ["python"]).tolist()) == before


@pytest.mark.parametrize(
    "adapters", ["python", [("python", "x")], [], "", {"": "x"}, {1: "x"}, {"python": ""}, {"python": 3}]
)
def test_wrong_adapters(adapters: Any, bert_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"adapters must map|a language must be a word|must be a folder or a hub name"):
        CodeEmbedding(str(bert_folder), adapters=adapters)


def test_ingestion_hash_follows_the_adapters(bert_folder: Path, tmp_path: Path) -> None:
    one, two = (save_adapter("lora", bert_folder, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    variants = [{}, {"python": one}, {"python": two}, {"java": one}, {"python": one, "java": two}]
    embeddings = [CodeEmbedding(str(bert_folder), adapters=adapters) for adapters in variants]
    nodes = [TextNode(text="x", id_="1")]
    assert len({get_transformation_hash(nodes, embedding) for embedding in embeddings}) == len(variants)
    assert len({embedding.fingerprint for embedding in embeddings}) == len(variants)
    assert embeddings[0].fingerprint == CodeEmbedding(str(bert_folder)).fingerprint
    hashed = get_transformation_hash(nodes, embeddings[1])
    save_adapter("lora", bert_folder, one, seed=3)  # trained anew in place
    assert get_transformation_hash(nodes, CodeEmbedding(str(bert_folder), adapters={"python": one})) != hashed


def test_embedding_codes_can_be_stopped_between_two_calls_of_the_model(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder))
    codes = [f"def f{i}(a): return a + {i}" for i in range(300)]
    counts: list[int] = []

    def stop(count: int) -> None:
        counts.append(count)
        raise KeyboardInterrupt

    embedding.embed_codes(codes, ["python"] * 300, on_batch=counts.append)
    assert sum(counts) == 300
    assert len(counts) > 2
    counts.clear()
    with pytest.raises(KeyboardInterrupt):
        embedding.embed_codes(codes, ["python"] * 300, on_batch=stop)
    assert len(counts) == 1
    assert embedding.embed_codes(codes, ["python"] * 300).shape == (300, 32)


def test_a_swap_keeps_the_cached_vectors_of_other_languages(
    bert_folder: Path, tmp_path: Path, adapter_folders: dict[str, Path]
) -> None:
    options = {"java": adapter_folders["lora"], "python": adapter_folders["ia3"]}
    embedding = CodeEmbedding(str(bert_folder), adapters=options, cache_folder=tmp_path)
    codes, languages = ["a", "b", "c"], ["java", "python", "go"]
    embedding.embed_codes(codes, languages)
    assert len(EmbeddingCache(tmp_path)) == 3
    embedding.use_adapter("python", adapter_folders["adalora"])
    embedding.embed_codes(codes, languages)
    assert len(EmbeddingCache(tmp_path)) == 4


def test_swaps_while_other_threads_embed(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    """Each call sees one adapter or the other, never a mixture."""
    loras = [adapter_folders["lora"], adapter_folders["ia3"]]
    embedding = CodeEmbedding(str(bert_folder), adapters={"python": loras[0]}, precision="fp32")
    codes, languages = CODES[:4], ["python", "java"] * 2
    allowed = []
    for adapter in loras:
        embedding.use_adapter("python", adapter)
        allowed.append(embedding.embed_codes(codes, languages))
    wrong: list[Any] = []
    stop = threading.Event()

    def embed() -> None:
        while not stop.is_set():
            vectors = embedding.embed_codes(codes, languages)
            if min(abs(vectors - each).max() for each in allowed) > 1e-5:
                wrong.append(vectors)

    threads = [threading.Thread(target=embed) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(10):
        embedding.use_adapter("python", loras[i % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
