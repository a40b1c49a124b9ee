"""What is related to a place: similar code, the same scope, callers and what is called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest
from conftest import Shell
from indexes import HashEmbedding
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, FaissStore
from llamaindex_code_retrieval.index import related
from llamaindex_code_retrieval.index.related import find_used, names_of

SHOP = {
    "shop/cart.py": (
        "class Cart:\n    def __init__(self):\n        self.items = []\n\n"
        "    def total(self):\n        return sum_prices(self.items)\n\n"
        "    def checkout(self, address):\n        send_receipt(address, self.total())\n"
    ),
    "shop/mail.py": (
        "import smtplib\n\n\ndef send_receipt(address, price):\n    smtplib.send(address, price)\n\n\n"
        "def send_reminder(address):\n    # a receipt of nothing\n    send_receipt(address, 0)\n\n\n"
        "def resend_receipt(address):\n    send_receipts_again(address)\n"
    ),
    "shop/prices.py": "def sum_prices(items):\n    return sum(price for _, price in items)\n",
    "docs/receipts.md": "# Receipts\n\nAt the end `send_receipt` is called.\n",
    "docs/prices.md": "# Prices\n\nThe total is that of all items.\n",
}


@pytest.fixture
def shop() -> Iterator[CodeIndex]:
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(SHOP)
        yield index


def reasons(index: CodeIndex, place: str, *, top_k: int = 50) -> dict[str, set[str]]:
    """Return why each scope is related, beside "similar": of few nodes, all are."""
    return {
        hit.node.metadata["scope"]: why
        for hit in index.related(place, top_k=top_k)
        if (why := set(hit.node.metadata["related"].split(", ")) - {"similar"})
    }


def test_callers_of_a_function(shop: CodeIndex) -> None:
    """The name must be a whole identifier; code of the same file is in the same scope."""
    assert reasons(shop, "shop/mail.py:4") == {
        "send_reminder": {"same scope", "calls it"},
        "resend_receipt": {"same scope"},
        "Cart.checkout": {"calls it"},
        "Receipts": {"mentions it"},
    }


def test_what_a_method_calls(shop: CodeIndex) -> None:
    assert reasons(shop, "shop/cart.py:8") == {
        "Cart": {"same scope"},
        "Cart.__init__": {"same scope"},
        "Cart.total": {"same scope", "called by it"},
        "send_receipt": {"called by it"},
    }


def test_definitions_that_a_node_uses_the_called_first(shop: CodeIndex) -> None:
    with shop.view() as view:
        rows = [row for row in view.reading.rows_of_file("shop/cart.py") if row.metadata["symbol"] == "checkout"]
        used = [view.rows([number])[number].metadata["scope"] for number in find_used(view, rows)]
    assert used == ["Cart.total", "send_receipt"]


def test_a_class_and_its_methods(shop: CodeIndex) -> None:
    methods = ("Cart.__init__", "Cart.total", "Cart.checkout")
    assert reasons(shop, "shop/cart.py:1") == {scope: {"same scope"} for scope in methods}


def test_a_file_and_what_calls_it_from_elsewhere(shop: CodeIndex) -> None:
    assert reasons(shop, "shop/mail.py") == {"Cart.checkout": {"calls it"}, "Receipts": {"mentions it"}}


def test_a_document_mentions_code(shop: CodeIndex) -> None:
    """An ordinary word is no name there, unless a parenthesis follows."""
    assert reasons(shop, "docs/receipts.md") == {"send_receipt": {"mentioned in it"}}
    assert reasons(shop, "docs/prices.md") == {}
    assert "Prices" not in reasons(shop, "shop/cart.py:5")
    shop.update_texts({**SHOP, "docs/prices.md": "# Prices\n\nThe result of total() is that of all items.\n"})
    assert reasons(shop, "docs/prices.md") == {"Cart.total": {"mentioned in it"}}
    assert reasons(shop, "shop/cart.py:5")["Prices"] == {"mentions it"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("total(1)", "calls it"),
        ("x = cart.total (1)", "uses it"),
        ("x: list[total] = []", "uses it"),
        ("total<int>(1)", "calls it"),
        ("total::<u8>(1)", "calls it"),
        ("total!(1)", "calls it"),
        ("def total(x):\n    return total(x)", "calls it"),
        ("def total(x):\n    return total", "uses it"),
        ("def total(x):\n    return x + 1", None),  # a definition is no use
        ("subtotal(1) + total_2(1) + Total(1)", None),
    ],
)
def test_a_call_is_a_name_before_a_parenthesis(text: str, why: str | None) -> None:
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts({"a.py": "def total(x):\n    return x\n", "b.py": text + "\n"})
        [hit] = index.related("a.py")
        assert hit.node.metadata["related"] == ("similar" if why is None else f"similar, {why}")


def test_an_uncommon_name_ranks_before_what_is_similar(shop: CodeIndex) -> None:
    """By hand: ``send_receipt`` is in four nodes and is defined once, so that each use counts 1 / (1 + ln 4)."""
    factor = 0.4191
    cosines = {hit.node_id: 1 / (5 + rank) for rank, hit in enumerate(nearest(shop, "send_receipt"), start=1)}
    scores = {hit.node.metadata["scope"]: (hit.score, cosines[hit.node_id]) for hit in shop.related("shop/mail.py:4")}
    for scope, others in (
        ("send_reminder", 2 * factor / 6 + 0.5 / 6),  # first of its callers, and the next in the file
        ("Cart.checkout", 2 * factor / 7),
        ("Receipts", 2 * factor / 8),  # code comes first
        ("resend_receipt", 0.5 / 7),
        ("sum_prices", 0.0),
    ):
        score, similar = scores[scope]
        assert score == pytest.approx((similar + others) / (5.5 / 6), abs=1e-4), scope


def nearest(index: CodeIndex, scope: str) -> list[NodeWithScore]:
    """Return the other nodes by the cosine of their vectors to that of a scope."""
    [own] = [node for node in index.nodes() if node.metadata["scope"] == scope]
    others = [node for node in index.nodes() if node.node_id != own.node_id]
    cosines = index.vectors([node.node_id for node in others]) @ index.vectors([own.node_id])[0]
    hits = [NodeWithScore(node=node, score=float(cosine)) for node, cosine in zip(others, cosines, strict=True)]
    return sorted(hits, key=lambda hit: -hit.get_score())


def test_names_that_many_nodes_use_do_not_flood(shop: CodeIndex) -> None:
    """Sixty functions call ``get``: what only calls it ranks behind the ten most similar. Two call ``fetch``."""
    users = {f"u{i}.py": f"def user_{i}(store):\n    return store.get({i})\n" for i in range(60)}
    few = {f"f{i}.py": f"def fetcher_{i}(store):\n    return store.fetch({i})\n" for i in range(2)}
    own = {"own.py": "def get(key):\n    return key\n", "own2.py": "def fetch(key):\n    return key\n"}
    shop.update_texts({**SHOP, **users, **few, **own})
    assert sum("calls it" in why for why in reasons(shop, "own.py", top_k=1000).values()) == 60
    hits = shop.related("own.py", top_k=60)
    similar = {hit.node_id for hit in nearest(shop, "get")[:10]}
    only_called = [rank for rank, hit in enumerate(hits) if hit.node.metadata["related"] == "calls it"]
    assert min(only_called) > max(rank for rank, hit in enumerate(hits) if hit.node_id in similar)
    assert {hit.node.metadata["scope"] for hit in shop.related("own2.py", top_k=4)} >= {"fetcher_0", "fetcher_1"}


def test_a_name_with_many_definitions_means_those_of_its_own_file(shop: CodeIndex) -> None:
    classes = {
        f"c{i}.py": f"class C{i}:\n    def run(self):\n        pass\n\n    def start_{i}(self):\n        self.run()\n"
        for i in range(11)
    }
    shop.update_texts({**SHOP, **classes})
    assert reasons(shop, "c3.py:2") == {"C3": {"same scope"}, "C3.start_3": {"same scope", "calls it"}}
    shop.update_texts({**SHOP, **{path: classes[path] for path in list(classes)[:10]}})
    assert reasons(shop, "c3.py:2")["C7.start_7"] == {"calls it"}


def laws_hold(index: CodeIndex) -> None:
    """Check the laws for every node of an index as the place."""
    nodes = {node.node_id: node.metadata for node in index.nodes()}
    texts = {node.node_id: node.get_content() for node in index.nodes()}
    users: dict[str, set[tuple[str, str]]] = {"calls it": set(), "called by it": set()}
    for node_id, own in nodes.items():
        hits = index.related(f"{own['path']}:{own['start_line']}-{own['end_line']}", top_k=1000)
        at_place = [
            other
            for other, each in nodes.items()
            if each["path"] == own["path"]
            and each["start_line"] <= own["end_line"]
            and own["start_line"] <= each["end_line"]
        ]
        assert node_id in at_place
        assert not {hit.node_id for hit in hits} & set(at_place)
        assert [(-hit.get_score(), hit.node_id) for hit in hits] == sorted(
            (-hit.get_score(), hit.node_id) for hit in hits
        )
        assert all(0 < hit.get_score() <= 1 for hit in hits)
        assert hits[:3] == index.related(f"{own['path']}:{own['start_line']}-{own['end_line']}", top_k=3)
        for hit in hits:
            why = hit.node.metadata["related"].split(", ")
            assert why == sorted(set(why), key=get_args(related.Reason).index)
            for user, used in ((hit.node_id, node_id), (node_id, hit.node_id)):
                reason = "calls it" if user == hit.node_id else "called by it"
                if reason in why:
                    assert any(re.search(rf"\b{name}\b", texts[user]) for name in names_of(nodes[used]["symbol"]))
                    users[reason].add((user, used))
    assert users["calls it"] == users["called by it"] != set()


def test_laws(shop: CodeIndex) -> None:
    """Nothing is related to itself, callers have the name in their texts, and who is called has a caller."""
    laws_hold(shop)


def test_code_uses_what_its_language_can_use() -> None:
    texts = {
        "a.py": "def convert(x):\n    return x\n",
        "b.go": "package b\n\nfunc run() {\n\tconvert(1)\n}\n",
        "c.py": "convert(1)\n",
        "d.ts": "export function render() { return 1 }\n",
        "e.js": "render();\n",
        "f.md": "Call `convert(1)` and `render()`.\n",
        "g.proto": 'syntax = "proto3";\n\nmessage Point {\n  int32 x = 1;\n}\n',
        "h.go": "package h\n\nfunc scale(p *Point) {}\n",
    }

    def users(index: CodeIndex, place: str) -> set[str]:
        hits = index.related(place)
        return {hit.node.metadata["path"] for hit in hits if hit.node.metadata["related"] != "similar"}

    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(texts)
        assert users(index, "a.py") == {"c.py", "f.md"}
        assert users(index, "d.ts") == {"e.js", "f.md"}
        assert "h.go" in users(index, "g.proto:3")
        assert "a.py" not in users(index, "b.go:3")
        assert "a.py" in users(index, "c.py")


def test_parts_of_one_definition_are_one_hit_and_none_of_its_own() -> None:
    body = "".join(f"    total = total + value_{i}\n" for i in range(150))
    texts = {
        "long.py": f"def long_sum(total):\n{body}    return rounded(total)\n",
        "other.py": f"def other_sum(total):\n{body}    return rounded(total) + long_sum(0)\n",
        "round.py": "def rounded(number):\n    return number // 1\n",
    }
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(texts)
        assert [hit.node.metadata["scope"] for hit in index.related("long.py:1")] == ["other_sum", "rounded"]
        [other, _] = index.related("long.py:80")
        assert other.node.metadata["related"] == "similar, calls it"
        assert "long_sum" in other.node.get_content()  # the part that calls it
        assert other.node.metadata["also_lines"].startswith("1-")
        shown = other.node.get_content(MetadataMode.LLM) + other.node.get_content(MetadataMode.EMBED)
        assert "similar" not in shown


METHOD = "package shop\n\nfunc (c *Cart) {0}() int {{\n\treturn 1\n}}\n"


@pytest.mark.parametrize("folder", ["", "shop/", "shop/50%_/", "shop\udcff/"])
def test_the_folder_of_a_file_is_neither_above_nor_below_it(folder: str) -> None:
    texts = {f"{folder}cart.go": METHOD.format("Total"), f"{folder}tax.go": METHOD.format("Tax")}
    others = {f"{folder}deep/cart.go": METHOD.format("Deep"), "other/cart.go": METHOD.format("Weight")}
    if folder:
        others |= {"cart.go": METHOD.format("Above"), f"{folder[:-1]}.go": METHOD.format("Beside")}
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(texts | others)
        assert reasons(index, f"{folder}cart.go:3") == {"Cart.Tax": {"same scope"}}


def test_the_folder_of_a_file_costs_the_same_among_more_files() -> None:
    def steps(index: CodeIndex) -> int:
        """Return how many steps of SQLite's machine the nodes of the same scope take."""
        taken: list[int] = []
        with index.view() as view:
            rows = view.reading.rows_of_file("shop/cart.go")
            own = view.reading.names(related._numbered(row.number for row in rows))
            view.reading._connection.set_progress_handler(lambda: taken.append(1), 1)
            assert related._same_scope(view, own)
            view.reading._connection.set_progress_handler(None, 1)
        return len(taken)

    texts = {"shop/cart.go": METHOD.format("Total"), "shop/tax.go": METHOD.format("Tax"), "z.go": "package z\n"}
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(texts)
        few = steps(index)
        index.update_texts(texts | {f"other/{number}.go": METHOD.format("Weight") for number in range(50)})
        assert steps(index) == few


