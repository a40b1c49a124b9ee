"""Definitions that Universal Ctags finds, in the kinds of this package: the reference of ``definitions.py``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

_LATE = 10  # lines between a name and the line that ctags may report
_ANONYMOUS = re.compile(r"__anon|anonFunc[0-9a-f]{12}|Anonymous(?:Class|Function)[0-9a-f]{8}")


class Tag(NamedTuple):
    """A definition of a reference; ``line`` is that of the name. One that is not ``required`` may be left out."""

    kind: str
    name: str
    line: int
    required: bool
    reference_kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CtagsLanguage:
    """A parser of ctags, and the kinds of its tags that are compared.

    ``optional`` kinds are no fault if they are left out and none if they are found, like the methods of ``abstract``
    kinds. ``required_lines`` has a regular expression for kinds that count as optional unless it finds a match in the
    source line. The group ``blank`` of ``blanked`` is replaced by spaces before ctags reads a source.
    """

    parser: str
    function: str = ""
    method: str = ""
    type: str = ""
    optional: str = ""
    abstract: str = ""
    required_lines: Mapping[str, str] = field(default_factory=dict)
    blanked: str = ""

    def tag(self, record: Mapping[str, Any], line: str) -> Tag | None:
        """Return the tag of a record of ctags, ``None`` for a kind that is not compared."""
        kind = record.get("kind", "")
        in_class = record.get("scopeKind", "") in self.type.split()
        if kind in self.function.split():
            ours = "method" if in_class else "function"
        elif kind in self.method.split():
            ours = "method"
        elif kind in self.type.split() or kind in self.optional.split():
            ours = "class"
        else:
            return None
        required = kind not in self.optional.split() and record.get("scopeKind") not in self.abstract.split()
        if required and kind in self.required_lines:
            pattern = self.required_lines[kind].replace("{name}", re.escape(record["name"]))
            required = re.search(pattern, line) is not None
        return Tag(ours, record["name"], record["line"], required, kind)


_FUNCTION = r"(?:async\b\s*)?(?:function\b|(?:<.*>)?(?:\([^()]*\)|\w+)(?:\s*:\s*[^=]+)?\s*=>)"
_ASSIGNED = rf"(?<!\w){{name}}\s*(?::[^=]+)?=\s*{_FUNCTION}"
_HEREDOC = r"<<[~-]?(?P<quote>['\"]?)(?P<end>[A-Z_]\w*)(?P=quote)[^\n]*\n(?P<blank>.*?^[ \t]*(?P=end)\b)"

_MARKUP = r"(?i)(?P<blank>(?:\A|</script\s*>).*?(?:<script\b[^>]*>|\Z))"

_TYPESCRIPT = CtagsLanguage(
    parser="TypeScript",
    function="function generator constant variable property",
    method="method",
    type="class interface enum alias namespace",
    abstract="interface",
    required_lines={
        "constant": _ASSIGNED,
        "variable": _ASSIGNED,
        "property": _ASSIGNED,
        "function": r"^(?!.*\bdeclare\b)",
        "method": r"^(?!.*\babstract\b)",
    },
)
_SCRIPTS = replace(_TYPESCRIPT, blanked=_MARKUP)
CTAGS: Mapping[str, CtagsLanguage] = {
    "python": CtagsLanguage(parser="Python", function="function", method="member", type="class"),
    "java": CtagsLanguage(parser="Java", method="method", type="class interface enum annotation"),
    "javascript": CtagsLanguage(
        parser="JavaScript",
        function="function generator constant variable property field",
        method="method getter setter",
        type="class",
        required_lines={
            "constant": _ASSIGNED,
            "variable": _ASSIGNED,
            "property": rf"(?<!\w){{name}}\s*[=:]\s*{_FUNCTION}",
            "field": _ASSIGNED,
            "class": r"\bclass\b",  # objects are classes too
        },
    ),
    "typescript": _TYPESCRIPT,
    "vue": _SCRIPTS,
    "svelte": _SCRIPTS,
    "html": _SCRIPTS,
    "go": CtagsLanguage(
        parser="Go",
        function="func methodSpec",
        type="struct interface type talias",
        required_lines={"methodSpec": "$^"},
    ),
    "php": CtagsLanguage(parser="PHP", function="function", type="class interface trait"),
    "ruby": CtagsLanguage(
        parser="Ruby",
        method="method singletonMethod",
        type="class module",
        optional="alias accessor constant",
        blanked=_HEREDOC,
    ),
    "rust": CtagsLanguage(
        parser="Rust",
        function="function macro",
        method="method",
        type="struct enum interface implementation typedef module",
        required_lines={"module": r"\{", "typedef": r"^(?:pub\b.*)?type\b"},
    ),
    "c": CtagsLanguage(
        parser="C",
        function="function prototype macro",
        type="struct union enum typedef",
        required_lines={"prototype": "$^", "macro": "$^", "typedef": r"^\s*\}\s*{name}\b"},
    ),
    "cpp": CtagsLanguage(
        parser="C++",
        function="function prototype macro",
        type="class struct union enum typedef",
        optional="alias",
        required_lines={"prototype": "$^", "macro": "$^", "typedef": r"^\s*\}\s*{name}\b"},
    ),
    "cuda": CtagsLanguage(
        parser="C++",
        function="function prototype macro",
        type="class struct union enum typedef",
        optional="alias",
        required_lines={"prototype": "$^", "macro": "$^", "typedef": r"^\s*\}"},
        blanked=r"\b(?P<blank>__(?:global|device|host|forceinline|noinline|launch_bounds|shared|constant|restrict)__"
        r"(?:\([^()\n]*\))?)|(?P<blank2><<<[^;{}]*?>>>)",
    ),
    "csharp": CtagsLanguage(
        parser="C#",
        method="method property",
        type="class interface struct enum",
        optional="event typedef",
        required_lines={"property": r"^(?!.*\b(?:get|init);).*(?:=>|\{\s*get\s*\{)"},
    ),
    "kotlin": CtagsLanguage(parser="Kotlin", function="method", type="class interface object typealias"),
    "lua": CtagsLanguage(parser="Lua", function="function"),
    "bash": CtagsLanguage(parser="Sh", function="function", blanked=_HEREDOC),
    "elixir": CtagsLanguage(
        parser="Elixir",
        function="function macro guard delegate operator",
        type="module protocol implementation",
        optional="callback test type exception record",
        blanked=r'~[sS][({\[](?P<blank>.*?)^\s*[)}\]]|"""[ \t]*\n(?P<blank2>.*?)^[ \t]*"""',
    ),
    "sql": CtagsLanguage(
        parser="SQL", function="function procedure trigger", type="table view package", optional="index domain subtype"
    ),
    "r": CtagsLanguage(parser="R", function="function method generic", type="class"),
    "julia": CtagsLanguage(parser="Julia", function="function macro", type="struct type module"),
    "objectivec": CtagsLanguage(
        parser="ObjectiveC",
        function="function",
        method="method class",
        type="interface implementation protocol",
        optional="typedef struct enum",
    ),
    "perl": CtagsLanguage(
        parser="Perl",
        function="subroutine",
        type="package",
        optional="constant subroutineDeclaration",
        blanked=_HEREDOC,
    ),
    "protobuf": CtagsLanguage(parser="Protobuf", method="rpc", type="message enum service", optional="oneof"),
}


def _blank(match: re.Match[str]) -> str:
    blank = "blank" if match["blank"] is not None else "blank2"
    start, end = (place - match.start() for place in match.span(blank))
    return match[0][:start] + re.sub(r"[^\n]", " ", match[blank]) + match[0][end:]


def _line_of_name(lines: Sequence[str], name: str, line: int) -> int:
    """Return ``line``, or the nearest line above it with the name if it has none: ctags may report a line too late."""
    parts = re.split(r"::|[.:\\ ]", name.rstrip(":"))
    name = parts[0 if name.endswith(":") else -1]  # a selector of Objective-C starts with its name
    for number in range(line, max(0, line - _LATE), -1):
        if re.search(rf"(?<!\w){re.escape(name)}" if name[:1].isalnum() else re.escape(name), lines[number - 1]):
            return number
    return line


def ctags_definitions(sources: Sequence[str], language: str, *, extension: str) -> list[list[Tag]]:
    """Return the definitions that ctags finds in each source, in the order of their lines."""
    program = shutil.which("ctags")
    if program is None:
        raise RuntimeError("ctags is not installed; install Universal Ctags, e.g. with `apt install universal-ctags`")
    rules = CTAGS[language]
    command = [program, "--options=NONE", "--quiet", "--output-format=json", "--fields=+neKZ", "--kinds-all=*"]
    command += [f"--language-force={rules.parser}", "-L", "-", "-f", "-"]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.{extension}") for number in range(len(sources))]
        for path, source in zip(paths, sources, strict=True):
            code = re.sub(rules.blanked, _blank, source, flags=re.DOTALL | re.MULTILINE) if rules.blanked else source
            path.write_text(code, encoding="utf-8", errors="replace")
        done = subprocess.run(command, input="\n".join(map(str, paths)).encode(), capture_output=True)
    if done.returncode:
        raise RuntimeError(f"ctags failed for {language}: {done.stderr.decode(errors='replace')[-500:]}")
    lines = [source.split("\n") for source in sources]
    found: list[set[Tag]] = [set() for _ in sources]
    for line in done.stdout.decode(errors="replace").splitlines():
        record = json.loads(line)
        number = int(Path(record["path"]).stem)
        record["line"] = _line_of_name(lines[number], record["name"], record["line"])
        tag = rules.tag(record, lines[number][record["line"] - 1])
        if tag and not _ANONYMOUS.match(tag.name):
            found[number].add(tag)
    return [sorted(tags, key=lambda tag: (tag.line, tag.name)) for tags in found]
