"""The contrastive loss by hand, batches without false negatives, GradCache, resume, processes, AdaLoRA's pruning."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import Document, MetadataMode
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training import loop
from llamaindex_code_retrieval.training.adapters import attach_adapter
from llamaindex_code_retrieval.training.augmentation import with_names
from llamaindex_code_retrieval.training.batches import Batches
from llamaindex_code_retrieval.training.config import METHODS, AdapterConfig, LoopConfig, Method, TrainConfig
from llamaindex_code_retrieval.training.contrastive import Contrastive, fit_adapter
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.losses import contrastive_loss
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.processes import Processes
from llamaindex_code_retrieval.training.recipes import Recipe
from llamaindex_code_retrieval.training.run_record import TrainingRun

WORDS = "read write open close sort add list file line word tree node path key sum max".split()
PAIRS = [
    Pair(
        query=f"{a} the {b}",
        code=f"def {a}_{b}({b}):\n    x = {b}.{a}({i})\n    return x",
        language="python",
        repository="r",
    )
    for i, (a, b) in enumerate((a, b) for a in WORDS[:8] for b in WORDS[8:])
]
LORA = AdapterConfig()
QUICK = TrainConfig(epochs=2, batch_size=8, learning_rate=0.02, precision="fp32", save_steps=3)


def load_encoder(folder: Path) -> Encoder:
    return Encoder.from_pretrained(folder, precision="fp32", max_query_tokens=16, max_code_tokens=32)


def fit(
    encoder: Encoder, config: TrainConfig = QUICK, adapter: AdapterConfig = LORA, **more: Any
) -> TrainingRun[Encoder]:
    pairs = more.pop("pairs", PAIRS)
    model = attach_adapter(encoder, adapter, total_steps=config.total_steps(len(pairs)), seed=config.seed)
    return fit_adapter(model, pairs, adapter, config, **more)


def trained_weights(result: TrainingRun[Encoder]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in result.model.backbone.named_parameters() if p.requires_grad}


def _units(*rows: list[float]) -> Tensor:
    return F.normalize(torch.tensor(rows), dim=-1)


# --- loss ------------------------------------------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    """Queries (1,0) and (0,1), codes (1,0) and (0.6,0.8): cosines 1, 0.6 / 0, 0.8, at temperature 0.5."""
    queries, codes = _units([1.0, 0.0], [0.0, 1.0]), _units([1.0, 0.0], [0.6, 0.8])
    to_code = -math.log(math.exp(2) / (math.exp(2) + math.exp(1.2))) - math.log(math.exp(1.6) / (1 + math.exp(1.6)))
    from_code = -math.log(math.exp(2) / (math.exp(2) + 1)) - math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(1.2)))
    loss = contrastive_loss(queries, codes, torch.tensor([0, 1]), temperature=0.5)
    assert float(loss) == pytest.approx((to_code + from_code) / 4)


def test_loss_of_two_queries_of_one_code_by_hand() -> None:
    """The second query of a code is neither a negative of the first, nor its equal."""
    queries, codes = _units([1.0, 0.0], [0.6, 0.8], [0.0, 1.0]), _units([1.0, 0.0], [0.0, 1.0])
    loss = contrastive_loss(queries, codes, torch.tensor([0, 0, 1]), temperature=1.0)
    e = math.exp
    to_code = [e(1) / (e(1) + 1), e(0.6) / (e(0.6) + e(0.8)), e(1) / (e(1) + 1)]
    from_code = [e(1) / (e(1) + 1), e(0.6) / (e(0.6) + 1), e(1) / (e(1) + e(0) + e(0.8))]
    assert float(loss) == pytest.approx(-sum(map(math.log, to_code + from_code)) / 6)


def test_rejected_queries_and_further_codes_are_negatives() -> None:
    """One pair at cosine 1, a rejected query at 0.6 and a code that answers nothing at 0.8."""
    queries, codes = _units([1.0, 0.0], [0.6, 0.8]), _units([1.0, 0.0], [0.8, 0.6])
    loss = contrastive_loss(queries, codes, torch.tensor([0]), temperature=1.0)
    e = math.exp
    assert float(loss) == pytest.approx(-(math.log(e(1) / (e(1) + e(0.8))) + math.log(e(1) / (e(1) + e(0.6)))) / 2)


def test_hardness_weighs_near_negatives_by_hand() -> None:
    """Negatives at cosines 0.6 and 0 weigh 2 * softmax([0.6 h, 0])."""
    queries, codes = _units([1.0, 0.0]), _units([1.0, 0.0], [0.6, 0.8], [0.0, 1.0])
    loss = contrastive_loss(queries, codes, torch.tensor([0]), temperature=1.0, hardness=2.0)
    near = 2 * math.exp(1.2) / (math.exp(1.2) + 1)
    e = math.exp
    assert float(loss) == pytest.approx(-math.log(e(1) / (e(1) + near * e(0.6) + (2 - near) * e(0))) / 2)


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_hardness_zero_changes_nothing_and_any_leaves_equal_negatives_alone(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, codes = (F.normalize(torch.randn(n, 5, generator=generator), dim=-1) for _ in range(2))
    target = torch.arange(n)
    assert contrastive_loss(queries, codes, target) == contrastive_loss(queries, codes, target, hardness=0.0)
    same = F.normalize(torch.ones(n, 5), dim=-1)
    torch.testing.assert_close(contrastive_loss(same, same, target, hardness=9.0), torch.tensor(math.log(n)))


# --- batches ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 100), st.integers(2, 20), st.integers(1, 4))
def test_batches_hold_no_false_negatives(seed: int, batch_size: int, neighbours: int) -> None:
    pairs = [Pair(query=f"q{i % 30}", code=f"code {i % 17}") for i in range(60)]  # queries and codes repeat
    clusters = [i % 17 % 11 for i in range(60)]  # some codes are near-duplicates
    batches = Batches(pairs, TrainConfig(batch_size=batch_size, seed=seed, neighbours=neighbours), clusters)
    seen: set[int] = set()
    for _ in range(60):
        batch = batches.next()
        seen.update(batch)
        assert len(batch) <= batch_size
        queries = [pairs[i].query for i in batch]
        assert len(set(queries)) == len(queries)
        of_cluster: dict[int, set[str]] = {}
        for i in batch:
            of_cluster.setdefault(clusters[i], set()).add(pairs[i].code)
        assert all(len(codes) == 1 for codes in of_cluster.values())
        texts = batches.texts(batch, 0)
        assert len(set(texts.codes)) == len(texts.codes)
        assert [texts.codes[row] for row in texts.target] == [pairs[i].code for i in batch]
        batches.remember(texts.codes, torch.randn(len(texts.codes), 4))
    assert len(seen) == 60


def test_an_epoch_shows_each_pair_once() -> None:
    batches = Batches(PAIRS, TrainConfig(batch_size=16))
    shown = [i for _ in range(4) for i in batches.next()]
    assert sorted(shown) == list(range(64))


def test_blocks_of_neighbours() -> None:
    """Eight codes in four directions: with blocks of two, a code stands beside the one of its direction."""
    pairs = [Pair(query=f"q{i}", code=f"c{i}") for i in range(8)]
    batches = Batches(pairs, TrainConfig(batch_size=2, neighbours=2))
    batches.remember([f"c{i}" for i in range(8)], torch.eye(4).repeat(2, 1))
    for _ in range(4):
        first, second = batches.next()
        assert first % 4 == second % 4


def test_blocks_of_one_repository() -> None:
    """Each of two repositories has four codes: in blocks of two, codes stand beside one of their repository."""
    pairs = [Pair(query=f"q{i}", code=f"c{i}", repository=f"r{i % 2}" if i < 8 else "") for i in range(10)]
    batches = Batches(pairs, TrainConfig(batch_size=2, from_repository=2))
    epoch = [batches.next() for _ in range(5)]
    assert sorted(i for batch in epoch for i in batch) == list(range(10))
    order = [pairs[i].repository for batch in epoch for i in batch]
    places = [place for place, name in enumerate(order) if name]
    assert all(order[a] == order[b] and b == a + 1 for a, b in zip(places[::2], places[1::2], strict=True))
    again = Batches(pairs, TrainConfig(batch_size=2, from_repository=2))
    assert [again.next() for _ in range(5)] == epoch
    with pytest.raises(ValueError, match="neighbours and from_repository both say"):
        TrainConfig(neighbours=2, from_repository=2)


def test_codes_are_trained_with_the_words_of_their_paths() -> None:
    """As an index embeds them; a code alone decides, so that its pairs agree."""
    pairs = [Pair(query=f"q{i}", code=f"def f{i // 2}(): ...", path="src/shop/Cart.py", kind="doc") for i in range(400)]
    changed = with_names(pairs, 0.25)
    node = CodeNodeParser().get_nodes_from_documents([Document(text=pairs[0].code, metadata={"path": pairs[0].path})])[
        0
    ]
    assert with_names(pairs, 1.0)[0].code == node.get_content(MetadataMode.EMBED).replace("cart f0", "cart")
    assert {replace(pair, code=pair.code.partition("\n\n")[2] or pair.code) for pair in changed} == set(pairs)
    assert all(one.code == other.code for one, other in zip(changed[::2], changed[1::2], strict=True))
    assert 0.15 < np.mean([pair.code.startswith("names: shop cart\n\n") for pair in changed]) < 0.35
    assert with_names(pairs, 0.0) == pairs
    assert with_names([Pair(query="q", code="c")], 1.0) == [Pair(query="q", code="c")]
    with pytest.raises(ValueError, match="named puts words in front"):
        Recipe(named=0.5, train=TrainConfig(hard_positives=0.5))


def test_memory_leaves_out_what_may_answer() -> None:
    """Of codes A to F, a batch of the query "a" keeps neither its two answers A and B, nor B's near-duplicate C; F was
    not embedded yet."""
    pairs = [Pair(query="a" if code in "AB" else code.lower(), code=code) for code in "ABCDEF"]
    batches = Batches(pairs, TrainConfig(batch_size=2, memory=True), clusters=[0, 1, 1, 2, 3, 4])
    assert len(batches.remembered([0])) == 0
    batches.remember(list("ABCDE"), torch.eye(5))
    assert torch.equal(batches.remembered([0]), torch.eye(5)[3:])
    assert torch.equal(batches.remembered([3]), torch.eye(5)[[0, 1, 2, 4]])
    without = Batches(pairs, TrainConfig(batch_size=2, neighbours=2))
    without.remember(list("ABCDE"), torch.eye(5))
    assert len(without.remembered([0])) == 0


def test_judged_negatives_come_with_their_codes() -> None:
    pairs = [
        Pair(query="a", code="A", negatives=("not a", "B")),
        Pair(query="b", code="B", negative_queries=("not b", "nor b")),
    ]
    batches = Batches(pairs, TrainConfig(batch_size=2, judged_negatives=2))
    batch = batches.texts([0, 1], 0)
    assert batch.codes == ["A", "B", "not a"]  # B is in the batch already
    assert batch.queries[:2] == ["a", "b"]
    assert sorted(batch.queries[2:]) == ["nor b", "not b"]
    alone = Batches(pairs, TrainConfig(batch_size=2, judged_negatives=0)).texts([0, 1], 0)
    assert (alone.queries, alone.codes) == (["a", "b"], ["A", "B"])


def test_hard_positives_and_rewritten_queries() -> None:
    config = TrainConfig(batch_size=2, hard_positives=1.0, rewritten_queries=1.0)
    batch = Batches(PAIRS, config).texts([0, 1], 0)
    assert all("def " not in code for code in batch.codes)
    assert all(query != PAIRS[i].query for i, query in enumerate(batch.queries))
    assert Batches(PAIRS, config).texts([0, 1], 0) == batch
    assert Batches(PAIRS, config).texts([0, 1], 1) != batch


def test_refuses_pairs_without_negatives() -> None:
    with pytest.raises(ValueError, match="64 pairs are fewer than a batch of 65; lower batch_size"):
        Batches(PAIRS, TrainConfig(batch_size=65))
    with pytest.raises(ValueError, match="all codes are equal or near-duplicates"):
        Batches([Pair(query=f"q{i}", code="c") for i in range(4)], TrainConfig(batch_size=2))


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_learns(method: Method, t5_folder: Path) -> None:
    rate = {"ia3": 0.2, "prompt": 0.3, "full": 0.005}.get(method, 0.02)
    config = QUICK.replace(epochs=12, batch_size=16, learning_rate=rate)
    encoder = load_encoder(t5_folder)
    before = encoder.encode_codes([pair.code for pair in PAIRS])
    result = fit(encoder, config, AdapterConfig.preset(method))
    assert result.best_step == result.steps == len(result.history) == 48
    assert _loss(result.model) < _loss(encoder) - 0.03
    np.testing.assert_array_equal(encoder.encode_codes([pair.code for pair in PAIRS]), before)


def _loss(encoder: Encoder) -> float:
    """Return the loss of all pairs as one batch."""
    queries = torch.from_numpy(encoder.encode_queries([pair.query for pair in PAIRS]))
    codes = torch.from_numpy(encoder.encode_codes([pair.code for pair in PAIRS]))
    return float(contrastive_loss(queries, codes, torch.arange(len(PAIRS))))


def _gradients(folder: Path, config: TrainConfig, adapter: AdapterConfig) -> tuple[float, dict[str, Tensor]]:
    run = _run(folder, config, adapter)
    loss = run.backward_batch(run.batches.texts(run.batches.next(), 0), torch.zeros(0, 0))
    return loss, {name: p.grad.clone() for name, p in run.parameters.items() if p.grad is not None}


def _run(folder: Path, config: TrainConfig, adapter: AdapterConfig) -> Contrastive:
    model = attach_adapter(load_encoder(folder), adapter, total_steps=100)
    with torch.no_grad():  # LoRA starts at zero, where half of the gradients are
        for i, p in enumerate(p for p in model.backbone.parameters() if p.requires_grad):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    return Contrastive(model, Batches(PAIRS, config), adapter, config, Processes.join(cpu=True))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_grad_cache_gives_the_same_gradients(dropout: float, t5_folder: Path) -> None:
    adapter = AdapterConfig(dropout=dropout)
    config = QUICK.replace(batch_size=64, forward_tokens=64, learn_temperature=True)
    loss, plain = _gradients(t5_folder, config, adapter)
    cached_loss, cached = _gradients(t5_folder, config.replace(grad_cache=True), adapter)
    assert cached_loss == pytest.approx(loss, abs=1e-5)
    assert plain.keys() == cached.keys()
    assert max(float(g.abs().max()) for g in plain.values()) > 1e-3
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-5, rtol=0)


def test_gradients_are_those_of_one_padded_batch(bert_folder: Path) -> None:
    """Chunks and the detour over the vectors' gradient change nothing against plain autograd."""
    adapter, config = AdapterConfig(), QUICK.replace(batch_size=16, forward_tokens=50)
    _, ours = _gradients(bert_folder, config, adapter)
    run = _run(bert_folder, config, adapter)
    batch = run.batches.texts(run.batches.next(), 0)
    queries, codes = run.model(batch.queries, side="query"), run.model(batch.codes, side="code")
    contrastive_loss(queries, codes, torch.tensor(batch.target)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in run.parameters.items():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=0)


