"""Text made safe for XML, HTML and Markdown."""

from __future__ import annotations

import html
import re

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """Return ``text`` with a replacement character for each character that XML does not allow."""
    return _NOT_XML.sub("�", text)


def html_text(text: str) -> str:
    """Return ``text`` escaped for HTML.

    >>> html_text("<b>")
    '&lt;b&gt;'
    """
    return html.escape(xml_text(text))


def markdown_text(text: str) -> str:
    r"""Return ``text`` as one line that can stand in a cell of a Markdown table.

    >>> print(markdown_text("a|b\n<b>"))
    a\|b &lt;b>
    """
    escaped = xml_text(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(escaped.split())
