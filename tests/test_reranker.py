from __future__ import annotations

import asyncio
import copy
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_threads_score_at_once, until_the_event_loop_runs
from llama_index.core import MockEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # its documented place
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    CamembertConfig,
    CamembertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from llamaindex_code_retrieval import CodeEmbedding
from llamaindex_code_retrieval.models.modify import prepack_weights
from llamaindex_code_retrieval.reranker import CodeReranker

WORDS = "read write file path open close def return class self list sum of the a in to ( ) : . , = [ ] { } + 1 2"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(" "), "##s", "##er"]
POSITIONS = 64
QUERY = "read the file"
CODES = [
    "def read ( path ) : return open ( path ) . read ( )",
    "",
    "class list : def sum ( self ) : return 1 + 2 " * 20,
    "x",
    "write",
    "[ a , a ]",
]


def _save_tokenizer(folder: Path) -> None:
    BertTokenizerFast(vocab={word: i for i, word in enumerate(VOCABULARY)}).save_pretrained(folder)


def save_checkpoint(
    folder: Path,
    *,
    labels: int = 1,
    positions: int = POSITIONS,
    cls: Any = BertForSequenceClassification,
    config: Any = BertConfig,
) -> Path:
    """Write a random cross-encoder whose scores differ."""
    torch.manual_seed(labels)
    settings = config(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        num_labels=labels,
        pad_token_id=0,
        initializer_range=0.5,  # far from 0, so that scores differ
    )
    cls(settings).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Random cross-encoders by their number of labels."""
    return {labels: save_checkpoint(tmp_path_factory.mktemp(f"labels{labels}"), labels=labels) for labels in (1, 2, 3)}


@pytest.fixture(scope="session")
def reranker(checkpoints: dict[int, Path]) -> CodeReranker:
    return CodeReranker(str(checkpoints[1]), precision="fp32")


def _reference(folder: Path, query: str, code: str, *, max_tokens: int = POSITIONS) -> float:
    """The score of one pair by itself, with nothing but transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    # In lists, because transformers takes a lone "" for no second text at all and leaves out its separator.
    inputs = tokenizer([query], [code], truncation="only_second", max_length=max_tokens, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0].tolist()
    if len(logits) == 1:
        return 1 / (1 + math.exp(-logits[0]))
    return math.exp(logits[1]) / sum(math.exp(logit) for logit in logits)


def _hits(codes: Sequence[str], *, score: float | None = 0.5) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(id_=f"n{i}", text=code), score=score) for i, code in enumerate(codes)]


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("max_tokens", [16, 512])
@pytest.mark.parametrize("token_budget", [1, 70, 4096])
def test_scores_agree_with_transformers_pair_by_pair(
    checkpoints: dict[int, Path], labels: int, max_tokens: int, token_budget: int
) -> None:
    folder = checkpoints[labels]
    reranker = CodeReranker(str(folder), max_tokens=max_tokens, token_budget=token_budget, precision="fp32")
    expected = [_reference(folder, QUERY, code, max_tokens=min(max_tokens, POSITIONS)) for code in CODES]
    assert reranker.score(QUERY, CODES) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 1e-3  # otherwise the line above says little


def test_scores_keep_the_order_given_and_ignore_the_rest_of_the_batch(reranker: CodeReranker) -> None:
    together = reranker.score(QUERY, CODES)
    assert reranker.score(QUERY, CODES[::-1]) == pytest.approx(together[::-1], abs=1e-5)
    assert [reranker.score(QUERY, [code])[0] for code in CODES] == pytest.approx(together, abs=1e-5)
    assert reranker.score(QUERY, []) == []


def test_equal_codes_score_exactly_the_same(reranker: CodeReranker) -> None:
    first, *_, last = reranker.score(QUERY, ["write", *CODES, "write"])
    assert first == last


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (BertForSequenceClassification, BertConfig),
        (CamembertForSequenceClassification, CamembertConfig),
        (RobertaForSequenceClassification, RobertaConfig),
        (XLMRobertaForSequenceClassification, XLMRobertaConfig),
        (DistilBertForSequenceClassification, DistilBertConfig),
    ],
)
def test_all_kinds_agree_with_transformers_pair_by_pair(cls: Any, config: Any, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, cls=cls, config=config)
    expected = [_reference(folder, QUERY, code, max_tokens=POSITIONS - 1) for code in CODES]
    reranker = CodeReranker(str(folder), precision="fp32", max_tokens=POSITIONS - 1)
    assert reranker.score(QUERY, CODES) == pytest.approx(expected, abs=1e-5)