def test_methods_of_a_class_in_other_files_of_the_folder() -> None:
    texts = {
        "shop/cart.go": "package shop\n\ntype Cart struct {\n\titems []int\n}\n\nfunc free() int {\n\treturn 2\n}\n",
        "shop/total.go": METHOD.format("Total"),
        "shop/tax.go": METHOD.format("Tax"),
        "other/cart.go": METHOD.format("Weight"),
    }
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(texts)
        assert reasons(index, "shop/tax.go:3") == {
            "Cart": {"same scope", "used by it"},
            "Cart.Total": {"same scope"},
        }
        assert reasons(index, "shop/cart.go:3") == {
            "Cart.Total": {"same scope", "uses it"},
            "Cart.Tax": {"same scope", "uses it"},
            "Cart.Weight": {"uses it"},
            "free": {"same scope"},
        }
        assert reasons(index, "shop/cart.go:7").keys() == {"Cart"}


def test_texts_without_symbols() -> None:
    """The parts of a text are parts of one definition."""
    paragraphs = "\n\n".join(f"This is paragraph {i}.\n" * 30 for i in range(5))
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts({"notes.txt": paragraphs, "other.txt": "Something else.\n"})
        assert len(index) > 3
        assert [hit.metadata["path"] for hit in index.related("notes.txt:1")] == ["other.txt"]
        [notes] = index.related("other.txt")
        assert (notes.metadata["path"], notes.metadata["related"]) == ("notes.txt", "similar")


