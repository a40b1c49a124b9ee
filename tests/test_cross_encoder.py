"""Cross-encoders of this package: layout of a pair, heads, one base in memory, calibration, early exit."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_threads_score_at_once
from llama_index.core.schema import NodeWithScore, TextNode
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BertForSequenceClassification

from llamaindex_code_retrieval import CodeEmbedding, CodeReranker, Encoder
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.files import HEAD_WEIGHTS, RERANKER_CONFIG
from llamaindex_code_retrieval.models.matching_head import MatchingHead
from llamaindex_code_retrieval.models.reranker_config import Head, RerankerConfig, Variant
from llamaindex_code_retrieval.training.adapters import attach_adapter, save_adapter
from llamaindex_code_retrieval.training.config import AdapterConfig, Method

QUERY = "read the file"
CODES = [
    "def read(path):\n    return open(path).read()",
    "x",
    "",
    "def add(a, b):\n    return a + b\n" * 9,
    "class File:\n    def close(self):\n        self.file.close()",
]
FOLDERS = ["bert_folder", "roberta_folder", "unixcoder_folder", "t5_folder", "codet5p_folder", "codesage_folder"]


def _encoder(folder: Path) -> Encoder:
    return Encoder.from_pretrained(folder, precision="fp32", max_query_tokens=32, max_code_tokens=48)


def made_cross_encoder(
    base: Encoder, *, method: Method = "lora", head: Head = "interaction", max_tokens: int = 48
) -> CrossEncoder:
    """A cross-encoder with random weights, far from the initial ones, so that scores differ."""
    adapted = attach_adapter(base, AdapterConfig(method=method, rank=2))
    variant: Variant = "separate" if method == "full" else "adapters"
    model = CrossEncoder.on(adapted, head=head, max_tokens=max_tokens, variant=variant)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in adapted.backbone.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * (0.3 if "lora" in name else 0.02))
        for p in model.head.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def save_cross_encoder(model: CrossEncoder, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    if model.variant == "adapters":
        model.save(folder)
        save_adapter(model.encoder, folder)
    else:
        save_adapter(model.encoder, folder)
        (folder / "train_config.json").write_text(json.dumps({"base": {"architecture": model.encoder.architecture}}))
        model.save(folder, base=Encoder.from_pretrained(folder, precision="fp32"))
    return folder


def _hits(codes: Sequence[str]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(id_=f"n{i:03}", text=code), score=0.5) for i, code in enumerate(codes)]


@pytest.fixture(scope="session")
def saved(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = made_cross_encoder(_encoder(bert_folder))
    ceilings = {"0.9": [9.0, 8.0, 7.0], "0.95": [99.0] * 3}
    model.calibration = Calibration(temperature=2.0, shift=-1.0, rank_weight=0.5, fused_shift=0.25, ceilings=ceilings)
    return save_cross_encoder(model, tmp_path_factory.mktemp("reranker"))


# --- reading a pair --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_pair_is_one_text_and_the_batch_does_not_matter(folder: str, request: pytest.FixtureRequest) -> None:
    encoder = _encoder(request.getfixturevalue(folder))
    model = made_cross_encoder(encoder, max_tokens=40)
    query, *codes = model.token_ids([QUERY, *CODES])
    layout = encoder.tokenization.pair_layout()
    before, between, after = layout.before, layout.between, layout.after
    rows = model.rows([query] * len(codes), codes, 40)
    for (ids, start), code in zip(rows, codes, strict=True):
        room = 40 - len(before) - len(between) - len(after) - len(query)
        assert ids == [*before, *query, *between, *code[:room], *after]
        assert start == len(before) + len(query) + len(between)
    assert max(len(ids) for ids, _ in rows) == 40
    with torch.inference_mode():
        together = model.log_odds(rows)
        alone = torch.cat([model.log_odds([row]) for row in rows])
        padded = model.log_odds(rows, length=64)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=0)
    assert float(together.std()) > 0.1


def test_the_layout_is_the_tokenizers_own(bert_folder: Path, roberta_folder: Path) -> None:
    for folder in (bert_folder, roberta_folder):
        model = made_cross_encoder(_encoder(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        expected = tokenizer([QUERY], [CODES[0]])["input_ids"][0]
        ((ids, _),) = model.rows(model.token_ids([QUERY]), model.token_ids([CODES[0]]), 64)
        assert ids == expected


def test_a_long_query_leaves_half_to_the_code(bert_folder: Path) -> None:
    model = made_cross_encoder(_encoder(bert_folder))
    query, code = list(range(10, 40)), list(range(50, 90))
    ((ids, start),) = model.rows([query], [code], 23)  # 20 beside [CLS], [SEP] and [SEP]
    assert ids[1:11] == query[:10]
    assert ids[start:-1] == code[:10]
    ((ids, start),) = model.rows([query[:19]], [code], 23)
    assert ids[1:20] == query[:19]
    assert ids[start:-1] == code[:1]


def test_an_untrained_interaction_head_is_a_scaled_cosine(bert_folder: Path) -> None:
    encoder = _encoder(bert_folder)
    model = CrossEncoder.on(encoder, max_tokens=48)
    rows = model.rows(model.token_ids([QUERY]), model.token_ids([CODES[0]]), 48)
    ((ids, start),) = rows
    types = [0] * start + [1] * (len(ids) - start)
    with torch.inference_mode():
        hidden = encoder.backbone(
            input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])
        ).last_hidden_state[0]
        expected = 20 * F.cosine_similarity(hidden[:start].mean(0), hidden[start:].mean(0), dim=0)
        torch.testing.assert_close(model.log_odds(rows)[0], expected, atol=1e-4, rtol=0)


def test_an_mlp_head_is_bert_for_sequence_classification(bert_folder: Path) -> None:
    model = made_cross_encoder(_encoder(bert_folder), method="full", head="mlp")
    reference = BertForSequenceClassification.from_pretrained(bert_folder, num_labels=1).eval()
    weights = {f"bert.{name}": p for name, p in model.encoder.backbone.state_dict().items()}
    weights |= {f"bert.pooler.dense.{name}": p for name, p in model.head.dense.state_dict().items()}
    weights |= {f"classifier.{name}": p for name, p in model.head.out.state_dict().items()}
    reference.load_state_dict(weights)
    tokens = AutoTokenizer.from_pretrained(bert_folder)(
        [QUERY] * len(CODES), CODES, truncation="only_second", max_length=48, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        torch.testing.assert_close(model([QUERY] * len(CODES), CODES), reference(**tokens).logits[:, 0])


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="head must be one of interaction, mlp, got 'magic'"):
        MatchingHead("magic", 8)  # type: ignore[arg-type]


# --- saving, loading, sharing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "ia3", "full"])
@pytest.mark.parametrize("head", ["interaction", "mlp"])
def test_a_saved_cross_encoder_loads_as_it_was(method: Method, head: Head, bert_folder: Path, tmp_path: Path) -> None:
    model = made_cross_encoder(_encoder(bert_folder), method=method, head=head)
    model.calibration = Calibration(temperature=2.0, ceilings={"0.9": [1.0]})
    again = CrossEncoder.load(save_cross_encoder(model, tmp_path / "out"), precision="fp32")
    assert (again.calibration, again.variant, again.max_tokens) == (model.calibration, model.variant, model.max_tokens)
    with torch.inference_mode():
        expected = model([QUERY] * len(CODES), CODES)
        torch.testing.assert_close(again([QUERY] * len(CODES), CODES), expected, atol=1e-5, rtol=0)
        eight = CrossEncoder.load(tmp_path / "out", precision="int8")([QUERY] * len(CODES), CODES)
    assert not torch.equal(eight, expected)
    assert float(torch.corrcoef(torch.stack([eight, expected]))[0, 1]) > 0.9


def test_a_reranker_uses_the_embeddings_base(saved: Path, bert_folder: Path) -> None:
    """One copy in memory: of what the reranker needs, only adapter and head are not the embedding's."""
    embedding = CodeEmbedding(str(bert_folder), precision="fp32", runtime="torch")
    on_it = CodeReranker(str(saved), embedding=embedding)
    alone = CodeReranker(str(saved), precision="fp32", runtime="torch")
    assert on_it.score(QUERY, CODES) == pytest.approx(alone.score(QUERY, CODES), abs=1e-6)
    base = {p.data_ptr() for p in embedding.torch_encoder.backbone.parameters()}
    extra = [p for p in _parameters(on_it) if p.data_ptr() not in base]
    assert {p.data_ptr() for p in _parameters(alone)}.isdisjoint(base)
    own = sum((saved / name).stat().st_size for name in ("adapter_model.safetensors", HEAD_WEIGHTS))
    assert 0 < sum(p.numel() * p.element_size() for p in extra) <= own
    vectors = embedding.get_text_embedding_batch(CODES[:2])  # the embedding stays what it was
    other = CodeEmbedding(str(bert_folder), precision="fp32", runtime="torch")
    assert vectors == other.get_text_embedding_batch(CODES[:2])


