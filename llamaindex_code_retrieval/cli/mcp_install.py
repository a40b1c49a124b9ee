"""The configuration by which coding agents start ``code-retrieval mcp``: show it, or add it to their file."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import write_atomically

NAME = "code-retrieval"
"""Of the server, in the configuration of agents."""
_PROGRAM = "code-retrieval"
_ADVICE = "mend it, or add by hand what is printed without --write"


@dataclass(frozen=True, slots=True)
class Agent:
    """Where an agent looks for servers, and how it names them."""

    title: str
    file: Callable[[], Path]
    table: str
    """The key of the servers in the file, which is JSON, or TOML for a name that ends with ".toml"."""
    has_type: bool = False
    """Whether an entry says that it is a server over stdio."""
    hint: str = ""
    """What to do after the file was written."""

    def entry(self, command: Sequence[str]) -> dict[str, Any]:
        """Return what is below the name of the server."""
        kind = {"type": "stdio"} if self.has_type else {}
        return {**kind, "command": command[0], "args": list(command[1:])}


def _desktop_file() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Claude" / "claude_desktop_config.json"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home())) / "Claude" / "claude_desktop_config.json"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "Claude" / "claude_desktop_config.json"


AGENTS = {
    "claude-code": Agent(
        "Claude Code",
        lambda: Path.cwd() / ".mcp.json",
        "mcpServers",
        has_type=True,
        hint="start `claude` in this folder and approve the server; /mcp shows its state",
    ),
    "claude-desktop": Agent(
        "Claude Desktop", _desktop_file, "mcpServers", hint="quit Claude Desktop and start it again"
    ),
    "codex": Agent(
        "Codex",
        lambda: Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex") / "config.toml",
        "mcp_servers",
        hint="start `codex` again; /mcp shows its state",
    ),
    "copilot": Agent(
        "GitHub Copilot in VS Code",
        lambda: Path.cwd() / ".vscode" / "mcp.json",
        "servers",
        has_type=True,
        hint="open the file in VS Code and choose Start above the server",
    ),
    "cursor": Agent(
        "Cursor",
        lambda: Path.cwd() / ".cursor" / "mcp.json",
        "mcpServers",
        hint="switch the server on in Settings, under MCP",
    ),
    "gemini-cli": Agent(
        "Gemini CLI",
        lambda: Path.cwd() / ".gemini" / "settings.json",
        "mcpServers",
        hint="start `gemini` in this folder; /mcp shows its state",
    ),
}
AGENTS["vscode"] = AGENTS["copilot"]


def install(name: str, arguments: Sequence[str], *, write: bool) -> str:
    """Return the configuration that makes an agent run ``code-retrieval`` with ``arguments``, and where it goes.

    With ``write`` it is added to the file, whose other entries stay.

    Raises:
        ValueError: the file is not valid JSON or TOML, or has a table of this name in TOML.
        OSError: it cannot be read or written.
    """
    agent = AGENTS[name]
    file = agent.file()
    entry = agent.entry([*_command(), *arguments])
    is_toml = file.suffix == ".toml"
    snippet = _toml(agent.table, entry) if is_toml else _json({agent.table: {NAME: entry}})
    if not write:
        return f"{agent.title} reads {file}. Add this to it, or run the same command with --write:\n\n{snippet}"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    merged = _with_table(old, snippet, agent, file) if is_toml else _with_entry(old, entry, agent, file)
    if merged == old:
        return f"{file} has this server already."
    target = file.resolve()  # a link to a file that is kept elsewhere stays one
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = target.stat().st_mode if target.exists() else None
    write_atomically(target, merged)
    if mode is not None:
        target.chmod(mode)
    return f"Added the server to {file}. Next: {agent.hint}.\n\n{snippet}"


def _command() -> list[str]:
    """Return how this program is started from any folder, with the search path of an agent that has a window."""
    script = Path(sys.argv[0])
    if script.name.removesuffix(".exe") == _PROGRAM and script.is_absolute() and script.exists():
        return [str(script)]
    return [sys.executable, "-m", "llamaindex_code_retrieval.cli"]


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _with_entry(old: str, entry: dict[str, Any], agent: Agent, file: Path) -> str:
    """Return the JSON of a file with the entry added or replaced."""
    try:
        content = json.loads(old) if old.strip() else {}
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); {_ADVICE}") from None
    servers = content.setdefault(agent.table, {}) if isinstance(content, dict) else None
    if not isinstance(servers, dict):
        raise ValueError(
            f"{file} has no object {agent.table!r} for servers; mend it, or add by hand what --install prints"
        )
    if servers.get(NAME) == entry:
        return old
    servers[NAME] = entry
    return f"{_json(content)}\n"


def _toml(table: str, entry: dict[str, Any]) -> str:
    values = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items())
    return "\n".join([f"[{table}.{NAME}]", *values])


def _with_table(old: str, snippet: str, agent: Agent, file: Path) -> str:
    """Return the TOML of a file with the table after all others, so that comments stay where they are."""
    try:
        content = tomllib.loads(old)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not valid TOML ({error}); {_ADVICE}") from None
    servers = content.get(agent.table, {})
    if isinstance(servers, dict) and NAME in servers:
        if servers[NAME] == tomllib.loads(snippet)[agent.table][NAME]:
            return old
        raise ValueError(f"{file} has another [{agent.table}.{NAME}]; remove it first, or change it by hand")
    merged = f"{old.rstrip()}\n\n{snippet}\n".lstrip()
    try:
        tomllib.loads(merged)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"a table cannot be added to {file} ({error}); {_ADVICE}") from None
    return merged
