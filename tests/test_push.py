"""Publish a run, against a small server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.push import check_repository_name

MACHINE = "/home/someone/secret"


class _Hub(BaseHTTPRequestHandler):
    """A hub with one repository, org/public, that is public; others are created."""

    private: ClassVar[dict[str, bool]] = {}
    files: ClassVar[dict[str, dict[str, bytes]]] = {}

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _reply(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").partition("?")[0]
        self._reply(200, {"id": name, "private": self.private[name], "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request['organization']}/{request['name']}"
            if name in self.private:
                return self._reply(
                    409, {"error": "You already created this model repo", "url": f"https://huggingface.co/{name}"}
                )
            # how the request says it depends on the version of huggingface_hub
            self.private[name] = request.get("private", request.get("visibility") == "private")
            return self._reply(200, {"url": f"https://huggingface.co/{name}", "name": name})
        name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self._reply(200, {"files": modes})
        rows = [json.loads(line) for line in body.splitlines()]
        content = {row["value"]["path"]: row["value"]["content"] for row in rows if row["key"] == "file"}
        self.files[name] = {path: base64.b64decode(text) for path, text in content.items()}
        address = f"https://huggingface.co/{name}/commit/1"
        return self._reply(200, {"commitUrl": address, "commitOid": "1" * 40, "hookOutput": ""})


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    _Hub.private["org/public"] = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


_PUSH = """
import json, sys
from llamaindex_code_retrieval.training import push_run
answers = []
for repository, public in (("org/new", False), ("org/public", False), ("org/public", True), ("org/open", True)):
    try:
        answers.append(push_run(sys.argv[1], repository, public=public))
    except ValueError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(hub: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("run")
    records: dict[str, Any] = {
        "adapter_config.json": {"base_model_name_or_path": f"{MACHINE}/base", "target_modules": r".*\.(query|key)"},
        "reranker.json": {"variant": "adapters", "base": {"name": f"{MACHINE}/base", "fingerprint": "0"}},
        "train_config.json": {"base": {"name": "base"}, "adapter": {"method": "lora"}, "start": f"{MACHINE}/start"},
    }
    for name, record in records.items():
        (folder / name).write_text(json.dumps(record))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / STATE).write_bytes(b"state")
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events").write_bytes(b"events")
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_x"}
    done = subprocess.run(
        [sys.executable, "-c", _PUSH, str(folder)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: list[str] = json.loads(done.stdout)
    return answers


def test_a_new_repository_is_private(answers: list[str]) -> None:
    assert answers[0] == "https://huggingface.co/org/new/commit/1"
    assert _Hub.private["org/new"] is True


def test_a_public_repository_takes_what_is_pushed_publicly_only(answers: list[str]) -> None:
    assert "was not pushed: org/public is public; name a private repository, or push with public=True" in answers[1]
    assert answers[2] == "https://huggingface.co/org/public/commit/1"
    assert answers[3] == "https://huggingface.co/org/open/commit/1"
    assert _Hub.private["org/open"] is False


def test_what_is_pushed_names_no_path_of_the_machine(answers: list[str]) -> None:
    files = _Hub.files["org/new"]
    names = {"adapter_config.json", "adapter_model.safetensors", "reranker.json", "train_config.json"}
    assert files.keys() == names
    assert not any(MACHINE.encode() in content for content in files.values())
    config = json.loads(files["adapter_config.json"])
    assert config == {"base_model_name_or_path": "base", "target_modules": r".*\.(query|key)"}
    assert json.loads(files["reranker.json"])["base"] == {"name": "base", "fingerprint": "0"}
    assert json.loads(files["train_config.json"])["start"] == "start"


@pytest.mark.parametrize("name", ["name", "org/name/more", "org/na me", "", "org/name@main", "./name"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a repository on the hub; give it as org/name"):
        check_repository_name(name)


@pytest.mark.parametrize("command", ["train", "train-reranker", "distil"])
def test_names_are_checked_before_the_work(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [command, "--pairs", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--push", "name"]) == 2
    assert "'name' is not the name of a repository on the hub" in capsys.readouterr().err
    assert main([*arguments, "--public"]) == 2
    assert "--public has no effect without --push" in capsys.readouterr().err