def test_a_merged_reranker_scores_the_same_and_leaves_the_base(saved: Path, bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), precision="fp32", runtime="torch")
    vectors = embedding.get_text_embedding_batch(CODES[:2])
    merged = CodeReranker(str(saved), embedding=embedding, merge_adapter=True)
    beside = CodeReranker(str(saved), embedding=embedding)
    assert merged.score(QUERY, CODES) == pytest.approx(beside.score(QUERY, CODES), abs=1e-6)
    assert len(_parameters(merged)) < len(_parameters(beside)), "the adapter's own matrices are gone"
    assert embedding.get_text_embedding_batch(CODES[:2]) == vectors


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_int8_uses_a_base_of_any_precision(precision: str, saved: Path, bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), precision=precision, runtime="torch")  # type: ignore[arg-type]
    vectors = embedding.get_text_embedding_batch(CODES[:2])
    eight = CodeReranker(str(saved), embedding=embedding, precision="int8")
    expected = CodeReranker(str(saved), precision="fp32", runtime="torch").score(QUERY, CODES)
    assert eight.score(QUERY, CODES) == pytest.approx(expected, abs=0.05)
    tables = [m.weight for m in eight._scorer.modules() if isinstance(m, nn.Embedding)]  # type: ignore[attr-defined]
    assert {p.data_ptr() for p in tables} <= {p.data_ptr() for p in embedding.torch_encoder.backbone.parameters()}
    assert embedding.get_text_embedding_batch(CODES[:2]) == vectors