def test_bf16_is_close_to_fp32_with_prepacked_and_plain_weights(
    checkpoints: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = CodeReranker(str(checkpoints[1]), precision="fp32").log_odds(QUERY, CODES)
    near = pytest.approx(expected, abs=0.05 * max(map(abs, expected)))
    assert CodeReranker(str(checkpoints[1]), precision="bf16", runtime="torch").log_odds(QUERY, CODES) == near
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    plain = CodeReranker(str(checkpoints[1]), precision="bf16", runtime="torch")
    assert any(type(module) is torch.nn.Linear for module in plain._scorer._model.modules())  # type: ignore[attr-defined]
    assert plain.log_odds(QUERY, CODES) == near


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bf16 instructions")
@pytest.mark.parametrize("bias", [True, False])
def test_prepacked_layers_compute_what_the_layer_computed(bias: bool) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(48, 80, bias=bias), torch.nn.LayerNorm(80)).to(torch.bfloat16)
    with torch.inference_mode():
        for shape in ((1, 48), (3, 1, 48), (2, 17, 48)):
            states = torch.randn(shape).to(torch.bfloat16)
            expected = model(states)
            found = prepack_weights(copy.deepcopy(model))
            assert not any(type(module) is torch.nn.Linear for module in found.modules())
            torch.testing.assert_close(found(states), expected, atol=2e-2, rtol=2e-2)


def test_roberta_counts_its_positions_from_the_padding_index_on(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, cls=RobertaForSequenceClassification, config=RobertaConfig)
    expected = _reference(folder, QUERY, CODES[2], max_tokens=POSITIONS - 1)  # padding index 0
    reranker = CodeReranker(str(folder), precision="fp32")
    assert reranker.score(QUERY, [CODES[2]]) == pytest.approx([expected], abs=1e-5)
    others = [_reference(folder, QUERY, code, max_tokens=POSITIONS - 1) for code in CODES]
    assert reranker.score(QUERY, CODES) == pytest.approx(others, abs=1e-5)


def test_a_query_that_leaves_no_room_is_cut_to_half(checkpoints: dict[int, Path]) -> None:
    folder = checkpoints[1]
    reranker = CodeReranker(str(folder), max_tokens=19, precision="fp32")  # 16 beside [CLS], [SEP] and [SEP]
    words = ["read", "the", "file", "path"] * 50
    half = _reference(folder, " ".join(words[:8]), CODES[0], max_tokens=19)
    for length in (16, 17, 200):
        assert reranker.score(" ".join(words[:length]), [CODES[0]]) == pytest.approx([half], abs=1e-5)
    whole = _reference(folder, " ".join(words[:15]), CODES[0], max_tokens=19)
    assert reranker.score(" ".join(words[:15]), [CODES[0]]) == pytest.approx([whole], abs=1e-5)


def test_lone_surrogates_are_scored(reranker: CodeReranker) -> None:
    assert reranker.score("read \ud800", ["\udfff file", ""]) == reranker.score("read ?", ["? file", ""])


def test_hits_are_new_objects_best_first(reranker: CodeReranker) -> None:
    hits = _hits(CODES)
    before = [hit.to_dict() for hit in hits]
    nodes = [hit.node for hit in hits]
    best = reranker.postprocess_nodes(hits, query_str=QUERY)
    scores = reranker.score(QUERY, CODES)
    order = sorted(range(len(CODES)), key=lambda i: (-scores[i], f"n{i}"))
    assert [hit.node_id for hit in best] == [f"n{i}" for i in order]
    assert [hit.score for hit in best] == pytest.approx([scores[i] for i in order], abs=1e-5)
    assert [hit.to_dict() for hit in hits] == before
    assert [hit.node for hit in hits] == nodes
    assert not {id(hit) for hit in best} & {id(hit) for hit in hits}


def test_top_n_and_threshold_cut(checkpoints: dict[int, Path], reranker: CodeReranker) -> None:
    everything = reranker.postprocess_nodes(_hits(CODES), query_str=QUERY)
    two = CodeReranker(str(checkpoints[1]), top_n=2, device="cpu")
    assert [hit.node_id for hit in two.postprocess_nodes(_hits(CODES), query_str=QUERY)] == [
        hit.node_id for hit in everything[:2]
    ]
    line = (everything[2].get_score() + everything[3].get_score()) / 2
    above = CodeReranker(str(checkpoints[1]), threshold=line, device="cpu")
    assert [hit.node_id for hit in above.postprocess_nodes(_hits(CODES), query_str=QUERY)] == [
        hit.node_id for hit in everything if hit.get_score() >= line
    ]


