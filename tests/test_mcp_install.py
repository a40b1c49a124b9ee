"""The configuration of agents: shown, or added to a file whose other entries stay."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from conftest import Shell


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "CODEX_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_a_configuration_is_only_shown(shell: Shell, tmp_path: Path) -> None:
    text = shell("mcp", "--install", "claude-code", ".", "--read-only")
    snippet = json.loads(text.partition("\n\n")[2])
    entry = snippet["mcpServers"]["code-retrieval"]
    assert entry["type"] == "stdio"
    assert entry["args"][-3:] == ["mcp", str(tmp_path), "--read-only"]
    assert f"Claude Code reads {tmp_path / '.mcp.json'}" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("agent", "file", "table"),
    [
        ("claude-code", ".mcp.json", "mcpServers"),
        ("cursor", ".cursor/mcp.json", "mcpServers"),
        ("vscode", ".vscode/mcp.json", "servers"),
        ("copilot", ".vscode/mcp.json", "servers"),
        ("gemini-cli", ".gemini/settings.json", "mcpServers"),
        ("claude-desktop", "home/.config/Claude/claude_desktop_config.json", "mcpServers"),
    ],
)
def test_other_entries_of_a_file_stay(shell: Shell, tmp_path: Path, agent: str, file: str, table: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    other = {"theme": "é", table: {"other": {"command": "x"}}}
    path.write_text(json.dumps(other))
    path.chmod(0o600)
    assert "Added the server" in shell("mcp", "--install", agent, ".", "--write")
    content = json.loads(path.read_text())
    assert content[table].pop("code-retrieval")["args"][-2:] == ["mcp", str(tmp_path)]
    assert content == other
    assert path.stat().st_mode & 0o777 == 0o600
    assert "has this server already" in shell("mcp", "--install", agent, ".", "--write")
    shell("mcp", "--install", agent, ".", "--write", "--model", "embedded-static")
    assert json.loads(path.read_text())[table]["code-retrieval"]["args"][-1] == "embedded-static"


def test_toml_keeps_its_comments(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "home" / ".codex" / "config.toml"
    assert "Added the server" in shell("mcp", "--install", "codex", ".", "--write")
    first = tomllib.loads(path.read_text())["mcp_servers"]["code-retrieval"]
    assert first["args"][-2:] == ["mcp", str(tmp_path)]
    path.write_text('# mine\nmodel = "x"  # the best\n\n[mcp_servers.other]\ncommand = "y"')
    shell("mcp", "--install", "codex", ".", "--write")
    assert path.read_text().startswith('# mine\nmodel = "x"  # the best\n\n[mcp_servers.other]\ncommand = "y"\n\n[')
    assert tomllib.loads(path.read_text())["mcp_servers"].keys() == {"other", "code-retrieval"}
    assert "has this server already" in shell("mcp", "--install", "codex", ".", "--write")
    shell.fails("mcp", "--install", "codex", "--write", says="has another [mcp_servers.code-retrieval]")


@pytest.mark.parametrize(
    ("agent", "file", "content", "says"),
    [
        ("cursor", ".cursor/mcp.json", '{"mcpServers": {}} // mine', "is not valid JSON"),
        ("cursor", ".cursor/mcp.json", "[]", "has no object 'mcpServers'"),
        ("cursor", ".cursor/mcp.json", '{"mcpServers": []}', "has no object 'mcpServers'"),
        ("codex", "home/.codex/config.toml", "model = ", "is not valid TOML"),
        ("codex", "home/.codex/config.toml", "mcp_servers = {}", "a table cannot be added"),
    ],
)
def test_a_file_that_cannot_be_extended_stays_as_it_is(
    shell: Shell, tmp_path: Path, agent: str, file: str, content: str, says: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    shell.fails("mcp", "--install", agent, "--write", says=says)
    assert path.read_text() == content
