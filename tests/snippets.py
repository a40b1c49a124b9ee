"""The samples of each language: ``languages/NAME/sample.EXTENSION``, and the outline of each in a ``.txt`` beside it.

``python tests/snippets.py FILE …`` writes the outline of samples; read what it wrote before you commit it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llamaindex_code_retrieval.languages.syntax import Definition, definitions

FOLDER = Path(__file__).parent / "languages"
SAMPLES = sorted(file for file in FOLDER.glob("*/*") if file.suffix != ".txt" or file.stem == "sample")
SNIPPETS = {file.parent.name: file.read_bytes().decode() for file in SAMPLES if file.stem in ("sample", "Dockerfile")}
"""A source of each language."""


def outline_file(sample: Path) -> Path:
    """Return the file with the outline of a sample."""
    return sample.with_name(f"{sample.name}.txt")


def describe(found: list[Definition]) -> str:
    """Return a line for each definition: first and last line, kind, scope and docstring.

    A line break in a docstring is written as a backslash and an n; ``prototype`` stands before a function without a
    body.
    """
    return "".join(
        f"{d.start_line}-{d.end_line} {'prototype ' * d.is_prototype}{d.kind} {d.scope}"
        + (f" | {d.docstring}".replace("\\", "\\\\").replace("\n", "\\n") if d.docstring else "")
        + "\n"
        for d in found
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        sample = Path(name)
        found = definitions(sample.read_bytes().decode(), sample.resolve().parent.name)
        outline_file(sample).write_text(describe(found), encoding="utf-8")