def test_one_base_trained_for_both_is_loaded_once(bert_folder: Path, tmp_path: Path) -> None:
    model = made_cross_encoder(_encoder(bert_folder), method="full", head="mlp")
    model.variant = "shared"
    folder = str(save_cross_encoder(model, tmp_path / "both"))
    embedding = CodeEmbedding(folder, precision="fp32", runtime="torch")
    reranker = CodeReranker(folder, embedding=embedding)
    base = {p.data_ptr() for p in embedding.torch_encoder.backbone.parameters()}
    assert {p.data_ptr() for p in reranker._scorer.encoder.backbone.parameters()} == base  # type: ignore[attr-defined]


def _parameters(reranker: CodeReranker) -> list[Tensor]:
    return list(reranker._scorer.parameters())  # type: ignore[attr-defined]


def test_an_adapter_of_another_base_is_refused(saved: Path, roberta_folder: Path) -> None:
    embedding = CodeEmbedding(str(roberta_folder), precision="fp32")
    with pytest.raises(ValueError, match=r"was trained on the base .* but this base, .* leave the embedding out"):
        CodeReranker(str(saved), embedding=embedding)


def test_a_reranker_embeds_nothing(saved: Path, bert_folder: Path) -> None:
    with pytest.raises(ValueError, match="is a reranker, which embeds nothing; give it to CodeReranker"):
        CodeEmbedding(str(bert_folder), adapter=str(saved))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (RERANKER_CONFIG, "{", "is not valid JSON .* train the reranker again"),
        (RERANKER_CONFIG, "{}", "lacks format; train the reranker again"),
        (RERANKER_CONFIG, '{"format": 1}', "is incomplete or damaged"),
        (RERANKER_CONFIG, "null", "must hold a JSON dict"),
        (RERANKER_CONFIG, '{"format": 2}', "has format 2, this version reads 1; train the reranker again"),
        (HEAD_WEIGHTS, None, "cannot be read"),
        ("adapter_config.json", None, "holds neither an adapter nor weights, so its training never ended; resume it"),
    ],
)
def test_damaged_files_are_refused(file: str, content: str | None, message: str, saved: Path, tmp_path: Path) -> None:
    for each in saved.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        CodeReranker(str(tmp_path))


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "nan", "truncated"])
def test_damaged_heads_are_refused(damage: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    weights = load_file(saved / HEAD_WEIGHTS)
    if damage == "missing":
        del weights["scale"]
    elif damage == "unexpected":
        weights["other"] = torch.zeros(1)
    elif damage == "shape":
        weights["out.bias"] = torch.zeros(2)
    elif damage == "nan":
        weights["dense.weight"][0, 0] = math.nan
    save_file(weights, tmp_path / HEAD_WEIGHTS)
    if damage == "truncated":
        (tmp_path / HEAD_WEIGHTS).write_bytes((saved / HEAD_WEIGHTS).read_bytes()[:100])
    message = {"nan": "hold NaN .* dense.weight", "truncated": "cannot be read"}.get(damage, "do not fit this model")
    with pytest.raises(ValueError, match=rf"{HEAD_WEIGHTS} {message}.*; train the reranker again"):
        CodeReranker(str(tmp_path))


def test_options_without_effect_are_refused(saved: Path, bert_folder: Path, tmp_path: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), precision="fp32", device="cpu")
    with pytest.raises(ValueError, match=r"the embedding computes in fp32, .* leave precision out, or leave the emb"):
        CodeReranker(str(saved), embedding=embedding, precision="bf16")
    with pytest.raises(ValueError, match=r"the embedding is on cpu, so .* cannot be on 'meta'; leave device out, or"):
        CodeReranker(str(saved), embedding=embedding, device="meta")
    whole = made_cross_encoder(_encoder(bert_folder), method="full")
    folder = save_cross_encoder(whole, tmp_path / "whole")
    with pytest.raises(ValueError, match="is a whole model without an adapter, so merge_adapter has no effect"):
        CodeReranker(folder, merge_adapter=True)
    with pytest.raises(ValueError, match=r"was trained on the base .* leave the embedding out"):
        CodeReranker(folder, embedding=embedding)
    CodeReranker(saved, embedding=embedding, precision="fp32", device="cpu")


