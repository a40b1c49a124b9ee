"""The web page's JSON API: results, refusals, bad input, and conversations that stay apart."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from pydantic import PrivateAttr

pytest.importorskip("starlette", reason="needs the extra serve")

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.chat.llms import LLMSpec, load_llm
from llamaindex_code_retrieval.chat.synthesizer import NO_HIT
from llamaindex_code_retrieval.languages.table import LANGUAGES
from llamaindex_code_retrieval.serving import web
from llamaindex_code_retrieval.serving.answers import Answers, EventName
from llamaindex_code_retrieval.serving.api import MAX_BODY
from llamaindex_code_retrieval.serving.guard import Access, Guard, read_token
from llamaindex_code_retrieval.serving.service import CodeService
from llamaindex_code_retrieval.serving.streams import AnswerStreams
from llamaindex_code_retrieval.serving.web import create_app

DOCS = Path(__file__).parents[1] / "docs" / "serve.md"
TOKEN = "a-token-of-24-characters"
FILES = {
    "cart.py": "import math\n\n\nclass Cart:\n    def total(self):\n        return math.fsum(self.prices)\n\n"
    "    def clear(self):\n        self.prices = []\n",
    "mail.py": "def send_receipt(address, text):\n    return connect(address, text)\n",
    "page.py": "def banner():\n    return '<script>steal()</script><img src=x onerror=steal()>'\n",
    "tests/test_cart.py": "def test_total():\n    assert Cart().total() == 0\n",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Path:
    """A small indexed folder, with files beside those in the index."""
    root = tmp_path_factory.mktemp("web") / "shop"
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root.parent / "secret.py").write_text("password = 1\n")
    (root / "binary.py").write_bytes(b"\x00\x01\x02" * 1000)
    (root / "huge.py").write_text("x = 1\n" * 400_000)
    (root / "link.py").symlink_to(root.parent / "secret.py")
    with CodeIndex(CodeEmbedding(str(bert_folder)), root / ".code-retrieval") as index:
        index.update([root])
    return root


@pytest.fixture(scope="module")
def service(repository: Path) -> Iterator[CodeService]:
    with CodeService([repository], read_only=True) as service:
        yield service


@pytest.fixture(scope="module")
def answers(service: CodeService) -> Answers:
    return Answers(service, load_llm("extractive"), LLMSpec.parse("extractive"))


@pytest.fixture(scope="module")
def client(service: CodeService, answers: Answers) -> Iterator[TestClient]:
    with TestClient(create_app(service, answers, Access()), base_url="http://localhost:8765") as client:
        yield client


class PeerLLM(CustomLLM):
    """An LLM that keeps its prompts and streams ``words``; a word that is an exception is raised, a call is made."""

    words: list[Any]
    _prompts: list[str] = PrivateAttr(default_factory=list)
    _closed: threading.Event = PrivateAttr(default_factory=threading.Event)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=8192)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        self._prompts.append(prompt)

        def grow() -> Iterator[CompletionResponse]:
            try:
                for word in self.words:
                    if isinstance(word, BaseException):
                        raise word
                    piece = word() if callable(word) else word
                    yield CompletionResponse(text=piece, delta=piece)
            finally:
                self._closed.set()

        return grow()


Start = Callable[..., TestClient]


@pytest.fixture
def start(service: CodeService) -> Iterator[Start]:
    """Starts an application whose answers are by a peer LLM."""
    started: list[TestClient] = []

    def begin(llm: PeerLLM, **limits: Any) -> TestClient:
        app = create_app(service, answers_by(llm, service), Access(), streams=AnswerStreams(**limits))
        client = TestClient(app, base_url="http://localhost").__enter__()
        started.append(client)
        return client

    yield begin
    for client in started:
        client.__exit__(None, None, None)


def answers_by(llm: PeerLLM, service: CodeService) -> Answers:
    return Answers(service, llm, LLMSpec("ollama", "peer", "http://me:hush@host:1"), busy_seconds=0.01)


def ask(client: TestClient, question: str, **arguments: Any) -> list[tuple[str, dict[str, Any]]]:
    response = client.post("/api/ask", json={"question": question, **arguments})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


def events_of(stream: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", stream)
    return [(name, json.loads(data)) for name, data in found]


def text_of(events: list[tuple[str, dict[str, Any]]]) -> str:
    return "".join(data["text"] for name, data in events if name == "text")


def id_of(events: list[tuple[str, dict[str, Any]]]) -> str:
    return str(events[0][1]["conversation"])


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_search_returns_hits_with_their_lines(client: TestClient) -> None:
    found = client.get("/api/search", params={"question": "send_receipt", "limit": 1}).json()
    [hit] = found["hits"]
    assert (hit["path"], hit["first"], hit["last"], hit["scope"]) == ("mail.py", 1, 2, "send_receipt")
    assert hit["text"] == FILES["mail.py"].rstrip("\n")


@pytest.mark.parametrize(
    ("parameters", "paths"),
    [
        ({"paths": "mail.py"}, {"mail.py"}),
        ({"paths": ["mail.py", "page.py"]}, {"mail.py", "page.py"}),
        ({"kind": "method"}, {"cart.py"}),
        ({"languages": "go"}, set()),
        ({"paths": "tests/**"}, {"tests/test_cart.py"}),
        ({"paths": "tests/**", "include_tests": "false"}, set()),
    ],
)
def test_filters_restrict_a_search(client: TestClient, parameters: dict[str, Any], paths: set[str]) -> None:
    found = client.get("/api/search", params={"question": "total of prices", **parameters}).json()
    assert {hit["path"] for hit in found["hits"]} == paths


def test_an_answer_is_a_stream_of_events_that_ends_with_done(client: TestClient) -> None:
    events = ask(client, "send_receipt", paths=["mail.py"])
    names = [name for name, _ in events]
    assert names[:2] == ["status", "passages"]
    assert names[-2:] == ["citations", "done"]
    assert set(names[2:-2]) == {"text"}
    [passage] = events[1][1]["passages"]
    assert (passage["path"], passage["lines"], passage["first"]) == ("mail.py", [[1, 2]], 1)
    assert "return connect(address, text)" in text_of(events)
    assert events[-2][1] == {"citations": [1]}


def test_an_answer_without_passages_says_so(client: TestClient) -> None:
    events = ask(client, "total", paths=["nowhere/**"])
    assert text_of(events) == NO_HIT
    assert events[1][1] == {"passages": []}


def test_what_an_llm_cites_and_invents_is_reported(start: Start) -> None:
    events = dict(ask(start(PeerLLM(words=["It is ", "`total_of_all` [1].", " See [9]."])), "total of the cart"))
    assert events["citations"] == {"citations": [1]}
    assert events["warnings"] == {"warnings": ["not in the passages: [9]", "not found in the code: `total_of_all`"]}


def test_lines_of_a_file_are_read(client: TestClient) -> None:
    read = client.get("/api/read", params={"path": "cart.py", "first": 5, "last": 6}).json()
    assert read["text"] == "    def total(self):\n        return math.fsum(self.prices)"
    assert (read["first"], read["last"], read["total"], read["language"]) == (5, 6, 9, "python")


def test_related_code_outline_status_and_health_are_served(client: TestClient) -> None:
    related = client.get("/api/related", params={"path": "cart.py", "line": 5}).json()
    assert "tests/test_cart.py" in {hit["path"] for hit in related["hits"]}
    outline = client.get("/api/outline", params={"path": "cart.py"}).json()
    scopes = [each["scope"] for each in outline["files"][0]["definitions"]]
    assert scopes == ["Cart", "Cart.total", "Cart.clear"]
    assert client.get("/api/status").json()["repositories"][0]["name"] == "shop"
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")


def test_the_documented_routes_are_those_of_the_application(service: CodeService, answers: Answers) -> None:
    guard = create_app(service, answers, Access())
    assert isinstance(guard, Guard)
    assert isinstance(guard.app, Starlette)
    served = {
        f"{method} {route.path}"
        for route in guard.app.routes
        if isinstance(route, Route) and (route.path.startswith("/api/") or route.path == "/health")
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert set(re.findall(r"`((?:GET|POST) /[\w/]+)`", DOCS.read_text(encoding="utf-8"))) == served


def test_the_documented_events_are_those_of_an_answer() -> None:
    documented = re.findall(
        r"^\| `(\w+)` \| ", DOCS.read_text(encoding="utf-8").partition("**Events**")[2], re.MULTILINE
    )
    assert documented == [*get_args(EventName), "error"]


def test_the_languages_that_are_coloured_are_known() -> None:
    script = (Path(web.__file__).parent / "static" / "colour.js").read_text(encoding="utf-8")
    names = [name for names in re.findall(r'^  \["([a-z ]+)", \{', script, re.MULTILINE) for name in names.split()]
    assert {"python", "go", "rust"} <= set(names) <= set(LANGUAGES)
    assert len(names) == len(set(names))


# --- conversations ----------------------------------------------------------------------------------------------------


def test_a_conversation_remembers_and_others_do_not_see_it(start: Start) -> None:
    llm = PeerLLM(words=["the secret answer [1]"])
    client = start(llm)
    mine = id_of(ask(client, "total of my cart"))
    follow_up = ask(client, "and how is a receipt sent", conversation=mine)
    assert (id_of(follow_up), follow_up[0][1]["is_new"]) == (mine, False)
    assert "total of my cart" in llm._prompts[-1]
    assert "the secret answer" in llm._prompts[-1]
    for guess in (None, "", mine[:-1], mine.upper(), "0" * 32):
        other = ask(client, "send receipt", conversation=guess)
        assert other[0][1]["is_new"]
        assert id_of(other) != mine
        assert "secret" not in llm._prompts[-1]


def test_a_second_question_of_a_conversation_waits_for_the_first(start: Start) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert go_on.wait(timeout=60)
        return "done"

    llm = PeerLLM(words=["first"])
    client = start(llm)
    mine = id_of(ask(client, "total"))
    llm.words = [wait]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, "total of prices", conversation=mine)
        assert begun.wait(timeout=60)
        second = client.post("/api/ask", json={"question": "clear", "conversation": mine})
        go_on.set()
        assert (second.status_code, "wait for it" in second.json()["error"]) == (409, True)
        assert text_of(first.result()) == "done"


def test_more_answers_than_fit_are_refused(start: Start) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert go_on.wait(timeout=60)
        return "done"

    client = start(PeerLLM(words=[wait]), max_concurrent=1, wait_seconds=0.01)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, "total")
        assert begun.wait(timeout=60)
        refused = client.post("/api/ask", json={"question": "clear"})
        assert client.get("/api/search", params={"question": "total"}).status_code == 200  # goes on meanwhile
        go_on.set()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert text_of(first.result()) == "done"
    assert text_of(ask(client, "total")) == "done"  # the place is free again


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["It ", ConnectionError("refused")], "no server answers at http://host:1 (refused)"),
        ([], "ollama:peer@http://host:1 returned an empty answer"),
        ([RuntimeError("<b>")], "ollama:peer at http://host:1 failed: RuntimeError: <b>"),
    ],
)
def test_an_llm_that_fails_ends_the_stream_with_an_error(words: list[Any], says: str, start: Start) -> None:
    client = start(PeerLLM(words=words))
    events = ask(client, "total")
    assert events[-1][0] == "error"
    assert says in events[-1][1]["error"]
    assert "hush" not in str(events)
    assert id_of(ask(client, "total", conversation=id_of(events))) == id_of(events)  # it is not locked


def test_an_answer_stops_when_its_reader_leaves(service: CodeService) -> None:
    llm = PeerLLM(words=[])
    left = threading.Event()

    def forever() -> Iterator[str]:
        while True:
            yield "word "

    llm.words = forever()  # type: ignore[assignment]  # without end
    app = create_app(service, answers_by(llm, service), Access())
    body = json.dumps({"question": "total"}).encode()
    anyio.run(leave_after_first_text, app, body, left)
    assert llm._closed.wait(timeout=60)


async def leave_after_first_text(app: ASGIApp, body: bytes, left: threading.Event) -> None:
    """Send a question, and disconnect as soon as the first word has come."""
    first_text = anyio.Event()
    messages = iter([{"type": "http.request", "body": body}])

    async def receive() -> Any:
        message = next(messages, None)
        if message is None:
            await first_text.wait()
            return {"type": "http.disconnect"}
        return message

    async def send(message: Any) -> None:
        if b"event: text" in message.get("body", b""):
            first_text.set()

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/api/ask", "headers": headers, "query_string": b""}
    with anyio.fail_after(60):
        await app({**scope, "asgi": {"version": "3.0"}, "root_path": ""}, receive, send)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/search", "question is missing"),
        ("/api/search?question=", "question is missing"),
        ("/api/search?question=%20", "the question is empty"),
        ("/api/search?question=" + "x" * 8001, "the question has 8,001 characters"),
        ("/api/search?question=a&question=b", "question must be a single value, got 2"),
        ("/api/search?question=a&limit=0", "limit must be a whole number from 1 to 50, got 0"),
        ("/api/search?question=a&limit=1e9", "limit must be a whole number"),
        ("/api/search?question=a&include_tests=maybe", "include_tests must be true or false"),
        ("/api/search?question=a&kind=car", "unknown kind 'car'"),
        ("/api/search?question=a&repository=bank", "there is no repository 'bank'"),
        ("/api/search?question=a&top_k=3", "unknown argument 'top_k'; known are question,"),
        ("/api/search?question=a&paths=" + "x" * 1001, "paths may have 20 values of 1,000 characters"),
        ("/api/read", "path is missing"),
        ("/api/read?path=cart.py&first=99", "cart.py has 9 lines"),
        ("/api/read?path=cart.py&first=-1", "first must be a whole number"),
        ("/api/read?path=../secret.py", "outside"),
        ("/api/read?path=/etc/passwd", "outside"),
        ("/api/read?path=tests/../../secret.py", "outside"),
        ("/api/read?path=link.py", "link.py"),
        ("/api/read?path=binary.py", "binary.py"),
        ("/api/read?path=huge.py", "huge.py"),
        ("/api/read?path=nothing.py", "nothing.py"),
        ("/api/read?path=a%00b", "NUL"),
        ("/api/related?path=nothing.py&line=1", "nothing.py"),
        ("/api/outline?path=nowhere", "nowhere"),
    ],
)
def test_wrong_arguments_are_named(client: TestClient, path: str, says: str) -> None:
    response = client.get(path)
    assert response.status_code == 400, response.text
    assert says in response.json()["error"]
    assert "password" not in response.text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\xff\xfe garbage", "the body must be a JSON object"),
        (b"[" * 20_000, "the body must be a JSON object"),
        (b"[]", "the body must be a JSON object"),
        (b'{"question": 3}', "question must be a text, got 3"),
        (b'{"question": ["a", "b"]}', "question must be a single value, got 2"),
        (b'{"question": "a", "paths": "src"}', "paths must be a list of texts, got 'src'"),
        (b'{"question": "a", "paths": [1]}', "paths must be a list of texts"),
        (b'{"question": "a", "include_tests": 1}', "include_tests must be true or false, got 1"),
        (b'{"question": "a", "conversation": {}}', "conversation must be a text"),
        (b'{"question": "a", "system": "obey"}', "unknown argument 'system'"),
        (b'{"question": "a", "repository": "bank"}', "there is no repository 'bank'"),
        (b'{"question": "\\ud800"}', ""),
    ],
)
def test_garbage_is_no_question(client: TestClient, body: bytes, says: str) -> None:
    response = client.post("/api/ask", content=body, headers={"content-type": "application/json"})
    if says:
        assert response.status_code == 400, response.text
        assert says in response.json()["error"]
    else:
        assert response.status_code in (200, 400)


def test_a_large_body_is_refused_and_not_read(client: TestClient) -> None:
    json_type = {"content-type": "application/json"}
    question = json.dumps({"question": "x" * 1_000_000}).encode()
    assert client.post("/api/ask", content=question, headers=json_type).status_code == 413
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(MAX_BODY):
            sent += 1024
            yield b"x" * 1024

    assert client.post("/api/ask", content=chunks(), headers=json_type).status_code == 413
    assert client.post("/answer", content=b"question=" + b"x" * 1_000_000).status_code == 413


def test_other_methods_and_types_are_refused(client: TestClient) -> None:
    assert client.get("/api/ask").status_code == 405
    assert client.post("/api/search").status_code == 405
    assert client.get("/api/nothing").json()["error"].startswith("there is no such page")
    form = {"content-type": "text/plain"}  # what a form of another site can send
    assert client.post("/api/ask", content=b'{"question": "a"}', headers=form).status_code == 415


def test_static_files_do_not_lead_out(client: TestClient) -> None:
    assert client.get("/static/app.js").status_code == 200
    for path in ("/static/../page.html", "/static/%2e%2e/page.html", "/static/..%2fpage.html", "/static/"):
        assert client.get(path).status_code in (404, 405)


# --- access -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost:8765"}, 200),
        ({"origin": "http://localhost:9999"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 403),  # a name that was pointed to this machine
        ({"host": "localhost.evil.example:8765"}, 403),
        ({"host": "127.0.0.1:8765"}, 200),
        ({"host": "[::1]:8765"}, 200),
        ({"host": "[::1"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "script"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-dest": "empty"}, 403),
        ({"sec-fetch-site": "same-origin", "sec-fetch-dest": "empty"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, 200),  # a link to the page
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "iframe"}, 403),
    ],
)
def test_only_the_page_itself_may_ask(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/api/status", headers=headers).status_code == status


def test_a_form_of_another_site_is_refused(client: TestClient) -> None:
    cross = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    assert client.post("/answer", data={"question": "total"}, headers=cross).status_code == 403
    no_origin = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    assert client.post("/answer", data={"question": "total"}, headers=no_origin).status_code == 403


def test_every_answer_has_the_headers_that_protect_a_page(client: TestClient) -> None:
    for path in ("/", "/api/status", "/api/nothing", "/static/app.js", "/code?path=page.py"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "set-cookie" not in headers


def test_a_token_is_needed_where_there_is_one(service: CodeService, answers: Answers) -> None:
    with TestClient(create_app(service, answers, Access(TOKEN)), base_url="http://build.example") as client:
        basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
        good = [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"]
        bad = [
            None,
            "",
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            TOKEN,
            "Basic ???",
            "Basic Og==",
            "Bearer é",
        ]
        for path in ("/", "/api/status", "/static/app.js"):
            for given in good:
                assert client.get(path, headers={"authorization": given}).status_code == 200
            for given in bad:
                headers = {} if given is None else {"authorization": given.encode()}
                refused = client.get(path, headers=headers)
                assert refused.status_code == 401, given
                assert refused.headers["www-authenticate"].startswith("Basic")
        assert client.get("/health").status_code == 200


def test_tokens_are_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODE_RETRIEVAL_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("CODE_RETRIEVAL_TOKEN", TOKEN)
    assert read_token(None) == TOKEN
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}-2\n")
    assert read_token(file) == f"{TOKEN}-2"
    for wrong in ("", "short", "with a space in it", "é" * 20):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="at least 16 ASCII characters"):
            read_token(file)


# --- pages without scripts --------------------------------------------------------------------------------------------


def test_forms_and_links_work_without_scripts(client: TestClient) -> None:
    start = client.get("/").text
    assert '<form id="form" class="ask" action="/" method="get"' in start
    assert 'formaction="/answer" formmethod="post"' in start
    hits = client.get("/", params={"question": "send_receipt", "paths": "mail.py", "languages": "", "kind": ""}).text
    [link] = re.findall(r'href="(/code\?[^"]+)"', hits)
    code = client.get(link.replace("&amp;", "&")).text
    assert re.findall(r'class="line marked" id="L(\d+)"', code) == ["1", "2"]
    answer = client.post("/answer", data={"question": "send_receipt", "paths": "mail.py"}).text
    assert "return connect(address, text)" in answer
    assert 'href="/code?path=mail.py' in answer


def test_several_repositories_are_chosen_from(repository: Path, tmp_path: Path, bert_folder: Path) -> None:
    other = tmp_path / "bank"
    other.mkdir()
    (other / "loan.py").write_text("def send_money(address):\n    return 1\n")
    with CodeIndex(CodeEmbedding(str(bert_folder)), other / ".code-retrieval") as index:
        index.update([other])
    with CodeService([repository, other], read_only=True) as service:
        app = create_app(service, answers_by(PeerLLM(words=["It is [1]."]), service), Access())
        with TestClient(app, base_url="http://localhost") as client:
            assert re.findall(r'<option value="(\w*)"( selected)?>(?:shop|bank|all)', client.get("/").text) == [
                ("shop", " selected"),
                ("bank", ""),
                ("", ""),
            ]
            found = client.get("/", params={"question": "send", "repository": ""}).text
            assert {name for name in ("shop", "bank") if f'<span class="tag">{name}</span>' in found} == {
                "shop",
                "bank",
            }
            assert dict(ask(client, "send", repository="bank"))["passages"]["passages"][0]["path"] == "loan.py"
            unnamed = client.post("/api/ask", json={"question": "send"})
            assert unnamed.json() == {"error": "name the repository to ask: one of shop, bank"}


def test_code_and_questions_are_escaped(client: TestClient) -> None:
    attack = '"><script>steal()</script>'
    pages = [
        client.get("/", params={"question": f"banner {attack}", "paths": "page.py"}),
        client.post("/answer", data={"question": f"banner {attack}", "paths": "page.py"}),
        client.get("/code", params={"path": "page.py", "lines": "1-2"}),
        client.get("/code", params={"path": attack}),
        client.get("/", params={"question": "a", "kind": attack}),
    ]
    for page in pages:
        assert "steal()" in page.text
        assert "<script>steal" not in page.text
        assert "<img src=x" not in page.text
    assert [page.status_code for page in pages] == [200, 200, 200, 400, 400]
