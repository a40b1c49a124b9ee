"""The page in a browser: a person asks, opens what an answer cites, searches, and uses the keyboard."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("playwright", reason="needs playwright")

import uvicorn
from playwright.sync_api import sync_playwright

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.chat.extractive import ExtractiveLLM
from llamaindex_code_retrieval.chat.llms import LLMSpec
from llamaindex_code_retrieval.chat.local_llm import Turn
from llamaindex_code_retrieval.serving.answers import Answers
from llamaindex_code_retrieval.serving.guard import Access
from llamaindex_code_retrieval.serving.service import CodeService
from llamaindex_code_retrieval.serving.web import create_app

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ATTACK = "</script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>"
FILLER = "".join(f"value_{number} = {number}\n" for number in range(1, 301))
FILES = {
    "cart.py": f"{FILLER}\n\nclass Cart:\n    def total(self):\n        return sum(self.prices)\n\n{FILLER}",
    "mail.py": "def send_receipt(address, text):\n    # tell the customer\n    return connect(address, text)\n",
    "parts.py": 'class Till:\n    """\n    Takes money.\n\n'
    + "".join(f"    Rule {number} of the till.\n" for number in range(20))
    + '    """\n\n    def open_till(self):\n        return 1\n',
    "banner.py": f'def show_banner():\n    return """{ATTACK}"""\n',
}

GO_ON = threading.Event()
"""What the LLM waits for after the first words of its prose."""
WRITTEN = (
    "**computed** in `Cart.total` [1], see cart.py:304 and [9].\n\n## Steps\n\n1. sum\n2. return <b>it</b>\n\n"
    "```python\ntotal = sum([1])\n```\n"
)


class WritingLLM(ExtractiveLLM):
    """An extractive LLM that writes prose when it is asked to explain something."""

    def _deltas(self, turns: Sequence[Turn]) -> Generator[str]:
        if not turns[-1]["content"].startswith("explain"):
            yield from super()._deltas(turns)
            return
        yield "It is "
        assert GO_ON.wait(timeout=60)
        yield from re.split(r"(?<= )", WRITTEN)


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Iterator[str]:
    """Where a server answers about a small repository."""
    root = tmp_path_factory.mktemp("page") / "shop"
    root.mkdir()
    for path, text in FILES.items():
        (root / path).write_text(text)
    with CodeIndex(CodeEmbedding(str(bert_folder)), root / ".code-retrieval") as index:
        index.update([root])
    with CodeService([root], read_only=True) as service, socket.create_server(("127.0.0.1", 0)) as listener:
        answers = Answers(service, WritingLLM(), LLMSpec.parse("extractive"))
        config = uvicorn.Config(create_app(service, answers, Access()), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, headless=True)
        yield browser
        browser.close()


@pytest.fixture
def problems() -> list[str]:
    """Messages of the console, and requests that leave this machine: what a test must leave empty."""
    return []


@pytest.fixture
def page(browser: Any, address: str, problems: list[str]) -> Iterator[Any]:
    """The page in a new profile."""
    context = browser.new_context(viewport={"width": 1200, "height": 700}, color_scheme="light")
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: _note_foreign(request.url, address, problems))
    page.goto(address)
    yield page
    context.close()
    assert problems == []


def _note_foreign(url: str, address: str, problems: list[str]) -> None:
    if urlsplit(url).netloc != urlsplit(address).netloc:
        problems.append(f"request to {url}")


def ask(page: Any, question: str) -> None:
    page.fill("#question", question)
    page.click("#ask")
    page.wait_for_selector("#status:text-matches('^Answered from')")


def marked(page: Any) -> list[str]:
    """Return the numbers of the marked lines, once there are any."""
    page.wait_for_selector(".line.marked")
    numbers: list[str] = page.eval_on_selector_all(".line.marked", "lines => lines.map(line => line.dataset.line)")
    return numbers


def test_a_person_asks_and_opens_the_cited_lines(page: Any) -> None:
    ask(page, "Cart.total")
    source = page.locator(".sources a.place", has_text="cart.py").first
    assert "303-305" in source.inner_text()
    page.locator(f".body figcaption:has-text('{source.inner_text()}') a.cite").click()
    assert marked(page) == ["303", "304", "305"]
    assert page.inner_text("#L304").strip() == "def total(self):"
    assert page.locator("#L304").bounding_box()["y"] < 700  # it was scrolled to
    assert "cart.py" in page.inner_text("#code h2")
    page.keyboard.press("Escape")
    assert page.is_hidden("#code")


def test_follow_ups_stay_in_the_conversation_that_the_server_began(page: Any) -> None:
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if "/api/ask" in request.url else None)
    for question in ("send_receipt", "and where is it called?", "and Cart.total?"):
        ask(page, question)
    first, second, third = (each["conversation"] for each in sent)
    assert first is None
    assert len(second) >= 32
    assert third == second
    assert page.locator(".turn h2").all_inner_texts()[-1] == "send_receipt"  # the last one comes first