def test_memory_is_a_batch_of_all_codes_to_the_queries(bert_folder: Path) -> None:
    """With vectors that are not stale, the loss is that of all codes at once, whose negatives get no gradient."""
    adapter, config = AdapterConfig(), QUICK.replace(batch_size=16, memory=True)
    run = _run(bert_folder, config, adapter)
    run.batches.remember(run.batches.codes, torch.from_numpy(run.model.encode_codes(run.batches.codes)))
    positions = run.batches.next()
    batch, memory = run.batches.texts(positions, 0), run.batches.remembered(positions)
    assert len(memory) == len(PAIRS) - 16
    loss = run.backward_batch(batch, memory)
    others = [code for code in run.batches.codes if code not in batch.codes]
    queries, codes = run.model(batch.queries, side="query"), run.model(batch.codes, side="code")
    with torch.no_grad():
        further = run.model(others, side="code")
    plain = contrastive_loss(queries, torch.cat([codes, further]), torch.tensor(batch.target))
    assert loss == pytest.approx(float(plain.detach()), abs=1e-5)
    gradients = torch.autograd.grad(plain, list(run.parameters.values()))
    for (name, parameter), gradient in zip(run.parameters.items(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=0, msg=name)


def test_bf16_arithmetic_on_fp32_weights(bert_folder: Path) -> None:
    config = QUICK.replace(batch_size=16)
    full, full_gradients = _gradients(bert_folder, config, AdapterConfig())
    half, half_gradients = _gradients(bert_folder, config.replace(precision="bf16"), AdapterConfig())
    assert half == pytest.approx(full, rel=0.02)
    assert half != full
    assert all(gradient.dtype == torch.float32 for gradient in half_gradients.values())
    flat = [torch.cat([g.flatten() for g in each.values()]) for each in (full_gradients, half_gradients)]
    assert float(F.cosine_similarity(flat[0], flat[1], dim=0)) > 0.98


@pytest.mark.parametrize("method", METHODS)
def test_resume_is_bit_for_bit(method: Method, bert_folder: Path, tmp_path: Path) -> None:
    config = QUICK.replace(
        learn_temperature=True,
        hard_negatives=1,
        refresh_steps=5,
        margin=0.0,
        neighbours=2,
        memory=True,
        validate_steps=4,
    )
    adapter = AdapterConfig.preset(method).replace(dropout=0.1 if method in ("lora", "adalora") else 0.0)
    encoder = load_encoder(bert_folder)
    validate = _Falling()
    whole = fit(encoder, config, adapter, validate=validate, folder=tmp_path / "whole")

    def stop(step: int, total: int, facts: object) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(encoder, config, adapter, validate=_Falling(), folder=tmp_path / "cut", on_step=stop)
    resumed = fit(encoder, config, adapter, validate=_Falling(calls=2), folder=tmp_path / "cut", resume=True)
    for name, weights in trained_weights(whole).items():
        assert torch.equal(trained_weights(resumed)[name], weights), name
    timeless = [[{k: v for k, v in e.items() if k != "seconds"} for e in r.history] for r in (whole, resumed)]
    assert timeless[0] == timeless[1]
    assert (whole.steps, whole.best_step) == (resumed.steps, resumed.best_step)


class _Falling:
    """A validation whose MRR falls from call to call but for the fourth."""

    def __init__(self, calls: int = 0) -> None:
        self.calls = calls

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        self.calls += 1
        return {"mrr": 0.9 if self.calls == 4 else 0.5 - self.calls / 100}


def test_the_best_step_is_kept_and_patience_ends_the_run(bert_folder: Path) -> None:
    config = QUICK.replace(epochs=8, validate_steps=4, patience=2)
    seen: list[dict[str, Tensor]] = []

    def validate(encoder: Encoder) -> dict[str, float]:
        seen.append({n: p.detach().clone() for n, p in encoder.backbone.named_parameters() if p.requires_grad})
        return {"mrr": [0.1, 0.3, 0.2, 0.25, 0.9][len(seen) - 1]}

    result = fit(load_encoder(bert_folder), config, validate=validate)
    assert (result.best_step, result.steps) == (4, 12)
    for name, weights in trained_weights(result).items():
        assert torch.equal(weights, seen[1][name])


def test_adalora_prunes_to_its_budget(bert_folder: Path) -> None:
    adapter = AdapterConfig(method="adalora", rank=2, initial_rank=4, targets="linear")
    config = QUICK.replace(epochs=5, learning_rate=0.05)
    result = fit(load_encoder(bert_folder), config, adapter)
    ranks = [entry["mean_rank"] for entry in result.history]
    assert ranks[0] == 4.0
    assert all(later <= earlier for earlier, later in pairwise(ranks))
    assert ranks[-1] == pytest.approx(2.0, abs=1e-6)
    values = [p for name, p in result.model.backbone.named_parameters() if "lora_E" in name]
    left = [int((p != 0).sum()) for p in values]
    assert sum(left) == 2 * len(values)
    assert len(set(left)) > 1  # more where it matters


def test_a_loss_that_is_no_number_stops(bert_folder: Path, tmp_path: Path) -> None:
    config = QUICK.replace(learning_rate=1e30, warmup=0.0, max_gradient_norm=1e30)
    with pytest.raises(FloatingPointError, match=r"at step \d+, in the batch that begins with the query '.*kept in"):
        fit(load_encoder(bert_folder), config, folder=tmp_path)
    kept = load_file(tmp_path / STATE)
    assert all(bool(torch.isfinite(tensor).all()) for name, tensor in kept.items() if name.startswith("best/"))


def test_refuses_to_resume_something_else(bert_folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(bert_folder)
    with pytest.raises(ValueError, match="there is no unfinished run in"):
        fit(encoder, QUICK, folder=tmp_path, resume=True)
    fit(encoder, QUICK, folder=tmp_path)
    assert (tmp_path / STATE).is_file()
    with pytest.raises(ValueError, match="has another pairs than this one"):
        fit(encoder, QUICK, pairs=PAIRS[1:], folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="has another settings than this one"):
        fit(encoder, QUICK.replace(seed=1), folder=tmp_path, resume=True)


def _broadcast(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Give one tensor a shape that ``copy_`` would broadcast."""
    name = next(name for name in tensors if name.startswith("best/"))
    tensors[name] = tensors[name][:1].clone()


def _no_moment(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    del tensors[next(name for name in tensors if name.startswith("exp_avg_sq/"))]


def _no_waiting(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    run = json.loads(metadata["run"])
    del run["objective"]["waiting"]
    metadata["run"] = json.dumps(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, metadata: metadata.clear(), "is damaged, or is not the state of a training"),
        (lambda tensors, metadata: metadata.update(run="[]"), "is damaged, or is not the state of a training"),
        (_broadcast, "1 tensors have another shape"),
        (_no_moment, "1 of .* tensors are missing: exp_avg_sq/"),
        (_no_waiting, "lacks a part of its run .*waiting"),
    ],
)
def test_refuses_to_resume_a_foreign_state(
    bert_folder: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor], dict[str, str]], object],
    message: str,
) -> None:
    encoder = load_encoder(bert_folder)
    fit(encoder, QUICK.replace(epochs=0.2), folder=tmp_path)
    with safe_open(str(tmp_path / STATE), framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, tmp_path / STATE, metadata=metadata)
    with pytest.raises(ValueError, match=f"{message}.*start anew in another folder"):
        fit(encoder, QUICK.replace(epochs=0.2), folder=tmp_path, resume=True)


def test_refuses_to_resume_a_damaged_state(bert_folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(bert_folder)
    fit(encoder, QUICK.replace(epochs=0.2), folder=tmp_path)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged, or is not the state of a training"):
        fit(encoder, QUICK.replace(epochs=0.2), folder=tmp_path, resume=True)


def test_a_full_disk_leaves_the_last_state(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[bytes] = []
    real = loop.write_atomically

    def third_time_full(path: Path, content: bytes) -> None:
        if len(saved) == 2:
            raise OSError(28, "No space left on device", str(path))
        saved.append(content)
        real(path, content)

    monkeypatch.setattr(loop, "write_atomically", third_time_full)
    with pytest.raises(OSError, match="No space left"):
        fit(load_encoder(bert_folder), QUICK, folder=tmp_path)
    assert (tmp_path / STATE).read_bytes() == saved[-1]
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


class _Parabola:
    """An objective of one number, whose steps and validations take exactly as long as its clock says."""

    ready = True
    extras: ClassVar[dict[str, Tensor]] = {}
    rate_factors: ClassVar[dict[str, float]] = {}

    def __init__(self, *, seconds: Callable[[int], float]) -> None:
        self.parameters = {"x": torch.ones(1, requires_grad=True)}
        self.seconds = seconds
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def validate(self) -> dict[str, float]:
        self.now += 2.0
        return {"mrr": 0.5}

    def prepare(self, step: int) -> None:
        pass

    def backward(self, step: int) -> tuple[float, str]:
        self.now += self.seconds(step)
        loss = (self.parameters["x"] ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), "the only batch"

    def rewind(self) -> None:
        pass

    def finish(self, step: int) -> dict[str, Any]:
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {}

    def restore(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        pass


def test_a_time_budget_cuts_the_schedule() -> None:
    """A step takes one second, so five steps leave 15 of 20 seconds."""
    parabola = _Parabola(seconds=lambda step: 1.0)
    timed = loop.Loop(parabola, LoopConfig(max_seconds=20), total=1000, identity={}, clock=parabola.clock)
    timed.run(None)
    assert timed.progress.step == 20
    assert timed.progress.seconds == 20.0
    rates = [entry["learning_rate"] for entry in timed.progress.history]
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(1e-3 / 18)  # the last of a linear fall over 18 steps, after two of warmup
    json.dumps(timed.progress.history)


def test_a_time_budget_includes_validations() -> None:
    """One validation of two seconds has passed and one is kept: 7 of 30 seconds passed, 21 are left for steps."""
    parabola = _Parabola(seconds=lambda step: 1.0)
    config = LoopConfig(max_seconds=30, validate_steps=1000)
    timed = loop.Loop(parabola, config, total=1000, identity={}, clock=parabola.clock)
    timed.run(parabola.validate)
    assert timed.progress.step == 26
    assert parabola.now == 30.0


def test_a_run_that_becomes_slower_stops_at_the_budget() -> None:
    parabola = _Parabola(seconds=lambda step: 1.0 if step < 5 else 10.0)
    timed = loop.Loop(parabola, LoopConfig(max_seconds=20), total=1000, identity={}, clock=parabola.clock)
    timed.run(None)
    assert (timed.progress.step, parabola.now) == (7, 25.0)


def test_a_state_is_saved_by_the_clock_too(tmp_path: Path) -> None:
    """Steps of 10 seconds: the state is saved when 25 have passed since the last time, so after every third step."""
    saved = []

    class Watched(_Parabola):
        def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
            saved.append(self.now)
            return super().state()

    parabola = Watched(seconds=lambda step: 10.0)
    config = LoopConfig(save_seconds=25, save_steps=1000)
    loop.Loop(parabola, config, total=7, identity={}, folder=tmp_path, clock=parabola.clock).run(None)
    assert saved == [30.0, 60.0, 70.0]  # and at the end