def test_nodes_that_another_parser_made() -> None:
    """Without path, symbol, scope, kind and language."""
    with CodeIndex(HashEmbedding()) as index:
        index.update_nodes([TextNode(id_=name, text=f"{name} one()") for name in ("one", "two")])
        assert [(hit.node_id, hit.node.metadata["related"]) for hit in index.related("one")] == [("two", "similar")]


def test_words_alone_where_the_vectors_are_elsewhere() -> None:
    with CodeIndex(HashEmbedding(), vector_store=FaissStore(16)) as index:
        index.update_texts(SHOP)
        hits = index.related("shop/mail.py:4")
        assert {hit.node.metadata["scope"] for hit in hits} == reasons(index, "shop/mail.py:4").keys()
        assert hits[0].node.metadata["scope"] == "send_reminder"
        assert index.related("shop/prices.py")[0].node.metadata["related"] == "calls it"


def test_the_nearest_of_a_scope_come_first_by_their_first_parts() -> None:
    body = "".join(f"    x = x + {i}\n" for i in range(150))
    functions = [f"def f{i}(x):\n{body if i == 4 else ''}    return {i}\n" for i in range(7)]
    with CodeIndex(HashEmbedding(), vector_store=FaissStore(16)) as index:
        index.update_texts({"a.py": "\n\n".join(functions)})
        last = max(node.metadata["end_line"] for node in index.nodes())
        hits = [hit.node.metadata for hit in index.related(f"a.py:{last}")]
    assert [hit["scope"] for hit in hits] == ["f5", "f4", "f3", "f2", "f1", "f0"]
    assert (hits[1]["part"], "also_lines" in hits[1]) == (1, False)


