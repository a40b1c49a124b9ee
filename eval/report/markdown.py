"""A report in Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from llamaindex_code_retrieval.eval.report.tables import report_sections, verdict
from llamaindex_code_retrieval.eval.report.text import markdown_text
from llamaindex_code_retrieval.eval.results import Comparison, Report


def markdown(report: Report, comparisons: Sequence[Comparison] = ()) -> str:
    """Return the tables of a report, below the verdict if there are comparisons."""
    blocks = [f"## Code retrieval: {markdown_text(report.suite)}"]
    if comparisons:
        blocks.append(f"**{verdict(comparisons)}**")
    blocks.append(markdown_text(f"{report.date}, {report.machine}"))
    for section in report_sections(report, comparisons, intervals=False):
        blocks += section.markdown()
    return "\n\n".join(blocks) + "\n"
