"""Fitting the ranking to questions about tiny repositories, and the command train-ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shell

from llamaindex_code_retrieval import CodeEmbedding
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion, RepositoryQuestions
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.index.storage import Storage
from llamaindex_code_retrieval.ranking.features import FEATURES
from llamaindex_code_retrieval.ranking.model import RankingModel, default_model
from llamaindex_code_retrieval.training.judging import JudgedQuestion, judge_repositories
from llamaindex_code_retrieval.training.ranking_model import (
    UNSIGNED,
    RankingConfig,
    cross_validate,
    fit_ranking,
    mean_by_category,
)
from llamaindex_code_retrieval.training.ranking_questions import write_questions
from llamaindex_code_retrieval.training.train_ranking import QuestionSet, RankingRun, train_ranking

WORDS = {
    "shop": ["cart", "price", "mail", "tax", "stock", "coupon"],
    "bank": ["account", "loan", "rate", "branch", "card", "ledger"],
    "zoo": ["lion", "keeper", "ticket", "feeding", "visitor", "cage"],
}
CONFIG = RankingConfig(l2=0.001, name_l2=0.01, file_penalty=0.5)


def question(query: str, path: str, *lines: int, category: str = "semantic") -> RepositoryQuestion:
    return RepositoryQuestion(query=query, category=category, relevant=(Target(path, *lines),))


def questions_of(name: str) -> RepositoryQuestions:
    """Ask for a class by its name, for a method with its class, and in words of the file name."""
    questions = []
    for word in WORDS[name]:
        questions += [
            question(f"{word.title()}Store", f"src/{word}_store.py", 1, 2, category="symbol"),
            question(f"{word.title()}Store.load", f"src/{word}_store.py", 4, 5, category="symbol"),
            question(f"how does the store of a {word} work", f"src/{word}_store.py"),
        ]
    return RepositoryQuestions(name=name, questions=tuple(questions))


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three repositories, in which tests have the words of what they test."""
    folder = tmp_path_factory.mktemp("checkouts")
    for name, words in WORDS.items():
        for word in words:
            title = word.title()
            source = folder / name / "src" / f"{word}_store.py"
            test = folder / name / "tests" / f"test_{word}_store.py"
            for file in (source, test):
                file.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(
                f"class {title}Store:\n    size = 1\n\n    def load(self):\n        return self.size\n\n"
                f"    def save(self, value):\n        self.size = value\n"
            )
            test.write_text(f"def test_load():\n    assert {title}Store().load() == 1  # the store of a {word} works\n")
    return folder


@pytest.fixture(scope="module")
def embedding(bert_folder: Path) -> CodeEmbedding:
    return CodeEmbedding(str(bert_folder), precision="fp32")


@pytest.fixture(scope="module")
def judged(checkouts: Path, embedding: CodeEmbedding) -> list[JudgedQuestion]:
    return judge_repositories(
        [questions_of(name) for name in WORDS], {name: checkouts / name for name in WORDS}, embedding
    )


@pytest.fixture(scope="module")
def fitted(judged: list[JudgedQuestion]) -> RankingModel:
    return fit_ranking(judged, CONFIG)


def mean(questions: Sequence[JudgedQuestion], model: RankingModel) -> float:
    return mean_by_category(questions, [each.ndcg(model) for each in questions])["all"]


def zero() -> RankingModel:
    return RankingModel(weights={"sentence": dict.fromkeys(FEATURES, 0.0), "name": dict.fromkeys(FEATURES, 0.0)})


# --- judging ---------------------------------------------------------------------------------------------------------


def test_candidates_are_judged_by_their_places(judged: list[JudgedQuestion]) -> None:
    by_query = {each.question.text: each for each in judged}
    one = by_query["CartStore.load"]
    assert (one.repository, one.category, one.features.shape) == (
        "shop",
        "symbol",
        (len(one.candidates), len(FEATURES)),
    )
    covered = [candidate.scope for candidate, covers in zip(one.candidates, one.covers, strict=True) if covers.any()]
    assert covered == ["CartStore.load"]
    whole = by_query["how does the store of a cart work"]
    covered = [candidate.path for candidate, covers in zip(whole.candidates, whole.covers, strict=True) if covers.any()]
    assert set(covered) == {"src/cart_store.py"}
    assert len(covered) == 3