def test_ties_are_broken_by_node_id_and_duplicates_removed(reranker: CodeReranker) -> None:
    hits = [NodeWithScore(node=TextNode(id_=id_, text="write file"), score=None) for id_ in ("c", "a", "b", "a")]
    hits[3].node.metadata["which"] = "the second a"
    best = reranker.postprocess_nodes(hits, query_str=QUERY)
    assert [hit.node_id for hit in best] == ["a", "b", "c"]
    assert best[0].node is hits[1].node


def test_metadata_meant_for_embedding_is_scored(reranker: CodeReranker) -> None:
    node = TextNode(text="def a", metadata={"path": "file", "lines": "1 2"}, excluded_embed_metadata_keys=["lines"])
    (hit,) = reranker.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    text = node.get_content(MetadataMode.EMBED)
    assert "file" in text
    assert "1 2" not in text
    assert hit.score == reranker.score(QUERY, [text])[0]


def test_a_checkpoint_ranks_parts_of_files_as_other_hits(checkpoints: dict[int, Path]) -> None:
    reranker = CodeReranker(checkpoints[1], device="cpu")
    assert reranker.calibration.repository_weight is None
    expected = reranker.postprocess_nodes(_hits(CODES), query_str=QUERY)
    hits = _hits(CODES)
    for hit in hits:
        hit.node.metadata = {"path": "a.py", "kind": "function"}
        hit.node.excluded_embed_metadata_keys = ["path", "kind"]
    best = reranker.postprocess_nodes(hits, query_str=QUERY)
    assert [(hit.node_id, hit.score) for hit in best] == [(hit.node_id, hit.score) for hit in expected]


def test_a_query_is_needed(reranker: CodeReranker) -> None:
    for hits in ([], _hits(CODES)):
        with pytest.raises(ValueError, match="pass query_bundle or query_str"):
            reranker.postprocess_nodes(hits)


@contextmanager
def _instrumentation_events() -> Iterator[list[BaseEvent]]:
    seen: list[BaseEvent] = []

    class Recorder(BaseEventHandler):
        def handle(self, event: BaseEvent, **_: Any) -> None:
            seen.append(event)

    root = get_dispatcher()
    recorder = Recorder()
    root.add_event_handler(recorder)
    try:
        yield seen
    finally:
        root.event_handlers.remove(recorder)


