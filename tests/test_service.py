"""The service behind the front ends: freshness, limits, several repositories, and what it refuses to read."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.index.lock import update_lock
from llamaindex_code_retrieval.serving.service import CodeService

FILES = {
    "shop/cart.py": (
        '"""A shopping cart."""\n\n\nclass Cart:\n    """Holds items."""\n\n    def total(self, items):\n'
        '        """Sum the prices of all items."""\n        return sum(item.price for item in items)\n\n\n'
        "def empty_cart():\n    return Cart()\n"
    ),
    "shop/users.go": "package shop\n\nfunc FindUser(id int) string {\n\treturn lookup(id)\n}\n",
    "tests/test_cart.py": (
        "from shop.cart import empty_cart\n\n\ndef test_total():\n    assert empty_cart().total([]) == 0\n"
    ),
    "README.md": "# Shop\n\nIt sells things.\n\n## Install\n\nRun the installer.\n",
    ".gitignore": "secret.txt\n",
}
STATIC = "embedded-static"


def make_repository(folder: Path) -> Path:
    for path, text in FILES.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def build(folder: Path) -> None:
    with CodeIndex(CodeEmbedding(STATIC), folder / ".code-retrieval") as index:
        index.update([folder])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with files that must not be read, and with an index."""
    folder = make_repository(tmp_path_factory.mktemp("outer") / "shop-code")
    (folder.parent / "outside.py").write_text("PASSWORD = 1\n")
    (folder / "secret.txt").write_text("hidden\n")
    (folder / "picture.bin").write_bytes(b"\0\1\2" * 100)
    (folder / "huge.py").write_text("x = 1\n" * 200_000)
    (folder / "link.py").symlink_to(folder.parent / "outside.py")
    (folder / "inner.py").symlink_to(folder / "shop" / "cart.py")
    (folder / "out").symlink_to(folder.parent)
    build(folder)
    return folder


@pytest.fixture(scope="module")
def service(shop: Path) -> Iterator[CodeService]:
    with CodeService([shop], refresh_seconds=0) as service:
        yield service


@pytest.fixture
def copy(shop: Path, tmp_path: Path) -> Path:
    """A repository with an index, for a test that changes it."""
    return Path(shutil.copytree(shop, tmp_path / "copy", symlinks=True))


def test_a_search_returns_places_and_code(service: CodeService) -> None:
    hit = service.search("sum the prices of the items", limit=3).hits[0]
    assert (hit.repository, hit.path, hit.first, hit.last) == ("shop-code", "shop/cart.py", 7, 9)
    assert (hit.scope, hit.kind, hit.language) == ("Cart.total", "method", "python")
    assert hit.text.splitlines()[-1] == "        return sum(item.price for item in items)"


def test_filters_restrict_a_search(service: CodeService) -> None:
    def paths(**options: object) -> set[str]:
        return {hit.path for hit in service.search("total of the cart", limit=50, **options).hits}  # type: ignore[arg-type]

    assert "tests/test_cart.py" in paths()
    assert "tests/test_cart.py" not in paths(include_tests=False)
    assert paths(languages=["go"]) == {"shop/users.go"}
    assert paths(paths=["*.md"]) == {"README.md"}
    assert paths(kind="method") == {"shop/cart.py"}


def test_wrong_arguments_are_refused(service: CodeService) -> None:
    with pytest.raises(ValueError, match="question is empty"):
        service.search("  ")
    with pytest.raises(ValueError, match=r"8,001 characters and at most 8,000"):
        service.search("x" * 8001)
    for limit in (0, 101):
        with pytest.raises(ValueError, match="limit must be from 1 to 100"):
            service.search("cart", limit=limit)
    with pytest.raises(ValueError, match="unknown kind 'verb'"):
        service.search("cart", kind="verb")
    with pytest.raises(ValueError, match="there is no repository 'other'; there are shop-code"):
        service.search("cart", repository="other")
    with pytest.raises(ValueError, match="at most 50 values"):
        service.search("cart", paths=["*.py"] * 51)


