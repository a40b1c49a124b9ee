"""Fetching from a hub, against a small server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

COMMITS = {"main": "a" * 40, "refs/pr/7": "b" * 40}


class _Hub(BaseHTTPRequestHandler):
    """Repository someone/tiny: main holds a pickle only, the bot's pull request 7 the safetensors."""

    folder: Path

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _files(self, revision: str) -> dict[str, Path]:
        names = [path.name for path in self.folder.iterdir() if path.name != "model.safetensors"]
        weights = ["model.safetensors"] if revision in ("refs/pr/7", COMMITS["refs/pr/7"]) else []
        return {name: self.folder / name for name in [*names, *weights]}

    def _reply(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if match := re.fullmatch(r"/api/models/someone/tiny/revision/(.+)", path):
            siblings = [{"rfilename": name} for name in self._files(match[1])]
            info = {"id": "someone/tiny", "sha": COMMITS[match[1]], "siblings": siblings}
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


@pytest.fixture
def hub(bert_folder: Path) -> Iterator[str]:
    handler = type("Hub", (_Hub,), {"folder": bert_folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_pickle_only_repository_is_read_from_the_bots_safetensors(
    hub: str, bert_folder: Path, tmp_path: Path
) -> None:
    code = (
        "import sys\nfrom llamaindex_code_retrieval import Encoder\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        print(Encoder.from_pretrained(name).fingerprint)\n"
        "    except ValueError as error:\n        print(error)\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    names = ["someone/tiny", "someone/tiny@refs/pr/7", "someone/tiny@main", "nobody/nothing", str(bert_folder)]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True, env=environment
    )
    found, by_revision, pickle, unknown, local = done.stdout.splitlines()
    assert found == by_revision == local
    assert "pickled weights" in pickle
    assert "could not be fetched" in unknown
    assert "known names" in unknown