@pytest.mark.parametrize("codes", [CODES, []])
@pytest.mark.parametrize("is_async", [False, True])
def test_each_call_sends_its_events_once(checkpoints: dict[int, Path], codes: list[str], is_async: bool) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    name = str(checkpoints[1])
    reranker = CodeReranker(name, top_n=2, device="cpu", callback_manager=CallbackManager([debug]))
    hits, query = _hits(codes), QueryBundle(QUERY)
    with _instrumentation_events() as events:
        if is_async:
            best = asyncio.run(reranker.apostprocess_nodes(hits, query))
        else:
            best = reranker.postprocess_nodes(hits, query)
    start, end = events
    assert isinstance(start, ReRankStartEvent)
    assert isinstance(end, ReRankEndEvent)
    assert (start.query, start.nodes, start.top_n, start.model_name) == (query, hits, 2, name)
    assert end.nodes == best
    ((opened, closed),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert opened.payload == {
        EventPayload.NODES: hits,
        EventPayload.MODEL_NAME: name,
        EventPayload.QUERY_STR: QUERY,
        EventPayload.TOP_K: 2,
    }
    assert closed.payload == {EventPayload.NODES: best}


def test_async_leaves_the_event_loop_free(checkpoints: dict[int, Path]) -> None:
    reranker = CodeReranker(checkpoints[1], precision="fp32", runtime="torch")
    with until_the_event_loop_runs(reranker._scorer._model) as wait:  # type: ignore[attr-defined]
        asyncio.run(wait(reranker.apostprocess_nodes(_hits(CODES), query_str=QUERY)))


def test_async_agrees_with_sync_also_in_parallel(reranker: CodeReranker) -> None:
    queries = [QUERY, "write", "sum of the list"] * 4
    expected = [reranker.postprocess_nodes(_hits(CODES), query_str=query) for query in queries]

    async def rerank_all() -> list[list[NodeWithScore]]:
        calls = [reranker.apostprocess_nodes(_hits(CODES), query_str=query) for query in queries]
        return await asyncio.gather(*calls)

    got = asyncio.run(rerank_all())
    assert [[hit.node_id for hit in hits] for hits in got] == [[hit.node_id for hit in hits] for hits in expected]
    assert [[hit.score for hit in hits] for hits in got] == [[hit.score for hit in hits] for hits in expected]


def test_threads_score_at_the_same_time(checkpoints: dict[int, Path]) -> None:
    assert_threads_score_at_once(CodeReranker(checkpoints[1], precision="fp32", runtime="torch", max_tokens=16))


def test_options_without_effect_are_refused(checkpoints: dict[int, Path], bert_folder: Path) -> None:
    for options, message in (
        ({"merge_adapter": True}, "is a Hugging Face checkpoint without an adapter, so merge_adapter has no effect"),
        ({"embedding": CodeEmbedding(bert_folder)}, "has a base of its own; leave the embedding out"),
        ({"early_exit": 0.9}, r"cannot stop at confidence 0\.9: it was never calibrated; leave early_exit out"),
    ):
        with pytest.raises(ValueError, match=message):
            CodeReranker(checkpoints[1], **options)
    with pytest.raises(TypeError, match="embedding must be a CodeEmbedding, got MockEmbedding; leave it out"):
        CodeReranker(checkpoints[1], embedding=MockEmbedding(embed_dim=2))


@pytest.mark.parametrize(
    "settings",
    [
        {"top_n": 0},
        {"top_n": "many"},
        {"max_tokens": 0},
        {"token_budget": 0},
        {"threshold": 1.5},
        {"threshold": math.nan},
        {"device": 3},
    ],
)
def test_settings_out_of_range_are_refused_by_name(checkpoints: dict[int, Path], settings: dict[str, Any]) -> None:
    ((field, value),) = settings.items()
    with pytest.raises(ValueError, match=rf"{field} must be .*, got '?{value}") as caught:
        CodeReranker(str(checkpoints[1]), **settings)
    assert type(caught.value) is ValueError
    assert "pydantic" not in str(caught.value)


def test_settings_are_checked_when_changed_and_the_model_stays(checkpoints: dict[int, Path]) -> None:
    reranker = CodeReranker(str(checkpoints[1]), device="cpu")
    reranker.top_n = 1
    assert len(reranker.postprocess_nodes(_hits(CODES), query_str=QUERY)) == 1
    with pytest.raises(ValueError, match="top_n must be greater than or equal to 1, got 0"):
        reranker.top_n = 0
    with pytest.raises(ValueError, match=r"max_tokens leaves no room .* got 3"):
        reranker.max_tokens = 3
    with pytest.raises(ValueError, match="model cannot be changed afterwards"):
        reranker.model = str(checkpoints[2])


def test_too_few_tokens_and_unknown_devices_are_refused(checkpoints: dict[int, Path]) -> None:
    with pytest.raises(ValueError, match=r"max_tokens leaves no room .* got 4; 512 is usual"):
        CodeReranker(str(checkpoints[1]), max_tokens=4)
    assert CodeReranker(str(checkpoints[1]), max_tokens=5, device="cpu").score(QUERY * 9, CODES) != []
    with pytest.raises(ValueError, match="this machine has no device 'abacus'; use 'cpu'"):
        CodeReranker(str(checkpoints[1]), device="abacus")


def test_three_labels_are_refused_before_the_weights_are_read(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints[3], tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"has 3 labels; a reranker has one \(a score\) or two"):
        CodeReranker(tmp_path)


def test_pickled_weights_are_refused(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((checkpoints[1] / file).read_bytes())
    torch.save(load_file(checkpoints[1] / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"holds no safetensors, .* never loads pickles .* convert it with save_pretra"
    ):
        CodeReranker(str(tmp_path))


def test_a_checkpoint_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, cls=BertModel)
    with pytest.raises(ValueError, match=r"lacks weights of a \w+ model: classifier\.bias, classifier\.weight"):
        CodeReranker(str(tmp_path))


@pytest.mark.parametrize("name", ["/nowhere/reranker", "nowhere", "nobody/has-this-model"])
def test_a_model_that_is_nowhere_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable was read at import
    with pytest.raises(
        ValueError,
        match=rf"(folder {name} does not exist|unknown reranker '{name}'|could not be fetched).*"
        "known names: embedded-reranker",
    ):
        CodeReranker(name)


def test_damaged_weights_are_refused_by_name(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints[1], tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    for value, message in (
        (math.nan, rf"the weights in {tmp_path} hold NaN or infinite values in 1 tensors: classifier\.bias"),
        (3e38, rf"{tmp_path} gives logits that are not finite numbers; its weights are damaged"),
    ):
        weights["classifier.bias"][:] = value
        weights["classifier.weight"][:] = 3e38
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            CodeReranker(tmp_path, device="cpu").score(QUERY, CODES)