def test_what_needs_no_weights_is_refused_before_they_are_read(saved: Path, tmp_path: Path) -> None:
    shutil.copy(saved / RERANKER_CONFIG, tmp_path)
    with pytest.raises(ValueError, match=r"cannot stop at confidence 0\.5"):
        CodeReranker(tmp_path, early_exit=0.5)
    with pytest.raises(ValueError, match="this machine has no device 'abacus'"):
        CodeReranker(tmp_path, device="abacus")


def test_int8_is_for_cpus_with_linear_layers(codesage_folder: Path, tmp_path: Path) -> None:
    adapted = attach_adapter(_encoder(codesage_folder), AdapterConfig(rank=2))
    folder = save_cross_encoder(CrossEncoder.on(adapted, max_tokens=48, variant="adapters"), tmp_path / "out")
    with pytest.raises(ValueError, match="has no linear layers to quantize to int8; use 'fp32'"):
        CodeReranker(str(folder), precision="int8")


# --- scores and fusion -----------------------------------------------------------------------------------------------


def test_scores_are_calibrated_and_hits_fused_with_their_rank(saved: Path) -> None:
    reranker = CodeReranker(str(saved), top_n=9)
    raw = reranker.log_odds(QUERY, CODES)
    expected = [1 / (1 + math.exp(-(value / 2 - 1))) for value in raw]
    assert reranker.score(QUERY, CODES) == pytest.approx(expected, abs=1e-9)
    hits = reranker.postprocess_nodes(_hits(CODES), query_str=QUERY)
    fused = {f"n{i:03}": value - 0.5 * math.log(i + 1) + 0.25 for i, value in enumerate(raw)}
    assert [hit.node_id for hit in hits] == sorted(fused, key=lambda id_: -fused[id_])
    for hit in hits:
        assert hit.score == pytest.approx(1 / (1 + math.exp(-fused[hit.node_id])), abs=1e-6)


