"""Fetching from a hub, against a small server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import unquote, urlparse

import pytest

from llamaindex_code_retrieval.models.locate import locate, locate_adapter, locate_query_encoder, locate_reranker


class _Hub(BaseHTTPRequestHandler):
    """Repository someone/tiny: main holds a pickle only, the bot's pull request 7 the safetensors."""

    folder: Path
    commits: ClassVar[dict[str, str]] = {}

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _files(self, revision: str) -> dict[str, Path]:
        names = [path.name for path in self.folder.iterdir() if path.name != "model.safetensors"]
        weights = [] if revision in ("main", self.commits["main"]) else ["model.safetensors"]
        return {name: self.folder / name for name in [*names, *weights]}

    def _reply(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if match := re.fullmatch(r"/api/models/someone/tiny/revision/(.+)", path):
            siblings = [{"rfilename": name} for name in self._files(match[1])]
            info = {"id": "someone/tiny", "sha": self.commits[match[1]], "siblings": siblings}
            return self._reply(json.dumps(info).encode(), Content_Type="application/json")
        if match := re.fullmatch(r"/api/models/someone/tiny/tree/(.+)", path):
            tree = [
                {"type": "file", "oid": "0" * 40, "size": file.stat().st_size, "path": name}
                for name, file in self._files(match[1]).items()
            ]
            return self._reply(json.dumps(tree).encode(), Content_Type="application/json")
        if path == "/api/models/someone/tiny/discussions":
            request = {
                "title": "Adding `safetensors` variant of this model",
                "num": 7,
                "author": {"name": "SFconvertbot"},
                "repo": {"name": "someone/tiny", "type": "model"},
                "createdAt": "2024-01-01T00:00:00.000Z",
                "isPullRequest": True,
                "status": "open",
            }
            page = {"discussions": [request], "count": 1, "start": 0}
            return self._reply(json.dumps(page).encode(), Content_Type="application/json")
        if match := re.fullmatch(r"/someone/tiny/resolve/([^/]+)/(.+)", path):
            file = self._files(match[1]).get(match[2])
            if file is not None:
                data = file.read_bytes()
                return self._reply(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=match[1])
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    do_HEAD = do_GET  # noqa: N815


class _Server(NamedTuple):
    address: str
    commits: dict[str, str]
    """Commit by revision."""


@pytest.fixture
def hub(bert_folder: Path) -> Iterator[_Server]:
    commits = {"main": "a" * 40, "refs/pr/7": "b" * 40}
    handler = type("Hub", (_Hub,), {"folder": bert_folder, "commits": commits})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield _Server(f"http://127.0.0.1:{server.server_port}", commits)
    server.shutdown()
    thread.join()
    server.server_close()


LOCATE = """
import sys
from llamaindex_code_retrieval.models.locate import locate
for name in sys.argv[1:]:
    try:
        print((locate(name) / "model.safetensors").exists(), locate(name).name)
    except ValueError as error:
        print(error)
"""


def _locate(*names: str, home: Path, endpoint: str, offline: bool = False) -> list[str]:
    """Return for each name a line: whether its folder holds weights, and the folder's name, or the error."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOCATE, *names], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.splitlines()


def test_a_pickle_only_repository_is_read_from_the_bots_safetensors(hub: _Server, tmp_path: Path) -> None:
    names = ["someone/tiny", "someone/tiny@refs/pr/7", "someone/tiny@main", "nobody/nothing"]
    by_name, by_revision, pickled, unknown = _locate(*names, home=tmp_path, endpoint=hub.address)
    assert by_name == by_revision == f"True {'b' * 40}"
    assert pickled == f"False {'a' * 40}"
    assert "could not be fetched: the hub has no such repository" in unknown
    assert "there is no folder nobody/nothing either; known names: Salesforce" in unknown


@pytest.mark.parametrize("offline", [True, False])  # by HF_HUB_OFFLINE, or because nobody answers
def test_the_bots_safetensors_are_found_offline_in_the_cache(offline: bool, hub: _Server, tmp_path: Path) -> None:
    online = _locate("someone/tiny", home=tmp_path, endpoint=hub.address)
    endpoint = hub.address if offline else "http://127.0.0.1:9"  # the port of the discard service
    found, never_fetched = _locate("someone/tiny", "some/other", home=tmp_path, endpoint=endpoint, offline=offline)
    assert [found] == online == [f"True {'b' * 40}"]
    assert "could not be fetched" in never_fetched
    assert "not complete in the hub cache" in never_fetched


def test_the_commit_of_the_bots_pull_request_is_kept(hub: _Server, tmp_path: Path) -> None:
    first = _locate("someone/tiny", home=tmp_path, endpoint=hub.address)
    hub.commits["refs/pr/7"] = "c" * 40
    assert _locate("someone/tiny", home=tmp_path, endpoint=hub.address) == first
    assert _locate("someone/tiny", home=tmp_path / "new", endpoint=hub.address) == [f"True {'c' * 40}"]


def test_a_cached_pickle_is_not_reported_as_a_missing_model(hub: _Server, tmp_path: Path) -> None:
    _locate("someone/tiny@main", home=tmp_path, endpoint=hub.address)
    (message,) = _locate("someone/tiny", home=tmp_path, endpoint=hub.address, offline=True)
    assert message.startswith("model 'someone/tiny' is in the hub cache without safetensors")
    assert "the hub, which may offer a conversion, is out of reach (OfflineModeIsEnabled)" in message


def test_another_pull_request_in_the_cache_is_not_taken_for_the_bots(hub: _Server, tmp_path: Path) -> None:
    hub.commits["refs/pr/3"] = "d" * 40
    by_name = f"True {'b' * 40}"
    found = _locate("someone/tiny@refs/pr/3", "someone/tiny", home=tmp_path, endpoint=hub.address)
    assert found == [f"True {'d' * 40}", by_name]
    assert _locate("someone/tiny", home=tmp_path, endpoint=hub.address) == [by_name]
    (message,) = _locate("someone/tiny", home=tmp_path, endpoint=hub.address, offline=True)
    assert message.startswith("model 'someone/tiny' is in the hub cache without safetensors")
    assert "someone/tiny@refs/pr/3, someone/tiny@refs/pr/7" in message


@pytest.mark.parametrize("locate", [locate, locate_adapter, locate_reranker, locate_query_encoder])
def test_a_folder_that_does_not_exist_is_reported_as_such(
    locate: Callable[[str | Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("note.txt").touch()
    for name in (str(tmp_path / "gone"), "./gone", "../gone", "~/gone-from-home", "a/b/c", Path("org/name"), Path("x")):
        with pytest.raises(ValueError, match=f"^folder {name} does not exist; .*known names: "):
            locate(name)
    for name in ("note.txt", Path("note.txt")):
        with pytest.raises(ValueError, match=r"^note\.txt is a file; name the folder of the"):
            locate(name)
