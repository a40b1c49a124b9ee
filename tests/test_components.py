"""Every public component as LlamaIndex uses it: dictionaries, JSON, other processes, copies, async twins, paths."""

from __future__ import annotations

import asyncio
import copy
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import cos, sin
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CODES
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser.interface import NodeParser
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseComponent, BaseNode, Document, NodeWithScore, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from transformers import BertForSequenceClassification, BertTokenizerFast

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
    CodeNodeParser,
    CodeReranker,
    CodeRetriever,
    Encoder,
    FaissStore,
)
from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.training.checkpoints import save_query_encoder
from llamaindex_code_retrieval.training.config import AdapterConfig, StudentConfig
from llamaindex_code_retrieval.training.students import new_student

QUERY = "read a file line by line"


@dataclass(frozen=True)
class Folders:
    """Tiny models on disk."""

    base: Path
    lora: Path
    ia3: Path
    query_encoder: Path  # distilled from the base without adapter
    checkpoint: Path  # a Hugging Face cross-encoder
    reranker: Path  # one of ours: the LoRA adapter with a head
    scratch: Path


AnyPath = Callable[[Path], Any]
"""``str`` or ``Path``: how the component gets its folders."""


@dataclass(frozen=True)
class Component:
    """One way to build a public component, and what it must be and do."""

    make: Callable[[Folders, AnyPath], Any]
    base: type
    """The LlamaIndex class that it extends."""
    results: Callable[[Any], object]
    """What a user gets from it; compared exactly between copies."""
    async_results: Callable[[Any], Awaitable[object]] | None = None
    """The same results by its async methods."""
    from_dict: Callable[[Any, dict[str, Any]], Any] | None = None
    """Rebuild from ``to_dict()`` where the plain ``from_dict(data)`` cannot."""


def _hits() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(id_=f"n{i}", text=code), score=0.5) for i, code in enumerate(CODES)]


def _embed(embedding: CodeEmbedding) -> object:
    nodes = [TextNode(id_=str(i), text=code, metadata={"language": "java"}) for i, code in enumerate(CODES)]
    vectors = [embedding.get_query_embedding(QUERY), *embedding.get_text_embedding_batch(CODES)]
    return vectors, [node.embedding for node in embedding(nodes)]


async def _aembed(embedding: CodeEmbedding) -> object:
    nodes = [TextNode(id_=str(i), text=code, metadata={"language": "java"}) for i, code in enumerate(CODES)]
    vectors = [await embedding.aget_query_embedding(QUERY), *await embedding.aget_text_embedding_batch(CODES)]
    return vectors, [node.embedding for node in await embedding.acall(nodes)]


def _rerank(reranker: CodeReranker) -> object:
    return [(hit.node_id, hit.score) for hit in reranker.postprocess_nodes(_hits(), query_str=QUERY)]


async def _arerank(reranker: CodeReranker) -> object:
    return [(hit.node_id, hit.score) for hit in await reranker.apostprocess_nodes(_hits(), query_str=QUERY)]


def _store() -> FaissStore:
    store = FaissStore(2, exact_limit=50)
    angles = [0.1, 0.4, 0.9]
    nodes = [TextNode(id_=f"n{i}", metadata={"i": i}, embedding=[cos(a), sin(a)]) for i, a in enumerate(angles)]
    store.add(nodes)
    store.delete_nodes(["n1"])
    return store


def _retriever(folders: Folders, path: AnyPath) -> CodeRetriever:
    embedding = CodeEmbedding(path(folders.base), adapters={"java": path(folders.ia3)}, precision="fp32")
    index = CodeIndex(embedding, parser=CodeNodeParser(max_lines=20, overlap_lines=2))
    index.update_texts({f"f{i}.java": code for i, code in enumerate(CODES)} | {"a.py": "def read(file):\n    pass\n"})
    filters = NodeFilter(languages=("java", "python"))
    return index.as_retriever(top_k=4, dense_weight=0.6, candidates=5, rank_constant=3, filters=filters)


def _retrieve(retriever: CodeRetriever) -> object:
    return [(hit.score, hit.node.to_dict()) for hit in retriever.retrieve(QUERY)]


async def _aretrieve(retriever: CodeRetriever) -> object:
    return [(hit.score, hit.node.to_dict()) for hit in await retriever.aretrieve(QUERY)]


_EVEN = MetadataFilters(filters=[MetadataFilter(key="i", value=[0, 2], operator=FilterOperator.IN)])


def _nearest(store: FaissStore) -> object:
    query = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=3, filters=_EVEN)
    result = store.query(query)
    return result.ids, result.similarities


async def _anearest(store: FaissStore) -> object:
    query = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=3, filters=_EVEN)
    result = await store.aquery(query)
    return result.ids, result.similarities


SOURCE = "class A\n  def f\n    1\n  end\nend\n\ndef g\n" + "  2\n" * 30 + "end\n"