def test_places_have_paths_in_the_repository_although_a_folder_of_it_is_indexed(
    checkouts: Path, embedding: CodeEmbedding
) -> None:
    asked = question("CartStore", "src/cart_store.py", 1, 2)
    repository = RepositoryQuestions(name="shop", root="src", questions=(asked,))
    [one] = judge_repositories([repository], {repository.name: checkouts / repository.name}, embedding)
    assert {place.path for place in one.places} == {f"src/{word}_store.py" for word in WORDS["shop"]}
    assert one.covers.sum() == 1


def test_the_ndcg_of_a_question_is_that_of_the_hits_of_a_model(judged: list[JudgedQuestion]) -> None:
    one = next(each for each in judged if each.question.text == "CartStore.load")
    weights = dict.fromkeys(FEATURES, 0.0) | {"qualified_name": 1.0}
    best = RankingModel(weights={"sentence": weights, "name": weights})
    assert one.ndcg(best) == 1
    worst = {"symbol": 0.0, "qualified_name": -1.0}
    last = RankingModel(weights={"sentence": weights | worst, "name": weights | worst})
    assert one.ndcg(last) == 0


# --- the fit ---------------------------------------------------------------------------------------------------------


def test_a_fit_ranks_its_questions_better(judged: list[JudgedQuestion], fitted: RankingModel) -> None:
    assert mean(judged, fitted) > max(mean(judged, zero()) + 0.3, 0.9)
    from_default = fit_ranking(judged, CONFIG, prior=default_model())
    assert mean(judged, from_default) >= mean(judged, default_model())
    assert fitted.file_penalty == CONFIG.file_penalty


def test_a_fit_is_deterministic_and_does_not_depend_on_the_order(
    judged: list[JudgedQuestion], fitted: RankingModel
) -> None:
    assert fit_ranking(judged, CONFIG) == fitted
    other = fit_ranking(judged[::-1], CONFIG)
    for kind in ("sentence", "name"):
        np.testing.assert_allclose(other.vector(kind), fitted.vector(kind), atol=0.1)


def test_more_of_a_signed_feature_never_lowers_a_score(judged: list[JudgedQuestion], fitted: RankingModel) -> None:
    """Where the answers are tests, all that speaks for the code counts nothing, and being a test counts."""
    tests = [
        replace(each, covers=np.array([["tests/" in candidate.path] for candidate in each.candidates]))
        for each in judged
    ]
    reversed_fit = fit_ranking(tests, CONFIG)
    for model in (fitted, reversed_fit, fit_ranking(tests, CONFIG, prior=default_model())):
        for weights in model.weights.values():
            assert all(weight >= 0 for name, weight in weights.items() if name not in UNSIGNED)
    assert fitted.weights["sentence"]["test"] < 0 < reversed_fit.weights["sentence"]["test"]
    assert reversed_fit.weights["sentence"]["main_symbol"] == 0 < fitted.weights["sentence"]["main_symbol"]


def test_features_that_are_left_out_have_no_weight(judged: list[JudgedQuestion], fitted: RankingModel) -> None:
    without = ("symbol", "test", "file_name_cover")
    for prior in (None, default_model()):
        model = fit_ranking(judged, CONFIG, prior=prior, without=without)
        for weights in model.weights.values():
            assert [weights[name] for name in without] == [0, 0, 0]
    assert fitted.weights["sentence"]["file_name_cover"] > 0


def test_a_strong_penalty_keeps_the_prior(judged: list[JudgedQuestion], fitted: RankingModel) -> None:
    """Without a prior only the language that a question names counts."""
    strong = RankingConfig(l2=1e5, name_l2=1e5)
    assumed = [float(name == "language") for name in FEATURES]
    kept, none = fit_ranking(judged, strong, prior=default_model()), fit_ranking(judged, strong)
    for kind in ("sentence", "name"):
        np.testing.assert_allclose(kept.vector(kind), default_model().vector(kind), atol=0.02)
        np.testing.assert_allclose(none.vector(kind), assumed, atol=0.02)
        assert np.abs(fitted.vector(kind)).max() > 0.5


