"""Pairs of the history, documents, names and tests of repositories, and what must stay out of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.training.mining import MINERS, mine, read_held_out
from llamaindex_code_retrieval.training.mining.selection import HeldOut
from llamaindex_code_retrieval.training.pairs import Pair, read_pairs, write_pairs

CART = '''"""A shop."""


class Cart:
    """Holds what a customer will buy."""

    def __init__(self):
        self.items = []

    def total_price(self, tax):
        """Sums the prices of all items with their tax."""
        prices = [price for _, price in self.items]
        return sum(prices) * tax

    def remove(self, item):
        kept = [other for other in self.items if other != item]
        self.items = kept
        return len(kept)
'''
MAIL = """import smtplib


def send_receipt(address, text):
    server = smtplib.SMTP("localhost")
    server.sendmail("shop", address, text)
    return server


def parse_address(text):
    name, _, host = text.partition("@")
    checked = host.strip()
    return name, checked
"""


def git(root: Path, *arguments: str) -> None:
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def commit(root: Path, message: str, files: dict[str, str], author: str = "Ada <ada@example.org>") -> None:
    write(root, files)
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "--allow-empty-message", "-m", message, f"--author={author}")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository of one commit, with a remote."""
    root = tmp_path / "shop"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "remote", "add", "origin", "https://example.org/ada/shop.git")
    commit(root, "Initial commit", {"src/cart.py": CART, "src/mail.py": MAIL})
    return root


def queries(pairs: list[Pair]) -> dict[str, str]:
    """Return the first line of the code of each query."""
    return {pair.query: pair.code.split("\n")[0] for pair in pairs}


# --- history ---------------------------------------------------------------------------------------------------------


def test_a_commit_asks_for_the_functions_that_it_changed_as_it_left_them(shop: Path) -> None:
    rounded = CART.replace("return sum(prices) * tax", "return round(sum(prices) * tax, 2)")
    message = (
        "fix(cart): round the total of all items (#12)\n\nPrices had more than two decimals, see #11.\n\n"
        "Signed-off-by: Ada <ada@example.org>\n"
    )
    commit(shop, message, {"src/cart.py": rounded, "tests/test_cart.py": "def test_it():\n    pass\n"})
    later = rounded.replace("round(", "_round(").replace("prices = [", "everything = [")
    commit(shop, "Refactor", {"src/cart.py": later.replace("sum(prices)", "sum(everything)")})  # says nothing
    [pair] = mine([shop], kinds=["commit"]).pairs
    assert pair.query == "round the total of all items. Prices had more than two decimals"
    assert pair.code == (
        "def total_price(self, tax):\n    prices = [price for _, price in self.items]\n"
        "    return round(sum(prices) * tax, 2)"
    )
    assert (pair.kind, pair.language, pair.repository, pair.path) == ("commit", "python", "ada/shop", "src/cart.py")


def test_commits_that_do_not_tell_what_changed_are_left_out_and_counted(shop: Path) -> None:
    many = {f"src/part{n}.py": MAIL.replace("send_receipt", f"send_receipt_{n}") for n in range(3)}
    commit(shop, "Send the receipts of all parts at once", many)
    commit(shop, "Strip the host of an address", {"src/mail.py": MAIL.replace("    ", "  ")})  # white space only
    commit(shop, "Explain the price of all items", {"src/cart.py": CART.replace("Sums the", "Adds up the")})
    commit(
        shop, "Send receipts through the other host", {"src/mail.py": MAIL.replace("local", "mail")}, "a-bot <b@c.d>"
    )
    commit(shop, "", {"src/mail.py": MAIL.replace("local", "remote")})
    git(shop, "revert", "--no-edit", "HEAD")
    report = mine([shop], kinds=["commit"])
    assert report.pairs == []
    assert report.commits == 7
    assert report.dropped == {
        "commit changes many files": 1,
        "commit changes no function": 2,
        "author is a bot": 1,
        "commit without a message": 1,
        "subject of a merge, a revert or unfinished work": 2,  # the first commit is one of them
    }


def test_a_commit_that_changes_many_functions_describes_none(shop: Path) -> None:
    functions = [f"def step_{n}(x):\n    y = x + {n}\n    return y * {n}\n" for n in range(4)]
    commit(shop, "Add the steps of a payment", {"src/steps.py": "\n\n".join(functions[:3])})
    assert len(mine([shop], kinds=["commit"]).pairs) == 3
    commit(shop, "Subtract in all steps of a payment", {"src/steps.py": "\n\n".join(functions).replace("+", "-")})
    report = mine([shop], kinds=["commit"])
    assert len(report.pairs) == 3
    assert report.dropped["commit changes many functions"] == 1