def test_the_ranks_weight_can_be_set(saved: Path) -> None:
    first = CodeReranker(str(saved), top_n=9, rank_weight=1e6).postprocess_nodes(_hits(CODES), query_str=QUERY)
    assert [hit.node_id for hit in first] == [f"n{i:03}" for i in range(len(CODES))]
    reranker = CodeReranker(str(saved), top_n=9, rank_weight=0)
    best = reranker.postprocess_nodes(_hits(CODES), query_str=QUERY)
    again = reranker.postprocess_nodes(_hits(CODES)[::-1], query_str=QUERY)
    assert [hit.node_id for hit in again] == [hit.node_id for hit in best]


# --- parts of files --------------------------------------------------------------------------------------------------


def _parts(codes: Sequence[str], *, scores: Sequence[float | None] = ()) -> list[NodeWithScore]:
    """Hits as an index of files returns them, best first; the scores fall from 0.9 by default."""
    place = {"path": "a.py", "kind": "function", "language": "python"}
    return [
        NodeWithScore(
            node=TextNode(id_=f"n{i:03}", text=code, metadata=place, excluded_embed_metadata_keys=list(place)),
            score=scores[i] if scores else 0.9 - 0.1 * i,
        )
        for i, code in enumerate(codes)
    ]


def _ids(hits: Sequence[NodeWithScore]) -> list[str]:
    return [hit.node_id for hit in hits]