def test_no_model_is_needed(shop: CodeIndex, tmp_path: Path) -> None:
    shop.save(tmp_path / "index")
    with CodeIndex.open(tmp_path / "index", words_only=True) as index:
        assert index.related("shop/mail.py:4") == shop.related("shop/mail.py:4")


def test_vectors_of_two_models_are_not_compared(bert_folder: Path, adapter_folders: Mapping[str, Path]) -> None:
    texts = {
        "Tax.java": "class Tax {\n  int addTax(int a) { return a; }\n  int noTax(int a) { return 0; }\n}\n",
        "one.kt": "fun one(a: Int): Int = addTax(a)\n",
        "two.kt": "fun two(a: Int): Int = a + 2\n",
    }
    with CodeIndex(CodeEmbedding(str(bert_folder), adapters={"java": adapter_folders["ia3"]})) as index:
        index.update_texts(texts)
        by_place = {
            place: {hit.node.metadata["scope"]: hit.node.metadata["related"] for hit in index.related(place)}
            for place in ("one.kt", "Tax.java:2")
        }
    assert by_place["one.kt"] == {"two": "similar", "Tax.addTax": "called by it"}
    assert by_place["Tax.java:2"] == {
        "Tax": "similar, same scope",
        "Tax.noTax": "similar, same scope",
        "one": "calls it",
    }