def test_names_have_the_weights_of_sentences_where_their_penalty_is_strong(judged: list[JudgedQuestion]) -> None:
    model = fit_ranking(judged, replace(CONFIG, name_l2=1e5))
    np.testing.assert_allclose(model.vector("name"), model.vector("sentence"), atol=0.02)


def test_a_category_of_weight_0_is_not_fitted(judged: list[JudgedQuestion]) -> None:
    symbols = [each for each in judged if each.category == "symbol"]
    half = [each if each.category == "symbol" else replace(each, covers=each.covers[::-1]) for each in judged]
    config = replace(CONFIG, category_weights={"semantic": 0.0})
    assert mean(symbols, fit_ranking(half, config)) >= mean(symbols, fit_ranking(half, CONFIG))
    assert fit_ranking(half, config).weights["name"]["qualified_name"] > 0


def test_questions_without_an_answer_among_the_candidates_are_left_out(
    judged: list[JudgedQuestion], fitted: RankingModel
) -> None:
    lost = replace(judged[0], covers=np.zeros_like(judged[0].covers))
    assert fit_ranking([*judged, lost], CONFIG) == fitted
    with pytest.raises(ValueError, match="no question has a target among its candidates; check paths and root"):
        fit_ranking([lost], CONFIG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": 0}, "l2 must be a finite number > 0, or weights could grow without bound, got 0"),
        ({"name_l2": float("nan")}, "name_l2 must be a finite number > 0"),
        ({"file_penalty": -1}, "file_penalty must be a finite number >= 0, got -1"),
        ({"file_penalty": float("inf")}, "file_penalty must be a finite number >= 0, got inf"),
        ({"category_weights": {"symbol": -1}}, "the weight of category 'symbol' must be a finite number >= 0, got -1"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RankingConfig(**options)


# --- cross-validation ------------------------------------------------------------------------------------------------


def test_the_model_that_ranks_a_question_has_not_seen_its_repository(judged: list[JudgedQuestion]) -> None:
    values = cross_validate(judged, CONFIG)
    for name in WORDS:
        model = fit_ranking([each for each in judged if each.repository != name], CONFIG)
        for each, value in zip(judged, values, strict=True):
            if each.repository == name:
                assert value == each.ndcg(model)


def test_extra_questions_are_in_the_fit_unless_they_are_about_the_same_repository(
    judged: list[JudgedQuestion],
) -> None:
    two = [each for each in judged if each.repository != "zoo"]
    zoo = [each for each in judged if each.repository == "zoo"]
    values = cross_validate(two, CONFIG, extra=zoo, folds=2)
    for name, other in (("shop", "bank"), ("bank", "shop")):
        model = fit_ranking([*(each for each in two if each.repository == other), *zoo], CONFIG)
        expected = [each.ndcg(model) for each in two if each.repository == name]
        assert [value for each, value in zip(two, values, strict=True) if each.repository == name] == expected
    assert cross_validate(two, CONFIG, extra=two) == cross_validate([*two], CONFIG, extra=[])


def test_cross_validation_needs_two_repositories(judged: list[JudgedQuestion]) -> None:
    shop = [each for each in judged if each.repository == "shop"]
    with pytest.raises(ValueError, match="needs questions about two repositories, got 1; leave it out, or give"):
        cross_validate(shop, CONFIG)


def test_means_by_category(judged: list[JudgedQuestion]) -> None:
    means = mean_by_category(judged[:3], [1.0, 0.5, 0.0])
    assert means == {"all": 0.5, "symbol": 0.75, "semantic": 0.0}


# --- from questions to a file ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def question_sets(checkouts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, QuestionSet]:
    """Sets of questions about one, two and three of the repositories."""
    folder = tmp_path_factory.mktemp("questions")
    for names in (["zoo"], ["shop", "bank"], ["shop", "bank", "zoo"]):
        write_questions(folder / "-".join(names), [questions_of(name) for name in names])
    return {each.name: QuestionSet(questions=each, repositories=checkouts) for each in folder.iterdir()}


@pytest.fixture
def train(embedding: CodeEmbedding) -> Callable[..., RankingRun]:
    return partial(train_ranking, config=CONFIG, embedding=embedding)


def test_a_run_saves_its_model_and_says_what_it_is_worth(
    embedding: CodeEmbedding,
    train: Callable[..., RankingRun],
    judged: list[JudgedQuestion],
    question_sets: dict[str, QuestionSet],
    tmp_path: Path,
) -> None:
    seen = []
    run = train(
        question_sets["shop-bank-zoo"],
        tmp_path / "new" / "ranking.json",
        from_default=False,
        on_progress=lambda *progress: seen.append(progress),
    )
    saved = RankingModel.load(tmp_path / "new" / "ranking.json")
    assert saved == run.model
    assert saved == replace(fit_ranking(judged, CONFIG), trained_on=saved.trained_on)
    assert saved.trained_on["embedding"] == embedding.fingerprint
    assert [each["repositories"].keys() for each in saved.trained_on["questions"]] == [WORDS.keys()]
    assert run.questions == len(judged) == 54
    assert run.before == mean_by_category(judged, [each.ndcg(default_model()) for each in judged])
    assert run.after == mean_by_category(judged, [each.ndcg(saved) for each in judged])
    assert run.cross_validated == mean_by_category(judged, cross_validate(judged, CONFIG))
    assert run.ablation is None
    assert ("repositories", 3, 3) in seen


def test_questions_of_a_file_are_about_the_named_folder(
    train: Callable[..., RankingRun], question_sets: dict[str, QuestionSet], checkouts: Path, tmp_path: Path
) -> None:
    folder = question_sets["zoo"].questions
    file = tmp_path / "my-questions.json"
    file.write_text((folder / "annotations" / "zoo.json").read_text())
    by_file = train(QuestionSet(questions=file, repositories=checkouts / "zoo"), tmp_path / "a.json")
    by_folder = train(question_sets["zoo"], tmp_path / "b.json")
    assert (by_file.before, by_file.after) == (by_folder.before, by_folder.after)


def test_a_run_from_the_default_keeps_what_its_questions_do_not_say(
    train: Callable[..., RankingRun],
    judged: list[JudgedQuestion],
    question_sets: dict[str, QuestionSet],
    tmp_path: Path,
) -> None:
    """With one repository there is no cross-validation; no question quotes or names a place."""
    run = train(question_sets["zoo"], tmp_path / "ranking.json")
    assert run.cross_validated is None
    assert run.after["all"] >= run.before["all"]
    for name in ("line", "quoted", "place"):
        assert run.model.weights["sentence"][name] == pytest.approx(default_model().weights["sentence"][name], abs=1e-3)
    from_scratch = train(question_sets["zoo"], tmp_path / "ranking.json", from_default=False)
    assert from_scratch.model.weights["sentence"]["line"] == 0


def test_further_questions_are_fitted_and_not_measured(
    train: Callable[..., RankingRun],
    judged: list[JudgedQuestion],
    question_sets: dict[str, QuestionSet],
    tmp_path: Path,
) -> None:
    run = train(question_sets["shop-bank"], tmp_path / "ranking.json", also=[question_sets["zoo"]], from_default=False)
    assert run.questions == 36
    assert run.model.weights == fit_ranking(judged, CONFIG).weights
    assert len(run.model.trained_on["questions"]) == 2


def test_an_ablation_is_measured_without_each_feature(
    train: Callable[..., RankingRun],
    judged: list[JudgedQuestion],
    question_sets: dict[str, QuestionSet],
    tmp_path: Path,
) -> None:
    run = train(question_sets["shop-bank"], tmp_path / "ranking.json", from_default=False, ablation=True)
    two = [each for each in judged if each.repository != "zoo"]
    assert run.ablation is not None
    assert list(run.ablation) == list(FEATURES)
    expected = cross_validate(two, CONFIG, without=("symbol_cover",))
    assert run.ablation["symbol_cover"] == mean_by_category(two, expected)


def test_indexes_are_kept_for_the_next_run(
    train: Callable[..., RankingRun], question_sets: dict[str, QuestionSet], tmp_path: Path
) -> None:
    def generation() -> int:
        storage = Storage(tmp_path / "indexes" / "zoo")
        with storage.reading() as reading:
            found = reading.generation
        storage.close()
        return found

    first = train(question_sets["zoo"], tmp_path / "a.json", indexes=tmp_path / "indexes")
    before = generation()
    assert train(question_sets["zoo"], tmp_path / "b.json", indexes=tmp_path / "indexes") == first
    assert generation() > before  # not that of a new index
    assert [each.name for each in (tmp_path / "indexes").iterdir()] == ["zoo"]


def test_what_is_missing_is_said_before_anything_is_indexed(
    train: Callable[..., RankingRun], checkouts: Path, question_sets: dict[str, QuestionSet], tmp_path: Path
) -> None:
    run = partial(train, out=tmp_path / "out" / "ranking.json", indexes=tmp_path / "indexes")
    elsewhere = replace(question_sets["zoo"], repositories=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"zoo is no folder, and there are questions about it; check it out"):
        run(question_sets["shop-bank"], also=[elsewhere])
    no_file = QuestionSet(questions=tmp_path / "none.json", repositories=checkouts)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        run(question_sets["shop-bank"], also=[no_file])
    with pytest.raises(ValueError, match="an ablation compares repositories with each other; give questions about two"):
        run(question_sets["zoo"], ablation=True)
    (tmp_path / "wrong.json").write_text('[{"query": "x", "relevant": []}]')
    with pytest.raises(ValueError, match="question 1: relevant must name at least one target"):
        run(QuestionSet(questions=tmp_path / "wrong.json", repositories=checkouts))
    assert [each.name for each in tmp_path.iterdir()] == ["wrong.json"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("embedded_model")
def test_the_command_writes_a_file_that_search_reads(
    shell: Shell, checkouts: Path, question_sets: dict[str, QuestionSet]
) -> None:
    questions = question_sets["shop-bank"].questions
    options = ["--l2", "0.01", "--file-penalty", "1.5", "--weight", "symbol=0.5", "--from-scratch"]
    command = ["train-ranking", questions, checkouts, *options, "--indexes", "indexes"]
    out = shell(*command, "--out", "own.json")
    assert "NDCG@10 of 36 questions" in out
    assert "cross-validated" in out
    saved = RankingModel.load("own.json")
    assert saved.file_penalty == 1.5
    assert saved.trained_on["config"] == {
        "l2": 0.01, "name_l2": 0.04, "file_penalty": 1.5, "category_weights": {"symbol": 0.5}
    }  # fmt: skip
    report = shell(*command, "--json")
    assert RankingModel.load("ranking.json") == saved
    assert report["file"] == "ranking.json"
    assert report["questions"] == 36
    assert report["model"]["weights"] == saved.weights
    assert set(report["after"]) == {"all", "symbol", "semantic"}
    assert report["after"]["all"] >= report["cross_validated"]["all"] - 0.05
    hits = shell("search", "CartStore.load", "--index", "indexes/shop", "--ranking", "own.json", "--json")
    assert (hits[0]["path"], hits[0]["scope"]) == ("src/cart_store.py", "CartStore.load")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none", "."], "none"),
        (["questions", "none"], "is no folder, and there are questions about it"),
        (["questions", ".", "--ablation"], "an ablation compares repositories"),
        (["questions", ".", "--l2", "0"], "l2 must be a finite number > 0"),
        (["questions", ".", "--file-penalty", "-1"], "file_penalty must be a finite number >= 0, got -1"),
        (["questions", ".", "--weight", "symbol"], "a weight is CATEGORY=NUMBER, as in commit=0.1, got 'symbol'"),
        (["questions", ".", "--weight", "symbol=x"], "a weight is CATEGORY=NUMBER"),
        (["questions", ".", "--weight", "symbol=-1"], "the weight of category 'symbol' must be a finite number >= 0"),
        (["questions", ".", "--also", "questions"], "expected 2 arguments"),
        (["questions", ".", "--also", "none", "."], "none"),
        (["questions"], "the following arguments are required: repositories"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str, shell: Shell) -> None:
    write_questions(Path("questions"), [questions_of("zoo")])
    Path("zoo").mkdir()
    shell.fails("train-ranking", *arguments, says=says)
    assert sorted(path.name for path in Path().iterdir()) == ["questions", "zoo"]
