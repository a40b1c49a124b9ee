"""Definitions that Universal Ctags finds, in the kinds of this package: the reference of ``definitions.py``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_ANONYMOUS = re.compile(r"__anon|Anonymous(?:Class|Function)[0-9a-f]{8}")


class Tag(NamedTuple):
    """A definition of a reference; ``line`` is that of the name. One that is not ``required`` may be left out."""

    kind: str
    name: str
    line: int
    required: bool
    reference_kind: str


@dataclass(frozen=True, slots=True)
class CtagsLanguage:
    """A parser of ctags, and the kinds of its tags that are compared.

    ``optional`` kinds are no fault if they are left out and none if they are found.
    """

    parser: str
    function: str = ""
    method: str = ""
    type: str = ""
    optional: str = ""

    def kind(self, kind: str, scope_kind: str) -> str | None:
        """Return the kind of a definition of this package, ``None`` for tags that are not compared."""
        if kind in self.function.split() or kind in self.optional.split():
            return "method" if scope_kind in self.type.split() else "function"
        if kind in self.method.split():
            return "method"
        return "class" if kind in self.type.split() else None


CTAGS: Mapping[str, CtagsLanguage] = {
    "python": CtagsLanguage("Python", "function", "member", "class"),
    "java": CtagsLanguage("Java", "", "method", "class interface enum annotation"),
    "javascript": CtagsLanguage(
        "JavaScript", "function generator", "method getter setter", "class", "constant variable property field"
    ),
    "typescript": CtagsLanguage(
        "TypeScript",
        "function generator",
        "method",
        "class interface enum alias namespace",
        "constant variable property",
    ),
    "go": CtagsLanguage("Go", "func", "", "struct interface type talias", "methodSpec"),
    "php": CtagsLanguage("PHP", "function", "", "class interface trait"),
    "ruby": CtagsLanguage("Ruby", "", "method singletonMethod", "class module", "alias accessor constant"),
    "rust": CtagsLanguage("Rust", "function macro", "method", "struct enum interface implementation typedef module"),
    "c": CtagsLanguage("C", "function", "", "struct union enum typedef", "macro prototype"),
    "cpp": CtagsLanguage("C++", "function", "", "class struct union enum typedef", "macro prototype alias"),
    "csharp": CtagsLanguage("C#", "", "method property", "class interface struct enum", "event typedef"),
    "kotlin": CtagsLanguage("Kotlin", "", "method", "class interface object typealias"),
    "lua": CtagsLanguage("Lua", "function"),
    "bash": CtagsLanguage("Sh", "function"),
    "elixir": CtagsLanguage(
        "Elixir", "function macro guard delegate operator", "", "module protocol implementation", "callback test type"
    ),
    "sql": CtagsLanguage("SQL", "function procedure trigger", "", "table view package", "index domain subtype"),
    "r": CtagsLanguage("R", "function functionVar method generic", "", "class"),
    "julia": CtagsLanguage("Julia", "function macro", "", "struct type module"),
    "objc": CtagsLanguage(
        "ObjectiveC", "function", "method", "interface implementation protocol category", "typedef struct enum property"
    ),
    "ocaml": CtagsLanguage("OCaml", "function", "method", "class module type", "val var Exception"),
    "perl": CtagsLanguage("Perl", "subroutine", "", "package", "constant subroutineDeclaration"),
    "protobuf": CtagsLanguage("Protobuf", "", "rpc", "message enum service", "oneof"),
}


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
            path.write_text(source, encoding="utf-8", errors="replace")
        done = subprocess.run(command, input="\n".join(map(str, paths)).encode(), capture_output=True)
    if done.returncode:
        raise RuntimeError(f"ctags failed for {language}: {done.stderr.decode(errors='replace')[-500:]}")
    found: list[set[Tag]] = [set() for _ in sources]
    for line in done.stdout.decode(errors="replace").splitlines():
        record = json.loads(line)
        kind = rules.kind(record.get("kind", ""), record.get("scopeKind", ""))
        if kind and not _ANONYMOUS.match(record["name"]):
            required = record["kind"] not in rules.optional.split()
            found[int(Path(record["path"]).stem)].add(
                Tag(kind, record["name"], record["line"], required, record["kind"])
            )
    return [sorted(tags, key=lambda tag: (tag.line, tag.name)) for tags in found]