def test_how_many_nodes_use_a_common_name_is_estimated(shop: CodeIndex) -> None:
    """From the share of the texts searched until enough were read; others have only the words of the name."""
    users = {f"u{i}.py": f"def user_{i}():\n    return fetch_rows({i})\n" for i in range(40)}
    words = {f"w{i}.py": f"def words_{i}():\n    return fetch(rows[{i}])\n" for i in range(40)}
    shop.update_texts({**users, **words})
    with shop.view() as view:
        texts, count = related._texts_with(view, "fetch_rows", limit=41)
        assert (len(texts), count) == (40, 40)
        texts, count = related._texts_with(view, "fetch_rows", limit=20)
        assert len(texts) == 20
        assert 20 < count <= 80


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_is_at_least_one(top_k: int, shop: CodeIndex) -> None:
    with pytest.raises(ValueError, match=f"top_k must be at least 1, got {top_k}"):
        shop.related("shop/mail.py:4", top_k=top_k)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(repository: Path) -> Path:
    """The repository of the other tests, with a caller and what it calls."""
    (repository / "src" / "orders.py").write_text(
        "from mail import send_receipt\n\n\ndef close_order(address, cart):\n    total = cart.total()\n"
        "    send_receipt(address, total)\n"
    )
    return repository


def test_the_command_prints_what_the_index_returns(shell: Shell, indexed: Path) -> None:
    records = shell("related", "src/mail.py:4", "--index", indexed, "--json")
    with CodeIndex.open(indexed) as index:
        hits = index.related("src/mail.py:4")
    assert [record["rank"] for record in records] == list(range(1, len(hits) + 1))
    assert [(record["score"], record["text"]) for record in records] == [(hit.score, hit.text) for hit in hits]
    for record, hit in zip(records, hits, strict=True):
        assert record.items() >= hit.metadata.items()
        assert Path(record["file"]).is_file()
    assert (records[0]["scope"], records[0]["related"]) == ("close_order", "similar, calls it")
    assert shell("related", "src/mail.py:4", "--index", indexed, "--json", "--top-k", 1) == records[:1]