def test_a_missing_history_is_an_error_before_the_work(shop: Path, tmp_path: Path) -> None:
    commit(shop, "Second commit", {"a.txt": "a"})
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{shop}", str(shallow)], check=True)
    with pytest.raises(ValueError, match=r"shallow is a shallow clone.*git fetch --unshallow"):
        mine([shop, shallow], kinds=["commit"])
    write(tmp_path / "plain", {"cart.py": CART})
    with pytest.raises(ValueError, match=r"the history of .*plain cannot be read"):
        mine([tmp_path / "plain"], kinds=["commit"])
    assert mine([shallow], kinds=["doc"]).pairs


# --- tests, names and documents --------------------------------------------------------------------------------------


def test_a_test_asks_for_the_function_that_it_calls_and_is_named_after(shop: Path) -> None:
    tests = """
def test_parse_address_strips_the_host():
    assert parse_address("ada@ example.org ") == ("ada", "example.org")


def test_total_price_of_nothing():
    "The price of an empty cart is zero."
    assert Cart().total_price(2) == 0


def test_everything_is_sent_in_the_right_order():
    assert send_receipt("a@b", "x") and parse_address("a@b")


def test_parse_missing_address_fails():
    assert pytest.raises(ValueError)
"""
    script = 'it("keeps what is not removed", () => {\n  expect(new Cart().remove("a")).toBe(1);\n});\n'
    write(shop, {"tests/test_mail.py": tests, "tests/remove.test.js": script})
    report = mine([shop], kinds=["test"])
    assert queries(report.pairs) == {
        "parse address strips the host": "def parse_address(text):",
        "The price of an empty cart is zero.": "def total_price(self, tax):",
        "remove keeps what is not removed": "def remove(self, item):",
    }
    assert {pair.path for pair in report.pairs} == {"src/mail.py", "src/cart.py"}  # of the code, not of the test
    write(shop, {"src/other.py": MAIL})  # now all names of mail.py are ambiguous
    assert "parse address strips the host" not in queries(mine([shop], kinds=["test"]).pairs)


def test_names_and_paths_ask_for_the_only_definition_that_they_mean(shop: Path) -> None:
    report = mine([shop], kinds=["symbol", "path"])
    of_kind = {kind: [pair for pair in report.pairs if pair.kind == kind] for kind in ("symbol", "path")}
    symbols = {
        "class Cart:": "Cart",
        "def remove(self, item):": "remove",
        "def send_receipt(address, text):": "receipt",
    }
    for query, code in queries(of_kind["symbol"]).items():
        assert symbols.get(code, "").lower() in query.lower()
    assert of_kind["symbol"]
    [path] = of_kind["path"]  # no function of mail.py has the name of the file
    assert path.query in ("cart.py", "src/cart.py")
    assert path.code.startswith("class Cart:\n")
    assert mine([shop], kinds=["symbol", "path"]).pairs == report.pairs


def test_a_section_asks_for_the_definition_that_it_describes(shop: Path) -> None:
    readme = """# Shop

Everything that a small shop needs.

## Sending receipts

Customers get a mail with all that they bought from `send_receipt`.

## `Cart.total_price()`

The price includes the tax, other than in `remove`.

## Both of them

First `remove` is called, and then `send_receipt` as well.

## Usage

- `remove` some of the items
"""
    manual = "Addresses\n=========\n\nAn address is split into its parts by :func:`shop.mail.parse_address` at once.\n"
    write(shop, {"README.md": readme, "docs/mail.rst": manual})
    report = mine([shop], kinds=["section"])
    assert queries(report.pairs) == {
        "Sending receipts: Customers get a mail with all that they bought from send_receipt.": (
            "def send_receipt(address, text):"
        ),
        "The price includes the tax, other than in remove.": "def total_price(self, tax):",
        "An address is split into its parts by shop.mail.parse_address at once.": "def parse_address(text):",
    }
    assert report.dropped == {"section about no definition, or about several": 2, "no description": 1}


def test_unknown_kinds_are_refused(shop: Path) -> None:
    with pytest.raises(
        ValueError, match=f"'docs' is not a kind of pairs that is mined; the kinds are {', '.join(MINERS)}"
    ):
        mine([shop], kinds=["docs"])
    with pytest.raises(ValueError, match="kinds is empty"):
        mine([shop], kinds=[])