def test_lines_of_a_file_are_read_as_they_are(service: CodeService, shop: Path) -> None:
    read = service.read("shop/cart.py", 4, 5)
    assert (read.first, read.last, read.total, read.language) == (4, 5, 13, "python")
    assert read.text == 'class Cart:\n    """Holds items."""'
    whole = service.read(str(shop / "shop" / "cart.py"))
    assert whole.path == "shop/cart.py"
    assert whole.text + "\n" == FILES["shop/cart.py"]
    assert service.read("shop/../shop/cart.py", 12, 900).last == 13


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("../outside.py", "outside the served folders"),
        ("shop/../../outside.py", "outside the served folders"),
        ("/etc/passwd", "outside the served folders"),
        ("link.py", "its target is outside"),
        ("out/outside.py", "its target is outside"),
        ("inner.py", "read shop/cart.py instead"),
        ("secret.txt", "left out of the index"),
        (".code-retrieval/index.sqlite", "left out of the index"),
        ("picture.bin", "binary"),
        ("huge.py", "too large"),
        ("shop", "is a folder"),
        ("", "is a folder"),
        ("shop/card.py", "did you mean shop/cart.py"),
        ("shop/cart.py\0.md", "NUL"),
        ("x" * 2000, "2,000 characters"),
    ],
)
def test_only_files_of_the_index_are_read(service: CodeService, path: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        service.read(path)


def test_lines_that_do_not_exist_are_named(service: CodeService) -> None:
    with pytest.raises(ValueError, match="has 13 lines, so there is no line 14"):
        service.read("shop/cart.py", 14)
    with pytest.raises(ValueError, match="last line, 2, is before the first one, 3"):
        service.read("shop/cart.py", 3, 2)
    with pytest.raises(ValueError, match="counted from 1, got 0"):
        service.read("shop/cart.py", 0)


def test_related_code_and_outlines(service: CodeService) -> None:
    related = service.related("shop/cart.py", 12).hits
    assert ("tests/test_cart.py", "similar, calls it") in {(hit.path, hit.related) for hit in related}
    [file] = service.outline("shop/cart.py").files
    assert [(each.scope, each.first, each.last) for each in file.definitions] == [
        ("Cart", 4, 9),
        ("Cart.total", 7, 9),
        ("empty_cart", 12, 13),
    ]
    assert file.definitions[1].signature == "def total(self, items):"
    whole = service.outline()
    assert whole.folders == {"shop": 2, "tests": 1}
    shop = service.outline("shop")
    assert [[each.scope for each in file.definitions] for file in shop.files] == [["Cart", "empty_cart"], ["FindUser"]]
    with pytest.raises(ValueError, match="no file or folder 'shoe'"):
        service.outline("shoe")
    with pytest.raises(ValueError, match=r"did you mean shop/cart\.py"):
        service.related("shop/card.py", 1)


def test_a_path_is_that_of_the_index_wherever_the_server_was_started(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_repository(tmp_path / "nested")
    (root / "shop" / "README.md").write_text("# Another\n")
    build(root)
    monkeypatch.chdir(root / "shop")
    with CodeService([root], read_only=True) as service:
        assert "# Another" not in service.read("README.md").text
        assert "README.md" not in {hit.path for hit in service.related("README.md").hits}


def test_a_class_is_one_definition_of_an_outline(tmp_path: Path) -> None:
    """Whatever stands between its methods."""
    fields = "".join(f"    field_{i} = {i}\n" for i in range(30))
    methods = [f"    def method_{i}(self):\n        return {i}\n" for i in range(2)]
    (tmp_path / "a.py").write_text("\n".join(["class A:", fields, methods[0], fields, methods[1], fields]))
    build(tmp_path)
    with CodeService([tmp_path], read_only=True) as service:
        [file] = service.outline("a.py").files
    scopes = [each.scope for each in file.definitions]
    assert scopes == ["A", "A.method_0", "A.method_1"]
    assert (file.definitions[0].first, file.definitions[0].last) == (1, 99)


def test_edits_are_found_by_the_next_search(copy: Path) -> None:
    with CodeService([copy], refresh_seconds=0) as service:
        service.search("cart")
        (copy / "shop" / "refund.py").write_text("def refund_payment(order):\n    return order.pay_back()\n")
        for _ in range(100):  # the first update loads LlamaIndex, which may take longer than an answer waits
            hits = service.search("give the money back for an order").hits
            if any(hit.scope == "refund_payment" for hit in hits):
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the new file was not found")
        assert service.search("cart").notes == []
        assert service.read("shop/refund.py").total == 2


def test_read_only_writes_nothing_and_says_what_has_changed(copy: Path) -> None:
    with CodeService([copy], read_only=True, refresh_seconds=0) as service:
        before = sorted((path, path.stat().st_mtime_ns) for path in copy.rglob("*.sqlite"))
        (copy / "shop" / "refund.py").write_text("def refund_payment(order):\n    return order.pay_back()\n")
        result = service.search("refund a payment")
        assert result.notes == ["1 file has changed since the index was made, which is read-only here"]
        assert "refund_payment" not in {hit.scope for hit in result.hits}
        assert sorted((path, path.stat().st_mtime_ns) for path in copy.rglob("*.sqlite")) == before
        assert service.read("shop/refund.py").total == 2


def test_an_index_that_is_missing_is_built(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "new")
    with pytest.raises(ValueError, match="read_only makes none; build one with: code-retrieval index"):
        CodeService([folder], read_only=True)
    with CodeService([folder]) as service:
        for _ in range(10):  # a slow machine may take longer than a request waits
            try:
                hits = service.search("find a user by id", limit=1).hits
                break
            except ValueError as error:
                assert "is being built" in str(error)  # noqa: PT017 - any other error fails the test
        assert [hit.path for hit in hits] == ["shop/users.go"]
        assert service.health() == {"status": "ok", "repositories": {"new": service.repositories[0].state}}
    with pytest.raises(ValueError, match="was built with the model embedded-static, not embedded"):
        CodeService([folder], model="embedded")
    with pytest.raises(ValueError, match="model is static"):
        CodeService([folder], fast_query="auto")


def test_several_repositories_are_searched_by_turns(shop: Path, tmp_path: Path) -> None:
    other = make_repository(tmp_path / "shop-code")
    (other / "only.py").write_text("def only_here():\n    pass\n")
    build(other)
    with CodeService([shop, other, shop / "shop"], read_only=True) as service:
        assert [each.name for each in service.repositories] == ["shop-code", "shop-code-2"]
        hits = service.search("sum the prices of the items", limit=4).hits
        assert [hit.repository for hit in hits] == ["shop-code", "shop-code-2"] * 2
        assert {hit.repository for hit in service.search("cart", repository="shop-code-2").hits} == {"shop-code-2"}
        only = service.search("cart", paths=["shop-code-2/shop/**"]).hits
        assert {(hit.repository, hit.path.partition("/")[0]) for hit in only} == {("shop-code-2", "shop")}
        assert service.read("only.py").repository == "shop-code-2"
        assert service.read("shop-code-2/shop/cart.py", 1, 1).repository == "shop-code-2"
        assert service.read(str(other / "README.md")).repository == "shop-code-2"
        with pytest.raises(ValueError, match="in shop-code, shop-code-2; begin the path with the name of one"):
            service.read("shop/cart.py")


def test_a_repository_that_disappears_does_not_keep_others_from_being_searched(shop: Path, copy: Path) -> None:
    with CodeService([shop, copy], read_only=True, refresh_seconds=0) as service:
        shutil.rmtree(copy)
        result = service.search("sum the prices of the items")
        assert {hit.repository for hit in result.hits} == {"shop-code"}
        [note] = result.notes
        assert note.startswith("copy: the folder ")
        with pytest.raises(ValueError, match="unknown kind"):
            service.search("cart", kind="verb")


def test_a_repository_that_disappears(copy: Path) -> None:
    with CodeService([copy], refresh_seconds=0) as service:
        assert service.search("cart").hits
        shutil.rmtree(copy)
        with pytest.raises(ValueError, match="copy is gone; restore it"):
            service.search("cart")
        with pytest.raises(ValueError, match="copy is gone; restore it"):
            service.read("shop/cart.py")
        assert service.health() == {"status": "degraded", "repositories": {"copy": "missing"}}
        assert service.status()["repositories"][0]["state"] == "missing"


def test_an_index_that_is_replaced_is_opened_again(copy: Path) -> None:
    with CodeService([copy], read_only=True, refresh_seconds=0) as service:
        assert service.search("cart").hits
        shutil.rmtree(copy / ".code-retrieval")
        with pytest.raises(ValueError, match=r"there is no index in .* any more"):
            service.search("cart")
        build(copy)
        assert service.search("cart").hits


def test_an_index_that_is_damaged_meanwhile(copy: Path) -> None:
    with CodeService([copy], refresh_seconds=0) as service:
        assert service.search("cart").hits
        database = copy / ".code-retrieval" / "index.sqlite"
        database.unlink()
        database.write_bytes(b"garbage" * 1000)
        with pytest.raises(ValueError, match=r"is damaged .* build the index again"):
            service.search("cart")
        assert service.health() == {"status": "degraded", "repositories": {"copy": "failed"}}
        [status] = service.status()["repositories"]
        assert (status["files"], "is damaged" in status["problem"]) == (0, True)


def test_another_process_that_updates_the_index_is_not_waited_for(copy: Path) -> None:
    with update_lock(copy / ".code-retrieval", seconds=0), CodeService([copy], refresh_seconds=0) as service:
        (copy / "shop" / "refund.py").write_text("def refund_payment(order):\n    return order.pay_back()\n")
        result = service.search("sum the prices")
        assert result.hits[0].scope == "Cart.total"
        assert result.notes == ["the index is not up to date: another process is updating the index"]


def test_two_services_on_one_index_find_the_same(copy: Path) -> None:
    with CodeService([copy], refresh_seconds=0) as one, CodeService([copy], refresh_seconds=0) as two:
        (copy / "shop" / "cart.py").write_text("def pay(amount):\n    return amount\n")
        with ThreadPoolExecutor(8) as pool:
            for service in (one, two) * 8:
                pool.submit(service.search, "pay an amount")
        for service in (one, two):
            while service.search("pay an amount").notes:
                time.sleep(0.05)
            assert service.search("pay an amount").hits[0].scope == "pay"


def test_too_many_requests_are_refused(shop: Path) -> None:
    with CodeService([shop], read_only=True, max_concurrent=1, timeout_seconds=0.05) as service:
        entered, leave = threading.Event(), threading.Event()

        def occupy() -> None:
            with service._requests.run("occupy", ""):
                entered.set()
                leave.wait(60)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(occupy)
            entered.wait(60)
            with pytest.raises(TimeoutError, match=r"1 requests are running and none ended within 0\.05 s"):
                service.search("cart")
            leave.set()
        assert service.search("cart").hits


def test_many_threads_search_at_once(service: CodeService) -> None:
    expected = service.search("sum the prices").hits
    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda _: service.search("sum the prices").hits, range(100)))
    assert all(hits == expected for hits in results)


