"""Reports for reading: Markdown for a pull request, JUnit XML for CI, and one HTML page for a browser.

All show the same tables. The page adds charts, changed queries and example answers, and loads nothing from elsewhere.
Imports no torch.
"""

from __future__ import annotations

from llamaindex_code_retrieval.eval.report.curves import curve_html, curve_markdown
from llamaindex_code_retrieval.eval.report.junit import junit
from llamaindex_code_retrieval.eval.report.markdown import markdown
from llamaindex_code_retrieval.eval.report.page import html

__all__ = ["curve_html", "curve_markdown", "html", "junit", "markdown"]