def _parse(parser: CodeNodeParser) -> object:
    document = Document(text=SOURCE, id_="document", metadata={"path": "a"})
    nodes = parser.get_nodes_from_documents([document])
    return [(node.node_id, node.metadata, node.get_content()) for node in nodes]


async def _aparse(parser: CodeNodeParser) -> object:
    document = Document(text=SOURCE, id_="document", metadata={"path": "a"})
    nodes = await parser.aget_nodes_from_documents([document])
    return [(node.node_id, node.metadata, node.get_content()) for node in nodes]


def _number(number: int, document: BaseNode) -> str:
    return f"{document.node_id}-{number}"


COMPONENTS = {
    "CodeNodeParser": Component(
        make=lambda folders, path: CodeNodeParser(max_lines=10, language="ruby"),
        base=NodeParser,
        results=_parse,
        async_results=_aparse,
    ),
    "CodeNodeParser with every option": Component(
        make=lambda folders, path: CodeNodeParser(
            max_lines=20, overlap_lines=1, language="ruby", include_prev_next_rel=False, id_func=_number
        ),
        base=NodeParser,
        results=_parse,
        async_results=_aparse,
        from_dict=lambda instance, data: type(instance).from_dict(data, id_func=instance.id_func),
    ),
    "CodeEmbedding": Component(
        make=lambda folders, path: CodeEmbedding(path(folders.base)),
        base=BaseEmbedding,
        results=_embed,
        async_results=_aembed,
    ),
    "CodeEmbedding with every option": Component(
        make=lambda folders, path: CodeEmbedding(
            path(folders.base),
            adapter=path(folders.lora),
            adapters={"java": path(folders.ia3)},
            pooling="cls",
            precision="fp32",
            max_query_tokens=40,
            max_code_tokens=48,
            device="cpu",
            cache_folder=path(folders.scratch / "cache"),
            merge_adapter=False,
            embed_batch_size=3,
            num_workers=2,
        ),
        base=BaseEmbedding,
        results=_embed,
        async_results=_aembed,
    ),
    "CodeEmbedding with a query encoder": Component(
        make=lambda folders, path: CodeEmbedding(
            path(folders.base), adapters={"java": path(folders.lora)}, query_encoder=path(folders.query_encoder)
        ),
        base=BaseEmbedding,
        results=_embed,
        async_results=_aembed,
    ),
    "CodeReranker": Component(
        make=lambda folders, path: CodeReranker(
            path(folders.reranker),
            top_n=3,
            threshold=0.01,
            rank_weight=0.5,
            repository_weight=0.25,
            merge_adapter=True,
            precision="fp32",
        ),
        base=BaseNodePostprocessor,
        results=_rerank,
        async_results=_arerank,
    ),
    "CodeReranker on a checkpoint": Component(
        make=lambda folders, path: CodeReranker(
            path(folders.checkpoint), top_n=3, max_tokens=32, token_budget=64, device="cpu"
        ),
        base=BaseNodePostprocessor,
        results=_rerank,
        async_results=_arerank,
    ),
    "CodeRetriever": Component(make=_retriever, base=BaseRetriever, results=_retrieve, async_results=_aretrieve),
    "FaissStore": Component(
        make=lambda folders, path: _store(), base=BasePydanticVectorStore, results=_nearest, async_results=_anearest
    ),
}