def test_it_prints_why_and_marks_the_name(shell: Shell, indexed: Path) -> None:
    lines = shell("related", "src/mail.py:5", "--index", indexed, "--top-k", 1).splitlines()
    assert re.fullmatch(
        r" 1\. shop/src/orders.py:5  0\.\d{3}  close_order  also lines 4-4  similar, calls it", lines[0]
    )
    assert lines[1:] == [
        "  5     total = cart.total()",
        "❱ 6     send_receipt(address, total)",
    ]
    short = shell("related", "src/mail.py:5", "--index", indexed, "--top-k", 1, "--lines", 1)
    assert short.splitlines() == lines[:2]


def test_places_that_a_search_prints_are_places(
    shell: Shell, repository: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("index", repository, "--out", repository / ".code-retrieval", "--model", bert_folder)
    for folder in (repository, repository / "src"):
        monkeypatch.chdir(folder)
        printed = shell("search", "total of a cart", "--mode", "bm25", "--no-refresh")
        places = re.findall(r"^ *\d+\. (\S+)  ", printed, re.MULTILINE)
        assert places
        for place in places:
            assert shell("related", place, "--json")
    assert shell("related", "mail.py:4", "--top-k", 1).startswith(" 1. orders.py:5 ")


def test_a_changed_file_is_reported(shell: Shell, indexed: Path, repository: Path) -> None:
    shell("related", "src/mail.py:4", "--index", indexed)
    assert shell.err == ""
    (repository / "src" / "cart.py").write_text("")  # another file
    shell("related", "src/mail.py:4", "--index", indexed)
    assert shell.err == ""
    (repository / "src" / "mail.py").unlink()
    shell("related", "src/mail.py:4", "--index", indexed)
    assert shell.err == (
        "code-retrieval: src/mail.py has changed since the last update, and its lines may have moved; bring the index "
        f"up to date with: code-retrieval update --index {indexed}\n"
    )


def test_nothing_related_is_exit_code_1(shell: Shell, bert_folder: Path) -> None:
    Path("one.py").write_text("def one():\n    pass\n")
    shell("index", ".", "--out", "idx", "--model", bert_folder)
    assert shell("related", "one.py", "--index", "idx", code=1) == ""
    assert shell.err == "code-retrieval: nothing is related\n"
    assert shell("related", "one.py", "--index", "idx", "--json", code=1) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["src/mial.py:4"], "the index has no file 'src/mial.py'; did you mean src/mail.py?"),
        (["src/mail.py:99"], "no node of the index is at src/mail.py:99; name one of the nearest: src/mail.py:6"),
        (["src/mail.py:0"], "lines and cells are counted from 1, got 'src/mail.py:0'"),
        ([""], "the place is empty"),
        ([], "the following arguments are required: PLACE"),
        (["src/mail.py", "--top-k", "0"], "argument --top-k: must be at least 1, got 0"),
        (["src/mail.py", "--json", "--lines", "2"], "--lines has no effect with --json, which prints whole nodes"),
    ],
)
def test_wrong_arguments(shell: Shell, indexed: Path, arguments: list[str], says: str) -> None:
    shell.fails("related", *arguments, "--index", indexed, says=says)
    shell.fails("related", "x", "--index", "nowhere", says="there is no index in nowhere")
