"""Training of cross-encoders: sampled candidates, gradients, resuming, starting from another reranker."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel

from llamaindex_code_retrieval import CodeEmbedding, Encoder
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.training.adapters import save_adapter
from llamaindex_code_retrieval.training.candidates import CandidateSampler
from llamaindex_code_retrieval.training.config import AdapterConfig, MatchConfig
from llamaindex_code_retrieval.training.losses import contrastive_loss, matching_loss
from llamaindex_code_retrieval.training.matching import Matching, fit_cross_encoder, new_cross_encoder, start_identity
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.run_record import TrainingRun

WORDS = "read write open close sort add list file line word tree node path key sum max".split()
PAIRS = [
    Pair(
        query=f"{a} the {b}",
        code=f"def {a}_{b}({b}):\n    x = {b}.{a}({i})\n    return x",
        language="python",
        repository=f"r{i % 4}",
        negatives=("def other():\n    pass",) if i % 2 else (),
        negative_queries=("what is this",) if i % 3 == 0 else (),
    )
    for i, (a, b) in enumerate((a, b) for a in WORDS[:8] for b in WORDS[8:])
]
QUICK = MatchConfig(
    epochs=1, batch_size=8, learning_rate=5e-3, precision="fp32", save_steps=3, depth=10, max_tokens=48, head_rate=1.0
)
LORA = AdapterConfig(rank=4)


def _encoder(folder: Path) -> Encoder:
    return Encoder.from_pretrained(folder, precision="fp32", max_query_tokens=16, max_code_tokens=40)


def _train(
    base: Path,
    config: MatchConfig = QUICK,
    adapter: AdapterConfig = LORA,
    *,
    start: str | Path | None = None,
    clusters: Sequence[int] | None = None,
    distractors: Mapping[str, str] | None = None,
    **more: Any,
) -> TrainingRun[CrossEncoder]:
    model = new_cross_encoder(_encoder(base), adapter, config, start=start)
    candidates = CandidateSampler(PAIRS, config, clusters=clusters, distractors=distractors)
    retriever = CodeEmbedding(str(base), precision="fp32")
    identity = start_identity(adapter, start)
    return fit_cross_encoder(model, candidates, config, retriever=retriever, identity=identity, **more)


def _matching(
    folder: Path,
    config: MatchConfig = QUICK,
    adapter: AdapterConfig = LORA,
    *,
    pairs: Sequence[Pair] = PAIRS,
    **more: Any,
) -> Matching:
    model = new_cross_encoder(_encoder(folder), adapter, config)
    candidates = CandidateSampler(pairs, config, **more)
    matching = Matching(model, candidates, config, CodeEmbedding(str(folder), precision="fp32"))
    matching.prepare(0)
    return matching


def _weights(result: TrainingRun[CrossEncoder]) -> dict[str, Tensor]:
    model = result.model
    return {
        **{name: p.detach().clone() for name, p in model.encoder.backbone.named_parameters() if p.requires_grad},
        **{name: p.detach().clone() for name, p in model.head.named_parameters()},
    }


def test_candidates_are_near_and_no_answers(bert_folder: Path) -> None:
    config = QUICK.replace(hard_negatives=2, in_batch_negatives=1, judged_negatives=1)
    matching = _matching(bert_folder, config)
    candidates = matching.candidates
    near = {pair.query: {candidates.codes[row] for row in candidates.mined[i]} for i, pair in enumerate(PAIRS)}
    assert all(len(found) == 10 for found in near.values())
    for step in range(8):
        positions = matching.epochs.batch(step)
        batch = candidates.sample(positions, step)
        assert batch == candidates.sample(positions, step)
        in_batch = {PAIRS[i].code for i in positions}
        for i, rows in zip(positions, batch.lists, strict=True):
            pair, codes = PAIRS[i], [batch.codes[row] for row in rows]
            assert {batch.queries[row] for row in rows} == {pair.query}
            assert codes[0] == pair.code
            assert pair.code not in codes[1:]
            assert len(set(codes)) == len(codes) == 4 + len(pair.negatives)
            assert sum(code in near[pair.query] for code in codes[1:]) >= 2
            assert all(code in near[pair.query] | in_batch | set(pair.negatives) for code in codes[1:])
        rejected = [(batch.queries[row], batch.codes[row]) for row in batch.rejected]
        assert rejected == [("what is this", PAIRS[i].code) for i in positions if PAIRS[i].negative_queries]
    seen = [i for step in range(8) for i in matching.epochs.batch(step)]
    assert sorted(seen) == list(range(len(PAIRS)))  # an epoch
    assert [i for step in range(8, 16) for i in matching.epochs.batch(step)] != seen


def test_answers_and_near_duplicates_are_no_negatives(bert_folder: Path) -> None:
    pairs = [*PAIRS[:10], replace(PAIRS[0], code="def second_answer(): pass")]
    clusters = [0, 0, *range(2, 11)]  # PAIRS[1] is a near-duplicate of PAIRS[0]
    config = QUICK.replace(hard_negatives=10, in_batch_negatives=10)
    batch = _matching(bert_folder, config, pairs=pairs, clusters=clusters).candidates.sample(range(11), 0)
    assert {batch.codes[row] for row in batch.lists[0][1:]} == {pair.code for pair in PAIRS[2:10]}


@pytest.mark.parametrize("loss", ["bce", "listwise", "both"])
def test_gradients_are_those_of_one_batch(loss: Any, bert_folder: Path) -> None:
    config = QUICK.replace(forward_tokens=100, loss=loss, judged_negatives=1)
    matching = _matching(bert_folder, config)
    batch = matching.candidates.sample(matching.epochs.batch(0), 0)
    total, _ = matching.backward(0)
    ours = {name: p.grad.clone() for name, p in matching.parameters.items() if p.grad is not None}
    plain = matching_loss(matching.model(batch.queries, batch.codes), batch.lists, batch.rejected, kind=loss)
    assert total == pytest.approx(float(plain.detach()), abs=1e-5)
    gradients = torch.autograd.grad(plain, list(matching.parameters.values()), allow_unused=True)
    checked = 0
    for name, gradient in zip(matching.parameters, gradients, strict=True):
        if gradient is not None:
            torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=0, msg=name)
            checked += 1
    assert checked > 10


def test_the_shared_loss_is_the_average_of_both(bert_folder: Path) -> None:
    config = QUICK.replace(variant="shared", head="mlp", loss="bce")
    matching = _matching(bert_folder, config, AdapterConfig(method="full"))
    positions = matching.epochs.batch(0)
    batch = matching.candidates.sample(positions, 0)
    total, _ = matching.backward(0)
    encoder = matching.model.encoder
    match = matching_loss(matching.model(batch.queries, batch.codes), batch.lists, batch.rejected, kind="bce")
    queries = encoder([PAIRS[i].query for i in positions], side="query")
    codes = encoder([PAIRS[i].code for i in positions], side="code")
    embed = contrastive_loss(queries, codes, torch.arange(len(positions)), temperature=0.05)
    assert total == pytest.approx(float((match + embed).detach()) / 2, abs=1e-5)
    name = "backbone.encoder.layer.0.attention.self.query.weight"
    (gradient,) = torch.autograd.grad((match + embed) / 2, [matching.parameters[name]])
    found = matching.parameters[name].grad
    assert found is not None
    torch.testing.assert_close(found, gradient, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("variant", "method"), [("adapters", "lora"), ("separate", "full"), ("shared", "full")])
def test_learns_what_answers(variant: Any, method: Any, bert_folder: Path) -> None:
    rate = 2e-2 if method == "lora" else 4e-3
    config = QUICK.replace(epochs=4, variant=variant, learning_rate=rate, hard_negatives=2, forward_tokens=4096)
    adapter = LORA if method == "lora" else AdapterConfig(method="full")
    base = _encoder(bert_folder)
    before = {name: p.clone() for name, p in base.backbone.named_parameters()}
    model = new_cross_encoder(base, adapter, config)
    retriever = CodeEmbedding(str(bert_folder), precision="fp32")
    result = fit_cross_encoder(model, CandidateSampler(PAIRS[:32], config), config, retriever=retriever)
    losses = [entry["loss"] for entry in result.history]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    assert result.model.variant == variant
    for name, p in base.backbone.named_parameters():
        assert torch.equal(p, before[name])


def test_resume_is_bit_for_bit(bert_folder: Path, tmp_path: Path) -> None:
    def stop(step: int, total: int, entry: object) -> None:
        if step == 5:
            raise KeyboardInterrupt

    whole = _train(bert_folder, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _train(bert_folder, folder=tmp_path / "cut", on_step=stop)
    resumed = _train(bert_folder, folder=tmp_path / "cut", resume=True)
    assert resumed.steps == whole.steps == 8
    for name, weights in _weights(whole).items():
        assert torch.equal(_weights(resumed)[name], weights), name
    with pytest.raises(ValueError, match="has another settings than this one"):
        _train(bert_folder, QUICK.replace(seed=1), folder=tmp_path / "cut", resume=True)


def test_the_best_step_is_kept(bert_folder: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def validate(model: CrossEncoder) -> dict[str, float]:
        seen.append({name: p.detach().clone() for name, p in model.head.named_parameters()})
        return {"mrr": [0.1, 0.9, 0.5][min(len(seen) - 1, 2)]}

    result = _train(bert_folder, QUICK.replace(validate_steps=2), validate=validate)
    assert result.best_step == 2
    for name, p in result.model.head.named_parameters():
        assert torch.equal(p, seen[1][name])


def _odds(model: CrossEncoder) -> Tensor:
    with torch.inference_mode():
        return model([pair.query for pair in PAIRS[:8]], [pair.code for pair in PAIRS[1:9]])


@pytest.fixture(scope="module")
def started(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reranker to start from."""
    folder = tmp_path_factory.mktemp("started")
    model = _train(bert_folder, QUICK.replace(seed=7)).model
    model.save(folder)
    save_adapter(model.encoder, folder)
    return folder