def test_prose_streams_is_formatted_and_its_citations_are_links(page: Any) -> None:
    GO_ON.clear()
    page.fill("#question", "explain Cart.total")
    page.click("#ask")
    page.wait_for_selector(".turn[aria-busy] .body:has-text('It is')")  # while the LLM waits
    GO_ON.set()
    page.wait_for_selector("#status:text-matches('^Answered from')")
    body = page.locator(".turn .body")
    assert body.locator("p").inner_text() == "It is computed in Cart.total 1, see cart.py:304 and [9]."
    assert body.locator("strong").inner_text() == "computed"
    assert body.locator("h3").inner_text() == "Steps"
    assert body.locator("ol li").all_inner_texts() == ["sum", "return <b>it</b>"]
    assert body.locator("figure pre").inner_text() == "total = sum([1])"
    assert body.locator("a").all_inner_texts() == ["1", "cart.py:304"]
    body.locator("a", has_text="cart.py:304").click()
    assert marked(page) == ["304"]


def test_colours_of_a_passage_do_not_run_over_what_it_leaves_out(page: Any) -> None:
    ask(page, "Till.open_till")
    passage = page.locator(".body figure", has_text="open_till").first
    assert "\n...\n" in passage.locator("pre").inner_text()
    assert "def" in passage.locator(".k").all_inner_texts()


def test_escape_stops_an_answer(page: Any) -> None:
    GO_ON.clear()
    page.fill("#question", "explain Cart.total")
    page.click("#ask")
    page.wait_for_selector(".turn .body:has-text('It is')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".turn .warning:text-is('Stopped.')")
    GO_ON.set()
    ask(page, "send_receipt")  # in the same conversation
    assert page.locator(".turn").count() == 2


def test_scripts_in_code_and_questions_are_inert(page: Any) -> None:
    ask(page, f"show_banner {ATTACK}")
    page.locator(".sources a.place", has_text="banner.py").first.click()
    marked(page)
    assert ATTACK in page.inner_text("#code")
    assert ATTACK in page.inner_text(".turn h2")
    page.click("#search")
    page.wait_for_selector(".hit")
    assert page.evaluate("window.harmed") is None
    assert page.locator("#main script, #main img").count() == 0


def test_the_keyboard_is_enough(page: Any) -> None:
    page.locator("#theme").focus()
    page.keyboard.press("/")
    page.keyboard.type("total send_receipt banner")
    page.click("#search")
    page.wait_for_selector(".hit")
    page.keyboard.press("/")
    page.keyboard.type("send_receipt")
    page.keyboard.press("Enter")  # searches again, as the last time
    page.wait_for_selector(".hit:first-child .scope:text-is('send_receipt')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert "mail.py:1-3" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    assert marked(page) == ["1", "2", "3"]
    page.keyboard.press("Escape")
    assert "mail.py:1-3" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "question"


def test_filters_restrict_what_is_found_and_are_counted(page: Any) -> None:
    page.click(".filters summary")
    page.fill("[name=paths]", "mail.py, banner.py")
    page.select_option("[name=kind]", "function")
    page.fill("#question", "total")
    page.click("#search")
    page.wait_for_selector(".hit")
    places = page.locator(".hit .place").all_inner_texts()
    assert sorted(place.partition(":")[0] for place in places) == ["banner.py", "mail.py"]
    assert page.inner_text("#filtered") == "2"
    page.reload()  # the address names the search
    assert page.locator(".hit").count() == 2
    assert page.input_value("[name=paths]") == "mail.py, banner.py"


def test_what_is_wrong_is_said(page: Any, problems: list[str]) -> None:
    page.route("**/api/search*", lambda route: route.abort())
    page.fill("#question", "total")
    page.click("#search")
    page.wait_for_selector(".status.bad")
    assert "cannot be reached" in page.inner_text("#status")
    assert "Failed to load resource" in problems.pop()
    page.unroute("**/api/search*")
    page.click("#search")
    page.wait_for_selector(".hit")
    assert page.get_attribute("#status", "class") == "status"


def test_both_themes_have_contrast_and_the_choice_is_kept(page: Any) -> None:
    def contrast() -> float:
        return float(page.evaluate(CONTRAST))

    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light dark"
    assert contrast() > 4.5
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    assert contrast() > 4.5
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.inner_text("#theme") == "Light theme"


CONTRAST = """(() => {
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  const [a, b] = [getComputedStyle(document.querySelector(".about")).color,
    getComputedStyle(document.querySelector(".top")).backgroundColor].map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})()"""


def test_a_small_screen_shows_code_over_the_whole_page(page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 700})
    ask(page, "send_receipt")
    assert page.evaluate("document.documentElement.scrollWidth") == 400  # nothing is cut or scrolls sideways
    page.locator(".sources a.place", has_text="mail.py").first.click()
    marked(page)
    assert page.locator("#code").bounding_box() == {"x": 0, "y": 0, "width": 400, "height": 700}
    page.click("#code header button[aria-label='Close the code']")
    assert page.is_hidden("#code")


def test_forms_and_links_work_without_scripts(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    page.fill("#question", "send_receipt")
    page.click("#ask")
    assert "return connect(address, text)" in page.inner_text(".turn .body")
    page.click(".sources a.place >> text=mail.py")
    assert page.locator(".line.marked").count() == 3
    page.goto(address)
    page.fill("#question", "send_receipt")
    page.click("#search")
    assert page.inner_text(".hit .scope >> nth=0") == "send_receipt"
    context.close()
