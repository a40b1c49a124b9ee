"""Training questions for the ranking: from commits, names, paths and doc comments of a repository."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion, RepositoryQuestions, load_questions
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.ranking.question import Question
from llamaindex_code_retrieval.training.ranking_questions import LIMITS, make_questions, names_file, write_questions
from llamaindex_code_retrieval.training.repositories.stop_words import content_words
from llamaindex_code_retrieval.training.repositories.subjects import clean_subject, reject_commit

CART = '''class Cart:
    """Holds what a customer will buy. It lives in the session."""

    def total(self, tax):
        """Sums the prices of all items with their tax."""
        prices = [item.price for item in self.items]
        return sum(prices) * tax
'''
PAY = '''def pay_all(cart, account):
    """Say "the cart is empty" twice."""
    if not cart:
        raise ValueError("the cart is empty")
    return account.take(cart.total(), "in one go", f"for {cart}", "pay_all_of_it", 'Paid, in full.', "a\\n b c d e")


def check_account(account):
    return "in one go" in account, "wrong account"
'''
Commit = Callable[..., None]


@pytest.fixture
def commit(repository: Path) -> Commit:
    """Write files of the repository, or delete those without a text, and commit all."""

    def write_and_commit(subject: str, files: dict[str, str | None], author: str = "Ada <ada@example.org>") -> None:
        for name, text in files.items():
            file = repository / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink() if text is None else file.write_text(text)
        git(repository, "add", "-A")
        git(repository, "commit", "--quiet", "-m", subject, f"--author={author}")

    return write_and_commit


def git(root: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments], check=True
    )


def targets_of(questions: list[RepositoryQuestion]) -> dict[str, set[str]]:
    return {question.query: {target.path for target in question.relevant} for question in questions}


# --- commits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "query"),
    [
        ("fix(cart): sum prices with tax (#12)", "sum prices with tax"),
        ("src/cart.py: sum prices with tax.", "sum prices with tax"),
        ("[cart] :bug: Sum prices, closes #3 and #4", "Sum prices"),
        ("Fixes #12, #13: Close files after reading (thanks @ada)", "Close files after reading"),
        ("SHOP-123: Close files after reading", "Close files after reading"),
        ("UTF-8 names are decoded once", "UTF-8 names are decoded once"),
        ("Do not leak the last result, from Ada Lovelace.", "Do not leak the last result"),
        ("Cart::total: sum prices, org/shop#44", "sum prices"),
        ("Send receipts twice (see https://example.org/1)", "Send receipts twice"),
        ("Fix #12", ""),
    ],
)
def test_subjects_are_cleaned(subject: str, query: str) -> None:
    assert clean_subject(subject) == query


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("Sum prices with their tax", None),
        ("Fix compile time regexes in the lexer", None),
        ("Merge branch 'main' into cart", "subject of a merge, a revert or unfinished work"),
        ('Revert "Sum prices with tax"', "subject of a merge, a revert or unfinished work"),
        ("Release the cart 2.0", "subject of a release"),
        ("Bump lodash from 4.17.20 to 4.17.21", "subject of a release"),
        ("Update rack to 3.1.2", "subject about the build or dependencies"),
        ("Fix typo in the mail reader", "subject about style"),
        ("Run prettier over all mail files", "subject about style"),
        ("Add tests for the cart total", "subject about tests"),
        ("Update README of the cart", "subject about documentation"),
        ("chore(deps): use another mail reader", "not a change of behaviour, by its type"),
        ("Fix the cart", "subject is too vague"),
        ("Sum prices of the ca…", "subject is cut off"),
        ("Sum prices of carts " * 20, "subject over 200 characters"),
    ],
)
def test_subjects_that_do_not_tell_what_changed_are_rejected(subject: str, reason: str | None) -> None:
    assert reject_commit(subject, "Ada <ada@example.org>") == reason


def test_a_small_commit_asks_for_the_source_files_that_it_changed(repository: Path, commit: Commit) -> None:
    code: dict[str, str | None] = {
        f"src/{name}.py": f"def {name}_all():\n    return 1\n" for name in ("a", "b", "c", "d")
    }
    commit("Count all letters at once", code)
    commit("Sum prices with tax (#1)", {"src/cart.py": CART, "tests/test_cart.py": "x = 1\n", "NEWS": "tax"})
    commit("Send receipts with all prices", {"src/cart.py": CART + "\n", "src/mail.py": "def send():\n    pass\n"})
    commit("Sum prices in another order", {"src/cart.py": CART}, "renovate[bot] <x@example.org>")
    commit("Keep prices of gone items", {"src/gone.py": "def gone():\n    return 1\n", "src/mail.py": "y = 2\n"})
    commit("Drop prices of gone items", {"src/gone.py": None})
    commit("Say more about prices", {"NEWS": "prices", "tests/test_cart.py": "x = 2\n"})
    commit("Install the shop from wheels", {"setup.py": "y = 2\n"})
    questions = make_questions(repository, limits={"commit": 10})
    assert targets_of(questions) == {
        "Sum prices with tax": {"src/cart.py"},
        "Send receipts with all prices": {"src/cart.py", "src/mail.py"},
    }
    assert {question.category for question in questions} == {"commit"}


def test_a_renamed_file_is_found_by_its_present_path(repository: Path, commit: Commit) -> None:
    commit("Sum prices with tax", {"src/cart.py": CART})
    git(repository, "mv", "src/cart.py", "src/basket.py")
    git(repository, "commit", "--quiet", "-m", "Call the cart a basket everywhere")
    commit("Write a new kind of cart", {"src/cart.py": "class Cart:\n    def pay(self):\n        return 2\n"})
    assert targets_of(make_questions(repository, limits={"commit": 10})) == {
        "Sum prices with tax": {"src/basket.py"},
        "Call the cart a basket everywhere": {"src/basket.py"},
        "Write a new kind of cart": {"src/cart.py"},
    }


def test_paths_are_relative_to_the_root_and_targets_in_the_folder(repository: Path, commit: Commit) -> None:
    commit("Sum prices with tax", {"src/cart.py": CART})
    commit("Add a tax for books", {"Tax.java": "class Tax { int books() { return 7; } }\n"})
    commits = {"commit": 10}
    assert targets_of(make_questions(repository / "src", limits=commits)) == {"Sum prices with tax": {"cart.py"}}
    assert targets_of(make_questions(repository, folder="src", limits=commits)) == {
        "Sum prices with tax": {"src/cart.py"}
    }


def test_odd_characters_in_subjects_and_names(repository: Path, commit: Commit, tmp_path: Path) -> None:
    git(repository, "config", "i18n.commitEncoding", "unknown-8bit")
    commit("Sum prices in caf\udce9s", {"src/cart.py": CART})
    commit("Sum \x1e prices in shops", {"src/cart.py": CART + "\n"})
    commit("Sum \x1f prices of books", {"src/caf\udce9.py": CART, "src/a\\b.py": CART})
    commit("Sum prices again in\ttax's `total`", {"src/cart.py": CART, "src/größe.py": CART})
    questions = make_questions(repository)
    assert {question.query: len(question.relevant) for question in questions if question.category == "commit"} == {
        "Sum prices in caf?s": 1,
        "Sum prices in shops": 1,
        "Sum prices again in tax's `total`": 2,
    }
    write_questions(tmp_path / "out", [RepositoryQuestions(name="shop", questions=tuple(questions))])
    assert load_questions(tmp_path / "out")[0].questions == tuple(questions)


def test_few_commits_are_about_the_same_file(repository: Path, commit: Commit) -> None:
    for number in range(8):
        commit(f"Sum prices of {number} items", {"src/cart.py": CART + f"# {number}\n"})
    assert len(make_questions(repository, limits={"commit": 10})) == 5


# --- code ------------------------------------------------------------------------------------------------------------


def test_questions_for_symbols_have_the_definitions_as_targets(repository: Path) -> None:
    (repository / "src" / "cart.py").write_text(CART)
    (repository / "tests").mkdir()
    (repository / "tests" / "test_cart.py").write_text("class CartCase:\n    def run_cart(self):\n        pass\n")
    seen: dict[str, RepositoryQuestion] = {}
    for seed in range(30):
        questions = make_questions(repository, limits={"symbol": 10}, seed=seed)
        seen |= {question.query: question for question in questions}
    assert seen["Cart"].relevant == (Target("src/cart.py", 1, 7),)
    assert seen["Cart.total"].relevant == seen["Cart total"].relevant == (Target("src/cart.py", 4, 7),)
    assert seen["send_receipt"].relevant == seen["send receipt"].relevant
    assert {"Cart class", "where is Cart.total defined", "send_receipt()"} <= seen.keys()
    assert "total" not in seen, "one word is not specific enough"
    assert {target.path for question in seen.values() for target in question.relevant} == {
        "src/cart.py", "src/mail.py", "Tax.java"
    }  # fmt: skip


def test_a_name_of_many_files_is_left_out(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.py").write_text(f"class Often:\n    pass\n\n\nclass Twice{number % 2}:\n    pass\n")
    names = {}
    for seed in range(20):
        names |= targets_of(make_questions(tmp_path, limits={"symbol": 10}, seed=seed))
    assert names["Twice0"] == {"0.py", "2.py"}
    assert not any("ften" in name for name in names)


def test_a_file_with_several_definitions_of_a_name_is_a_target_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a.rs").write_text("struct Cart {\n    x: u8,\n}\n\nimpl Cart {\n    fn x(&self) {}\n}\n")
    (question,) = make_questions(tmp_path, limits={"symbol": 1})
    assert question.relevant == (Target("a.rs"),)


def test_questions_for_paths(tmp_path: Path) -> None:
    for name in ("shop/mail_reader.py", "shop/cart.py", "bank/cart.py", "bank/docs/conf.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    seen: dict[str, set[str]] = {}
    for seed in range(30):
        seen |= targets_of(make_questions(tmp_path, limits={"path": 9}, seed=seed))
    assert seen == {
        "mail_reader.py": {"shop/mail_reader.py"},
        "shop/mail_reader.py": {"shop/mail_reader.py"},
        "mail reader": {"shop/mail_reader.py"},
        "cart.py": {"shop/cart.py", "bank/cart.py"},
        "shop/cart.py": {"shop/cart.py"},
        "bank/cart.py": {"bank/cart.py"},
    }


def test_doc_questions_are_the_first_sentence_or_some_of_its_words(tmp_path: Path) -> None:
    (tmp_path / "cart.py").write_text(CART)
    (tmp_path / "a.go").write_text("package a\n\n// Open is the reader of whole files.\nfunc Open() {\n\tread()\n}\n")
    sentences = {
        ("cart.py", 1): "Holds what a customer will buy",
        ("cart.py", 4): "Sums the prices of all items with their tax",
        ("a.go", 3): "the reader of whole files",
    }
    queries = set()
    for seed in range(20):
        for question in make_questions(tmp_path, limits={"doc": 9}, seed=seed):
            (target,) = question.relevant
            sentence = sentences[target.path, target.start_line or 0]
            queries.add(question.query)
            if question.query != sentence:
                words = content_words(sentence)
                kept = question.query.split()
                assert [word for word in words if word in kept] == kept
                assert len(kept) == max(3, round(0.7 * len(words)))
    assert set(sentences.values()) < queries


def test_questions_that_name_a_line_have_its_function_as_target(tmp_path: Path) -> None:
    """By the file name alone only if no other file has it; classes hold lines of all their methods."""
    for name in ("shop/cart.py", "bank/cart.py", "shop/pay.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(PAY if name == "shop/pay.py" else CART)
    spans = {"shop/cart.py": [(4, 7)], "bank/cart.py": [(4, 7)], "shop/pay.py": [(1, 5), (8, 9)]}
    shapes, paths = set(), set()
    for seed in range(40):
        for question in make_questions(tmp_path, limits={"place": 9}, seed=seed):
            (target,) = question.relevant
            assert target.start_line is not None
            assert target.end_line is not None
            assert (target.start_line, target.end_line) in spans[target.path]
            read = Question.of(question.query)
            place = read.places[0]
            assert place.line is not None
            assert target.start_line <= place.line <= target.end_line
            path = place.path.removeprefix("/srv/app/")
            assert path in (target.path, "pay.py")
            shapes.add(read.shape)
            paths.add(path)
    assert shapes == {"path", "sentence", "trace"}
    assert paths == {*spans, "pay.py"}


def test_questions_that_quote_a_message_have_its_function_as_target(tmp_path: Path) -> None:
    """Messages of one function, outside of doc comments, of several words without placeholders and escapes."""
    (tmp_path / "pay.py").write_text(PAY)
    seen: dict[str, RepositoryQuestion] = {}
    for seed in range(40):
        for question in make_questions(tmp_path, limits={"quote": 9}, seed=seed):
            assert question.category == "quote"
            (quoted,) = Question.of(question.query).quoted
            seen[quoted] = question
    assert {text: question.relevant for text, question in seen.items()} == {
        "the cart is empty": (Target("pay.py", 1, 5),),
        "Paid, in full.": (Target("pay.py", 1, 5),),
        "wrong account": (Target("pay.py", 8, 9),),
    }


# --- all sources -----------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_questions_within_the_limits() -> None:
    root = Path(__file__).parents[1] / "training"
    limits = {"symbol": 6, "path": 4, "doc": 5}
    questions = make_questions(root, limits=limits, seed=1)
    assert questions == make_questions(root, limits=limits, seed=1)
    assert questions != make_questions(root, limits=limits, seed=2)
    counts = {source: sum(question.category == source for question in questions) for source in LIMITS}
    assert counts == dict.fromkeys(LIMITS, 0) | limits
    assert len({question.query for question in questions}) == len(questions)


def test_written_questions_can_be_loaded(repository: Path, commit: Commit, tmp_path: Path) -> None:
    commit("Sum prices with tax", {"src/cart.py": CART, "src/pay.py": PAY})
    questions = tuple(make_questions(repository))
    assert {question.category for question in questions} == set(LIMITS)
    shop = RepositoryQuestions(name="shop", questions=questions, language="python", root="src", revision="abc")
    write_questions(tmp_path / "out", [shop])
    assert load_questions(tmp_path / "out") == [shop]


def test_a_question_names_its_file() -> None:
    targets = (Target("src/mail_sender.py"), Target("src/cart.py"))
    named = {
        query: names_file(RepositoryQuestion(query=query, relevant=targets))
        for query in ("Fix cart.py", "Fix the cart", "Sort mail_sender's mails", "Fix carts", "Fix the mail sender")
    }
    assert named == {
        "Fix cart.py": True,
        "Fix the cart": True,
        "Sort mail_sender's mails": True,
        "Fix carts": False,
        "Fix the mail sender": False,
    }


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'names' is not a source of questions; the sources are commit, symbol"):
        make_questions(tmp_path, limits={"names": 1})
    with pytest.raises(ValueError, match="the limit of doc must be at least 1, got 0; leave the source out for none"):
        make_questions(tmp_path, limits={"doc": 0})
    with pytest.raises(ValueError, match=r"the history of .* cannot be read \(.*\); name a git repository"):
        make_questions(tmp_path, limits={"commit": 1})
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        make_questions(tmp_path, folder="none")


def test_repositories_without_questions_or_of_the_same_name_are_not_written(tmp_path: Path) -> None:
    empty = RepositoryQuestions(name="shop", questions=())
    with pytest.raises(ValueError, match="shop has no questions; leave the repository out"):
        write_questions(tmp_path, [empty])
    with pytest.raises(ValueError, match="two repositories are named 'shop'; rename one of them"):
        write_questions(tmp_path, [empty, empty])