@pytest.fixture(scope="session")
def keeping(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reranker with a ``repository_weight`` of 0 in its calibration."""
    folder = tmp_path_factory.mktemp("keeping")
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    config = RerankerConfig.read(saved)
    replace(config, calibration=replace(config.calibration, repository_weight=0.0)).write(folder)
    return folder


def test_weight_0_keeps_order_and_scores_and_warns_once(keeping: Path, caplog: pytest.LogCaptureFixture) -> None:
    reranker = CodeReranker(str(keeping), top_n=3)
    hits = _parts(CODES)
    for _ in range(2):
        best = reranker.rerank(QUERY, [*hits, hits[0]])
        assert [(hit.node_id, hit.score) for hit in best.hits] == [(hit.node_id, hit.score) for hit in hits[:3]]
        assert best.scored == 0
    assert best.hits[0] is not hits[0]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{keeping} keeps the order of these hits" in caplog.text
    caplog.clear()
    chosen = CodeReranker(str(keeping), top_n=3, repository_weight=0)
    assert chosen.postprocess_nodes(hits, query_str=QUERY) == best.hits
    assert caplog.text == ""


@pytest.mark.parametrize("missing", ["path", "kind"])
def test_other_hits_are_ranked_as_without_a_weight(saved: Path, keeping: Path, missing: str) -> None:
    hits = _parts(CODES)
    del hits[2].node.metadata[missing]  # one of them is enough
    for given in (hits, _hits(CODES)):
        expected = CodeReranker(str(saved), top_n=9).rerank(QUERY, given)
        for folder, weight in ((keeping, None), (saved, 0), (keeping, 0.5)):
            assert CodeReranker(str(folder), top_n=9, repository_weight=weight).rerank(QUERY, given) == expected


def test_rerankers_without_a_weight_rank_parts_of_files_as_other_hits(saved: Path) -> None:
    assert RerankerConfig.read(saved).calibration.repository_weight is None
    reranker = CodeReranker(str(saved), top_n=9)
    ranked, parts = reranker.rerank(QUERY, _hits(CODES)), reranker.rerank(QUERY, _parts(CODES))
    assert [(hit.node_id, hit.score) for hit in parts.hits] == [(hit.node_id, hit.score) for hit in ranked.hits]
    assert parts.scored == len(CODES)


@pytest.mark.parametrize("weight", [0.05, 0.5, 20.0])
def test_a_weight_adds_the_log_odds_to_the_logarithm_of_the_score(keeping: Path, weight: float) -> None:
    reranker = CodeReranker(str(keeping), top_n=9, repository_weight=weight)
    scores = [1.0, 0.8, 0.5, 0.4, 0.01]
    raw = reranker.log_odds(QUERY, CODES)
    expected = {
        f"n{i:03}": math.log(score) + weight * (value / 2 - 1)
        for i, (score, value) in enumerate(zip(scores, raw, strict=True))
    }
    hits = reranker.rerank(QUERY, _parts(CODES, scores=scores)).hits
    assert _ids(hits) == sorted(expected, key=lambda id_: -expected[id_])
    for hit in hits:
        assert hit.score == pytest.approx(1 / (1 + math.exp(-expected[hit.node_id])), abs=1e-9)


@pytest.mark.parametrize("scores", [[None] * 5, [7.0, 3.0, 2.0, 0.5, 0.1], [0.5, 0.4, 0.3, 0.2, 0.0]])
def test_without_usable_scores_the_rank_is_the_prior(
    saved: Path, keeping: Path, scores: Sequence[float | None]
) -> None:
    hits = _parts(CODES, scores=scores)
    whole = CodeReranker(str(keeping), top_n=9, repository_weight=1).rerank(QUERY, hits)
    assert whole == CodeReranker(str(saved), top_n=9).rerank(QUERY, _parts(CODES, scores=scores))
    little = CodeReranker(str(keeping), top_n=9, repository_weight=1e-6).rerank(QUERY, hits)
    assert _ids(little.hits) == _ids(hits) != _ids(whole.hits)
    by_code = CodeReranker(str(keeping), top_n=9, repository_weight=0.5, rank_weight=0)
    raw = dict(zip(_ids(hits), by_code.log_odds(QUERY, CODES), strict=True))
    assert _ids(by_code.rerank(QUERY, hits).hits) == sorted(raw, key=lambda id_: -raw[id_])


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_threshold_is_of_the_codes_probability(keeping: Path, weight: float) -> None:
    hits = _parts(CODES)
    everything = CodeReranker(str(keeping), top_n=9, repository_weight=weight)
    scores = dict(zip(_ids(hits), everything.score(QUERY, CODES), strict=True))
    line = sorted(scores.values())[2]
    above = CodeReranker(str(keeping), top_n=9, repository_weight=weight, threshold=line).rerank(QUERY, hits)
    expected = [hit for hit in everything.rerank(QUERY, hits).hits if scores[hit.node_id] >= line]
    assert (above.hits, above.scored) == (expected, len(CODES))
    assert len(expected) == 3


def test_early_exit_has_no_effect_on_parts_of_files(keeping: Path) -> None:
    hits = _parts([f"def f{i}(): return {i}" for i in range(30)], scores=[0.5] * 30)
    stopping = CodeReranker(str(keeping), top_n=1, early_exit=0.9)
    assert stopping.rerank(QUERY, hits).scored == 0
    stopping._scorer.calibration = replace(stopping.calibration, ceilings={"0.9": [-1e9]})
    stopping.repository_weight = 1
    assert stopping.rerank(QUERY, hits).scored == 30


def test_a_weight_is_a_finite_number_of_at_least_0(saved: Path, tmp_path: Path) -> None:
    for weight in (-0.1, math.nan, math.inf, "much"):
        with pytest.raises(ValueError, match=rf"repository_weight must be .*, got '?{weight}"):
            CodeReranker(str(saved), repository_weight=weight)  # type: ignore[arg-type]
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    record = json.loads((saved / RERANKER_CONFIG).read_text())
    for weight in (-1, "much"):
        record["calibration"]["repository_weight"] = weight
        (tmp_path / RERANKER_CONFIG).write_text(json.dumps(record))
        with pytest.raises(ValueError, match=rf"{RERANKER_CONFIG} is incomplete or damaged"):
            CodeReranker(str(tmp_path))
    del record["calibration"]["repository_weight"]  # as earlier versions wrote it
    (tmp_path / RERANKER_CONFIG).write_text(json.dumps(record))
    assert CodeReranker(str(tmp_path)).calibration == CodeReranker(str(saved)).calibration


def test_the_weight_is_not_in_the_fingerprint(saved: Path, keeping: Path) -> None:
    assert CodeReranker(str(keeping)).fingerprint == CodeReranker(str(saved)).fingerprint


# --- early exit ------------------------------------------------------------------------------------------------------


def test_early_exit_stops_when_the_rest_cannot_enter(saved: Path) -> None:
    codes = [f"def f{i}(): return {i}" for i in range(45)]
    everything = CodeReranker(str(saved), top_n=1).rerank(QUERY, _hits(codes))
    assert everything.scored == 45
    never = CodeReranker(str(saved), top_n=1, early_exit=0.95).rerank(QUERY, _hits(codes))
    assert (never.scored, never.hits) == (45, everything.hits)  # its ceiling is out of reach
    reranker = CodeReranker(str(saved), top_n=1, early_exit=0.9)
    raw = reranker.log_odds(QUERY, codes)
    fused = [value - 0.5 * math.log(i + 1) + 0.25 for i, value in enumerate(raw)]
    stopped = reranker.rerank(QUERY, _hits(codes))
    expected = next((n for n in (10, 20, 30, 40) if max(fused[:n]) >= 7.0), 45)
    assert stopped.scored == expected
    assert stopped.hits[0].node_id == f"n{fused.index(max(fused[:expected])):03}"
    low = Calibration(rank_weight=0.5, fused_shift=0.25, ceilings={"0.9": [-1e9]})
    reranker._scorer.calibration = low
    assert reranker.rerank(QUERY, _hits(codes)).scored == 10


def test_early_exit_needs_its_calibration(saved: Path, bert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot stop at confidence 0.5: it was calibrated at 0.9, 0.95; leave"):
        CodeReranker(str(saved), early_exit=0.5)
    with pytest.raises(ValueError, match=r"early_exit was calibrated with rank_weight 0\.5, got 2\.0"):
        CodeReranker(str(saved), early_exit=0.9, rank_weight=2.0)
    plain = save_cross_encoder(made_cross_encoder(_encoder(bert_folder)), tmp_path / "plain")
    with pytest.raises(ValueError, match=r"cannot stop at confidence 0.9: it was never calibrated"):
        CodeReranker(str(plain), early_exit=0.9)


def test_empty_duplicate_and_long_inputs(saved: Path) -> None:
    reranker = CodeReranker(str(saved), top_n=3)
    assert reranker.rerank(QUERY, []) == CodeReranker(str(saved), early_exit=0.9).rerank(QUERY, [])
    (one,) = reranker.postprocess_nodes(_hits([""]), query_str=QUERY)
    assert 0 < one.get_score() < 1
    node = TextNode(id_="same", text="x")
    doubled = reranker.rerank(QUERY, [NodeWithScore(node=node, score=1.0), NodeWithScore(node=node, score=0.1)])
    assert (len(doubled.hits), doubled.scored) == (1, 1)
    long = reranker.postprocess_nodes(_hits(CODES), query_str="read the file " * 500)
    assert len(long) == 3


def test_ten_thousand_hits(saved: Path) -> None:
    codes = [f"def f{i % 50}(): pass" for i in range(10_000)]  # equal texts are scored once
    best = CodeReranker(str(saved), top_n=2).rerank(QUERY, _hits(codes))
    assert (best.scored, len(best.hits)) == (10_000, 2)


def test_two_tasks_at_once(saved: Path) -> None:
    reranker = CodeReranker(str(saved), top_n=3, early_exit=0.9)
    queries = ["read the file", "add a and b"]
    expected = [reranker.postprocess_nodes(_hits(CODES), query_str=query) for query in queries]

    async def both() -> list[list[NodeWithScore]]:
        return await asyncio.gather(*(reranker.apostprocess_nodes(_hits(CODES), query_str=query) for query in queries))

    assert [[hit.node_id for hit in hits] for hits in asyncio.run(both())] == [
        [hit.node_id for hit in hits] for hits in expected
    ]


def test_threads_score_at_the_same_time(saved: Path) -> None:
    assert_threads_score_at_once(CodeReranker(saved, precision="fp32", runtime="torch"))


def test_comes_back_from_its_dictionary(saved: Path) -> None:
    reranker = CodeReranker(str(saved), top_n=3, early_exit=0.9, precision="int8")
    again = CodeReranker.from_dict(json.loads(reranker.to_json()))
    assert again.to_dict() == reranker.to_dict()
    assert again.score(QUERY, CODES) == reranker.score(QUERY, CODES)