def test_each_request_is_one_line_in_the_log(service: CodeService, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="llamaindex_code_retrieval.serving"):
        service.search("sum\nthe \x1b[2J prices")
        with pytest.raises(ValueError, match="no line"):
            service.read("shop/cart.py", 99)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("search 'sum\\nthe \\x1b[2J prices': ok, ")
    assert lines[1].startswith("read shop/cart.py:99-: ValueError: shop/cart.py has 13 lines")
    assert not any(character in line for line in lines for character in "\n\x1b")


def test_a_closed_service_refuses(shop: Path) -> None:
    service = CodeService([shop], read_only=True)
    service.close()
    service.close()
    with pytest.raises(ValueError, match="the service is closed"):
        service.search("cart")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"refresh_seconds": -1}, "refresh_seconds must be at least 0"),
        ({"max_concurrent": 0}, "max_concurrent must be at least 1"),
        ({"timeout_seconds": 0}, "timeout_seconds must be over 0"),
        ({"model": "no-such-model"}, "no-such-model"),
    ],
)
def test_wrong_settings_are_refused(shop: Path, options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CodeService([shop], **options)  # type: ignore[arg-type]


def test_folders_that_cannot_be_served(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name at least one folder"):
        CodeService([])
    with pytest.raises(ValueError, match="is not a folder \\(missing\\)"):
        CodeService([tmp_path / "none"])
    with pytest.raises(ValueError, match="is not a folder \\(a file\\)"):
        CodeService([shop / "README.md"])


def test_a_search_imports_neither_llama_index_nor_torch(shop: Path) -> None:
    program = (
        "import sys; from llamaindex_code_retrieval.serving.service import CodeService\n"
        f"with CodeService([{str(shop)!r}]) as service:\n"
        "    assert service.search('cart').hits and service.read('README.md') and service.outline()\n"
        "    assert service.related('shop/cart.py', 12).hits\n"
        "print([name for name in ('llama_index', 'pydantic', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