@pytest.fixture(scope="module")
def folders(bert_folder: Path, adapter_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("components")
    torch.manual_seed(0)
    BertForSequenceClassification.from_pretrained(bert_folder, num_labels=1).save_pretrained(root / "checkpoint")
    BertTokenizerFast.from_pretrained(bert_folder).save_pretrained(root / "checkpoint")
    shutil.copytree(adapter_folders["lora"], root / "reranker")
    adapted = Encoder.from_pretrained(bert_folder, adapter=adapter_folders["lora"], precision="fp32")
    CrossEncoder.on(adapted, max_tokens=48, variant="adapters").save(root / "reranker")
    teacher = Encoder.from_pretrained(bert_folder, precision="fp32")
    settings = StudentConfig(kind="static", table_rank=8, buckets=32, hidden=8)
    student = new_student(teacher, settings, AdapterConfig(), max_tokens=16)
    identity = {"name": teacher.name, "adapter": "none", "fingerprint": teacher.fingerprint}
    save_query_encoder(student, root / "query-encoder", settings, teacher=identity, max_tokens=16)
    return Folders(
        base=bert_folder,
        lora=adapter_folders["lora"],
        ia3=adapter_folders["ia3"],
        query_encoder=root / "query-encoder",
        checkpoint=root / "checkpoint",
        reranker=root / "reranker",
        scratch=root,
    )


@pytest.fixture(params=COMPONENTS)
def component(request: pytest.FixtureRequest) -> Component:
    return COMPONENTS[request.param]


@pytest.fixture
def instance(component: Component, folders: Folders) -> Any:
    return component.make(folders, str)


def test_it_is_what_llamaindex_expects(component: Component, instance: Any) -> None:
    assert isinstance(instance, component.base)


def test_the_async_twins_give_the_same(component: Component, instance: Any) -> None:
    if component.async_results is None:
        pytest.skip("it has no async methods")

    async def twice() -> list[object]:
        assert component.async_results is not None
        return list(await asyncio.gather(component.async_results(instance), component.async_results(instance)))

    expected = component.results(instance)
    assert asyncio.run(twice()) == [expected, expected]


def test_a_path_may_stand_where_a_string_goes(component: Component, instance: Any, folders: Folders) -> None:
    other = component.make(folders, Path)
    if isinstance(instance, BaseComponent):
        assert other.to_dict() == instance.to_dict()
    assert component.results(other) == component.results(instance)


@pytest.mark.parametrize("form", ["dict", "json"])
def test_it_comes_back_from_its_dictionary_and_json(form: str, component: Component, instance: Any) -> None:
    if not isinstance(instance, BaseComponent):
        pytest.skip("LlamaIndex serialises its BaseComponents only")
    if component.from_dict is not None:
        again = component.from_dict(instance, instance.to_dict())
    elif form == "dict":
        again = type(instance).from_dict(instance.to_dict())
    else:
        again = type(instance).from_json(instance.to_json())
    assert type(again) is type(instance)
    assert again.to_dict() == instance.to_dict()
    assert again.to_dict()["class_name"] == type(instance).class_name() == type(instance).__name__
    assert component.results(again) == component.results(instance)


@pytest.mark.parametrize("form", ["another process", "copy", "deepcopy"])
def test_a_copy_has_all_settings_and_gives_the_same(form: str, component: Component, instance: Any) -> None:
    """What goes to another process is what ``multiprocessing`` sends: IngestionPipeline's workers get it so."""
    if form == "another process":
        again = ForkingPickler.loads(ForkingPickler.dumps(instance))
    else:
        again = copy.copy(instance) if form == "copy" else copy.deepcopy(instance)
    assert type(again) is type(instance)
    for name in getattr(type(instance), "model_fields", {}):
        if name != "callback_manager":
            assert getattr(again, name) == getattr(instance, name), name
    assert component.results(again) == component.results(instance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folders: CodeEmbedding(folders.base, embed_batch_size=0), "embed_batch_size must be greater than 0"),
        (lambda folders: CodeEmbedding(folders.base, num_workers="two"), "num_workers must be a valid integer"),
        (lambda folders: CodeEmbedding(folders.base, max_code_tokens=0), "max_code_tokens must be at least 8"),
        (lambda folders: CodeReranker(folders.checkpoint, top_n=0), "top_n must be greater than or equal to 1"),
        (lambda folders: CodeReranker(folders.checkpoint, precision="fp8"), "precision must be 'auto', 'fp32', 'bf16'"),
        (lambda folders: CodeNodeParser(max_lines=1), "max_lines must be at least 2, got 1"),
        (lambda folders: FaissStore(dim=0), "dim must be greater than or equal to 1, got 0"),
        (lambda folders: FaissStore(2, exact_limit=0), "exact_limit must be greater than or equal to 1, got 0"),
        (lambda folders: FaissStore.from_dict({}), "dim must be a valid integer, got None"),
    ],
)
def test_a_wrong_value_is_a_plain_value_error(make: Callable[[Folders], Any], message: str, folders: Folders) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(folders)
    assert type(caught.value) is ValueError
    assert "pydantic" not in str(caught.value)


def test_fields_that_describe_a_loaded_model_cannot_be_assigned(folders: Folders) -> None:
    embedding = CodeEmbedding(folders.base)
    before = embedding.to_dict()
    changes = {"model_name": "x", "adapter": "x", "adapters": {}, "fingerprint": "x", "pooling": "cls", "device": "cpu"}
    for name, value in changes.items():
        with pytest.raises(ValueError, match=f"{name} cannot be changed afterwards"):
            setattr(embedding, name, value)
    with pytest.raises(ValueError, match="embed_batch_size must be greater than 0"):
        embedding.embed_batch_size = 0
    assert embedding.to_dict() == before
    embedding.use_adapter("java", folders.lora)
    assert embedding.adapters == {"java": str(folders.lora)}
    with pytest.raises(ValueError, match="dim cannot be changed afterwards"):
        FaissStore(2).dim = 3


def test_a_string_is_no_list_of_texts(folders: Folders) -> None:
    embedding = CodeEmbedding(folders.base)
    with pytest.raises(TypeError, match=r"queries must be a list, got the string 'sum'; write \['sum'\]"):
        embedding.embed_queries("sum")
    with pytest.raises(TypeError, match="texts must be a list"):
        embedding.encoder.encode_codes("sum")
    with pytest.raises(TypeError, match="codes must be a list"):
        CodeReranker(folders.checkpoint).score(QUERY, "sum")
    for languages in (["python"], ["python"] * 3):
        with pytest.raises(ValueError, match=f"one language for each code, got {len(languages)} for 2 codes"):
            embedding.embed_codes(["a", "b"], languages)