def test_starts_from_another_reranker(started: Path, bert_folder: Path, tmp_path: Path) -> None:
    def begin(**more: Any) -> Tensor:
        seen: list[Tensor] = []

        def validate(model: CrossEncoder) -> dict[str, float]:
            seen.append(_odds(model))
            return {"mrr": 0.0}

        _train(bert_folder, QUICK.replace(epochs=0.125), validate=validate, **more)
        return seen[0]

    saved = _odds(CrossEncoder.load(started, precision="fp32"))
    torch.testing.assert_close(begin(start=started), saved, atol=1e-5, rtol=0)
    assert (begin() - saved).abs().max() > 0.1


def test_a_start_is_part_of_a_run(started: Path, bert_folder: Path, tmp_path: Path) -> None:
    def stop(step: int, total: int, entry: object) -> None:
        if step == 5:
            raise KeyboardInterrupt

    whole = _train(bert_folder, start=started)
    with pytest.raises(KeyboardInterrupt):
        _train(bert_folder, start=started, folder=tmp_path, on_step=stop)
    with pytest.raises(ValueError, match="has another start than this one"):
        _train(bert_folder, folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="has another distractors than this one"):
        _train(bert_folder, start=started, distractors={"import os": "python"}, folder=tmp_path, resume=True)
    resumed = _train(bert_folder, start=started, folder=tmp_path, resume=True)
    for name, weights in _weights(whole).items():
        assert torch.equal(_weights(resumed)[name], weights), name