# --- what evaluations use --------------------------------------------------------------------------------------------


def test_held_out_repositories_and_their_copies_are_skipped(shop: Path, tmp_path: Path) -> None:
    write(shop, {"lib/bob/pay/pay.py": CART.replace("Cart", "Pay"), "lib/pay/pay.py": CART.replace("Cart", "Purse")})
    write(tmp_path / "till", {"till.py": CART.replace("Sums", "Finds")})
    report = mine([shop, tmp_path / "till"], held_out=["Bob/Pay", "eve/till"])
    assert [pair.repository for pair in report.pairs] == ["ada/shop"]
    assert report.skipped["copy of a held-out repository"] == 1
    assert report.skipped["repository held out"] == 1
    assert mine([shop], held_out=["ada/shop"]).pairs == []
    assert HeldOut(()).has_repository("ada/shop") is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ada/shop\nshop\n", "line 2 is 'shop'; write owner/name"),
        ("https://example.org/ada/shop\n", "line 1 is"),
        ("# nothing\n\n", "names no repository"),
    ],
)
def test_a_wrong_list_of_held_out_repositories_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "held_out.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=says):
        read_held_out(file)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_held_out(tmp_path / "missing.txt")


def test_near_duplicates_and_queries_of_benchmarks_are_left_out(shop: Path, tmp_path: Path) -> None:
    [pair] = mine([shop]).pairs
    write_pairs(tmp_path / "same_code.jsonl", [Pair(query="another", code=pair.code.replace("\n", "\n\n"))])
    report = mine([shop], benchmarks=[str(tmp_path / "same_code.jsonl")])
    assert (report.pairs, report.dropped["near-duplicate of a benchmark"]) == ([], 1)
    write_pairs(tmp_path / "same_query.jsonl", [Pair(query=pair.query.upper(), code="another")])
    report = mine([shop], benchmarks=[str(tmp_path / "same_query.jsonl")])
    assert (report.pairs, report.dropped["query of a benchmark"]) == ([], 1)
    data_set = tmp_path / "set"
    write(
        data_set,
        {
            "corpus.jsonl": json.dumps({"_id": "c", "text": pair.code}) + "\n",
            "queries.jsonl": json.dumps({"_id": "q", "text": "another"}) + "\n",
            "qrels/dev.tsv": "query-id\tcorpus-id\tscore\nq\tc\t1\n",
        },
    )
    assert mine([shop], benchmarks=[f"{data_set}:dev"]).dropped["near-duplicate of a benchmark"] == 1
    write(tmp_path / "package", {"a.py": CART})
    assert mine([shop], benchmarks=[str(tmp_path / "package")]).dropped["near-duplicate of a benchmark"] == 1


def test_mined_files_are_joined_by_the_same_rules(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(shop, "Send receipts through the other host", {"src/mail.py": MAIL.replace("local", "mail")})
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("eve/shop\n")
    out = tmp_path / "all.jsonl"
    mined = str(tmp_path / "mined.jsonl.gz")
    everything = ["--history", "--sections", "--names", "--tests", "--exclude-repositories", str(held_out), "--json"]
    assert main(["mine", str(shop), "--out", mined, *everything]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"]["commit"], report["kind"]["doc"], report["commits"]) == (1, 1, 2)
    assert main(["mine", mined, mined, "--out", str(out), "--json"]) == 0
    assert read_pairs(out) == read_pairs(mined)
    assert json.loads(capsys.readouterr().out)["dropped"] == {"same code as another": report["pairs"]}
    held_out.write_text("ada/shop\n")
    assert main(["mine", mined, "--out", str(out), "--exclude-repositories", str(held_out)]) == 2
    assert "repository held out" in capsys.readouterr().err
    assert main(["mine", mined, "--out", str(out), "--permissive-only"]) == 2
    assert "licence not permissive" in capsys.readouterr().err
    assert main(["mine", str(tmp_path / "no.jsonl"), "--out", str(out)]) == 2
    assert "no.jsonl is not a file" in capsys.readouterr().err


def test_a_git_url_is_cloned_with_its_history_if_that_is_mined(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(shop, "Send receipts through the other host", {"src/mail.py": MAIL.replace("local", "mail")})
    assert main(["mine", f"file://{shop}", "--history", "--out", str(tmp_path / "p.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["commits"] == 2