def test_a_blend_lies_between_start_and_what_was_learned(started: Path, bert_folder: Path) -> None:
    def blended(share: float) -> dict[str, Tensor]:
        return _weights(_train(bert_folder, QUICK.replace(epochs=0.25, blend=share), start=started))

    learned, half, quarter = blended(1.0), blended(0.5), blended(0.25)
    for name, weights in learned.items():
        begun = 2 * half[name] - weights
        torch.testing.assert_close(quarter[name], 0.75 * begun + 0.25 * weights)
        assert not torch.equal(begun, weights), name
    for name, weights in load_file(started / "head.safetensors").items():
        torch.testing.assert_close(2 * half[name] - learned[name], weights, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"blend 0.5 mixes .* name it with start"):
        _train(bert_folder, QUICK.replace(blend=0.5))
    with pytest.raises(ValueError, match="blend must be greater than 0, got 0"):
        QUICK.replace(blend=0)


def test_a_start_of_another_kind_is_refused(
    started: Path, bert_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has the head 'interaction', not 'mlp'; set head to it"):
        _train(bert_folder, QUICK.replace(head="mlp"), start=started)
    with pytest.raises(ValueError, match="has the variant 'adapters' and this training 'separate': only adapters"):
        _train(bert_folder, QUICK.replace(variant="separate"), AdapterConfig(method="full"), start=started)
    with pytest.raises(ValueError, match="rank is 4 there and 2 here"):
        _train(bert_folder, adapter=AdapterConfig(rank=2), start=started)
    with pytest.raises(ValueError, match="unknown reranker 'nowhere'"):
        _train(bert_folder, start="nowhere")
    with pytest.raises(ValueError, match=r"adapter_config|reranker"):
        _train(bert_folder, start=adapter_folders["lora"])
    other_base = Path(shutil.copytree(bert_folder, tmp_path / "other"))
    torch.manual_seed(9)
    BertModel(BertConfig.from_pretrained(bert_folder)).save_pretrained(other_base)
    with pytest.raises(ValueError, match=r"was trained on the base .* with fingerprint .*; train on that base"):
        _train(other_base, start=started)


def test_distractors_are_near_and_answer_nothing(bert_folder: Path) -> None:
    others = {**{f"import {a}_{b}": "python" for a in WORDS[:4] for b in WORDS[8:12]}, PAIRS[0].code: "java"}
    config = QUICK.replace(depth=len(PAIRS) + len(others), hard_negatives=60, in_batch_negatives=0)
    matching = _matching(bert_folder, config, distractors=others)
    candidates = matching.candidates
    assert len(candidates.codes) == len(PAIRS) + len(others) - 1  # one is a pair's code, and stays its answer
    assert candidates.languages[PAIRS[0].code] == "python"
    imports = set(others) - {PAIRS[0].code}
    assert all(imports <= {candidates.codes[row] for row in rows} for rows in candidates.mined)
    positions = matching.epochs.batch(0)
    batch = candidates.sample(positions, 0)
    for i, rows in zip(positions, batch.lists, strict=True):
        assert batch.codes[rows[0]] == PAIRS[i].code
        assert imports & {batch.codes[row] for row in rows[1:]}
    assert sorted(i for step in range(8) for i in matching.epochs.batch(step)) == list(range(len(PAIRS)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "both"}, "variant must be 'adapters', 'separate' or 'shared', got 'both'"),
        ({"head": "none"}, "head must be 'interaction' or 'mlp', got 'none'"),
        ({"loss": "mse"}, "loss must be 'bce', 'listwise' or 'both', got 'mse'"),
        ({"hard_negatives": -1}, "hard_negatives must be greater than or equal to 0, got -1"),
        ({"hard_negatives": 0}, "both 0, so no query has a negative; set one"),
        ({"hard_negatives": 0, "in_batch_negatives": 1, "depth": 9}, "depth has no effect without hard_negatives"),
        ({"temperature": 0.1}, "temperature has no effect on the variant 'adapters'"),
        ({"max_tokens": 4}, "max_tokens must be greater than or equal to 16"),
        ({"depth": 0}, "depth must be greater than or equal to 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatchConfig(**settings)


def test_refuses_what_cannot_be_trained(bert_folder: Path) -> None:
    with pytest.raises(ValueError, match="64 pairs are fewer than a batch of 65; lower batch_size or give more"):
        _train(bert_folder, QUICK.replace(batch_size=65))
    for variant, method in (
        ("adapters", "full"),
        ("separate", "lora"),
        ("adapters", "prompt"),
        ("adapters", "adalora"),
    ):
        with pytest.raises(ValueError, match=f"the variant '{variant}' cannot be trained by '{method}'"):
            _train(bert_folder, QUICK.replace(variant=variant), AdapterConfig(method=method))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="all codes are equal or near-duplicates"):
        _train(bert_folder, clusters=[0] * len(PAIRS))
    one_query = [replace(pair, query="the same", negatives=(), negative_queries=()) for pair in PAIRS]
    with pytest.raises(ValueError, match="every code answers every query, so no query has a negative"):
        CandidateSampler(one_query, QUICK)
    CandidateSampler(one_query, QUICK, distractors={"import os": "python"})
    judged = [replace(pair, negatives=("def other(): pass",)) for pair in one_query]
    CandidateSampler(judged, QUICK.replace(judged_negatives=1))
    with pytest.raises(FloatingPointError, match=r"at step \d+, in the batch that begins with the query"):
        _train(bert_folder, QUICK.replace(learning_rate=1e30, warmup=0.0, max_gradient_norm=1e30))
