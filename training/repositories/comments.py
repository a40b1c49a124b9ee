"""Turn doc comments into queries: the first paragraph as plain text, without markup and links."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HTML = "a|b|i|u|em|strong|code|tt|pre|p|br|hr|ul|ol|li|dl|dt|dd|h[1-6]|div|span|table|tr|td|th|sup|sub|kbd|var|small|c"
_XML = "see|seealso|para|paramref|typeparamref|summary|remarks|returns|param|typeparam|exception|value|example"
_BREAK = re.compile(r"\s*<(?:p|br|ul|ol|li|dl|pre|h[1-6]|table)\s*/?>", re.IGNORECASE)
_TAG = re.compile(rf"</?(?:{_HTML}|{_XML}|inheritdoc)(?:\s[^<>]*)?/?>", re.IGNORECASE)
# tags that introduce the description; all other tags end it
_DESCRIPTION_TAG = re.compile(
    r"^\s*[@\\](?:brief|short|desc|description|summary|details|abstract)\b[ \t]*:?", re.IGNORECASE
)
_SECTION = re.compile(
    r"""\s*(?:
        [@\\][A-Za-z!]\w*\b(?!\.)                       # Javadoc, JSDoc, PHPDoc, YARD, Doxygen: @param
      | :(?:param|parameter|arg|type|returns?|rtype|raises?|except|yields?|ivar|var|cvar|keyword|kwarg|meta)\b.*:
      | (?:args|arguments?|parameters?|params|returns?|raises|yields?|examples?|usage|notes?|attributes|keyword\ args
          |inputs?|outputs?|see\ also|references|throws|warnings?|todo|safety|panics|errors):\s*$
      | >>>\s | \.\.\s | ```|~~~ | \#{1,6}\s+\w | =+\s | :call-seq:|call-seq:
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_UNDERLINE = re.compile(r"\s*[-=~^]{3,}\s*$")
_SIGNATURE = re.compile(r"[\w.:]+\s?\([^)]*\)?[^.]*(?:->.*)?$")
_INLINE = (
    (re.compile(r"\{@inheritDoc\}", re.IGNORECASE), ""),
    (re.compile(r"\{@(?:link|linkplain|see|tutorial)\s+([^\s{}|]+)[\s|]+([^{}]+)\}"), r"\2"),  # its label
    (re.compile(r"\{@(?:link|linkplain|see|value|code|literal|tutorial)\s+#?([^{}]*)\}"), r"\1"),
    (re.compile(r"!\[[^\[\]]*\](?:\([^()]*\)|\[[^\[\]]*\])"), ""),  # Markdown images
    (re.compile(r"\[([^\[\]]+)\]\(\s*<?[\w.:#/-](?:[^()]|\([^()]*\))*\)"), r"\1"),  # Markdown links
    (re.compile(r"\[([^\[\]]+)\]\[[^\[\]]*\]"), r"\1"),
    (re.compile(r":(?:[\w+-]+:)+`!?([^`<]+?)\s*<[^`<>]*>`"), r"\1"),  # reST, with a title
    (re.compile(r":(?:[\w+-]+:)+`~[^`]*?([^`.]+)`"), r"\1"),
    (re.compile(r":(?:[\w+-]+:)+`!?([^`]+)`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`<>]*>`_+"), r"\1"),
    (re.compile(r"\s?\[[\w#*]+\]_(?!\w)"), ""),  # footnotes
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"\[`([^`]+)`\]"), r"\1"),  # Rust
    (re.compile(r"(?<![\w\])])\[\*?([A-Za-z_][\w.:/]*(?:\(\))?)\](?![\w(\[])"), r"\1"),  # doc links of Go and Rust
    (re.compile(r"`([^`]+)`_*"), r"\1"),
    (re.compile(r"\b[LCIBM]\{([^{}]*)\}"), r"\1"),  # Epytext
    (re.compile(r"(?<!\w)\{(?:rdoc-ref:)?([A-Z#:][\w:#.?!]*)\}"), r"\1"),  # YARD
    (re.compile(r"(?<!\S)\+([\w:#.?!@]+)\+(?!\w)"), r"\1"),  # RDoc
    (re.compile(r"(?<!\S)[@\\](?:a|c|p|e|em|b|ref|ingroup)\s+(?=\w)"), ""),  # Doxygen
    (re.compile(r"(?<![\w*])\*\*(?=\S)([^*]+?)(?<=\S)\*\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*]+?)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"\s?%\(\w+\)s"), ""),  # placeholders that are filled in at import
    (re.compile(r"&lt;"), "<"),
    (re.compile(r"&gt;"), ">"),
    (re.compile(r"&nbsp;"), " "),
    (re.compile(r"&amp;"), "&"),
)


_URL = r"""<?(?:\b[A-Za-z][A-Za-z0-9+.-]{1,15}://|\bwww\.)
    (?:[^\s<>()]|\([^\s<>()]*\))*
    (?:[^\s<>()\[\]{}.,;:!?'"`]|\([^\s<>()]*\))>?"""
_INTRODUCTION = r"""(?:(?:as\s+)?(?:described|documented|defined|specified|explained|available|found)\s+)?
    (?:(?:see(?:\s+also)?|at|from|in|via|on|of|to|under|by|visit|refer\s+to|here)\b|cf\.|e\.g\.,?):?\s+"""
_LABEL = r"\w+(?:[\s-]\w+){0,3}"
_DETAILS = r"""\s+for\s+(?:(?:more|further|full|additional|the|an?)\s+)*
    (?:details?|info\w*|doc\w*|examples?|reference|explanation)\b"""
_LINK = re.compile(rf"(?:(?<=[.!?]\s){_LABEL}:\s+|\b{_INTRODUCTION})?{_URL}(?:{_DETAILS})?", re.IGNORECASE | re.VERBOSE)
_LINK_LINE = re.compile(
    rf"(?:[-*+•>]\s+)?(?:{_LABEL}\s*(?:[:=]+|-)\s*|{_INTRODUCTION})?{_URL}\W*", re.IGNORECASE | re.VERBOSE
)
_LINK_DEFINITION = re.compile(r"\s*(?:\[([^\[\]]+)\]:|\.\.\s+_[^:]+:)\s*\S+")  # of Markdown, Go and reST
_LEFT_BY_LINKS = (
    (re.compile(r"(?:^|(?<=\s))[(\[](?:[\s,;:.]|\band\b|\bor\b)*[)\]]"), ""),
    (re.compile(r"\s+(?=[.,;:!?)](?:\s|$))"), ""),
    (re.compile(r"(?<=[.!?])\s*[.,;:]+(?=\s|$)"), ""),
    (re.compile(r"^[\s.,;:]+|[\s,;:(=-]+$"), ""),
)


def remove_links(text: str) -> str:
    """Return ``text`` without URLs and the words that only introduce them; text without URLs is returned unchanged.

    >>> remove_links("Parses a date (see https://example.org/dates). Play: https://example.org/play/1")
    'Parses a date.'
    """
    without = _LINK.sub("", text)
    if without == text:
        return text
    for pattern, replacement in _LEFT_BY_LINKS:
        without = pattern.sub(replacement, without)
    return " ".join(without.split())


def summary(docstring: str) -> str:
    """Return the first paragraph of a doc comment as one line of plain text, without sections, tags, markup and links.

    The text of a Markdown, reST or HTML link and the name in a Go doc link are kept; URLs are removed. A paragraph
    that only repeats the signature, or only holds a link, is skipped.

    >>> summary("Returns the {@link Cart#total total} of <b>all</b> items.\\n\\n@param tax in percent")
    'Returns the total of all items.'
    >>> summary("total(tax) -> float\\n\\nSum of ``prices`` in a :class:`~shop.Cart`.\\n:param tax: in percent")
    'Sum of prices in a Cart.'
    """
    text = _TAG.sub("", _BREAK.sub("\n\n", docstring.replace("\r\n", "\n")))
    for paragraph in _paragraphs(text):
        for pattern, replacement in _INLINE:
            paragraph = pattern.sub(replacement, paragraph)
        plain = " ".join(remove_links(paragraph).split())
        is_link = _LINK_LINE.fullmatch(paragraph) and len(plain.split()) < 3
        if plain and not is_link and not _SIGNATURE.fullmatch(plain):
            return plain
    return ""


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a doc comment up to its first section or tag, each as one line."""
    labels = {match[1] for match in map(_LINK_DEFINITION.match, text.split("\n")) if match and match[1]}
    lines: list[str] = []
    all_lines = text.strip().split("\n")
    for line, following in zip(all_lines, [*all_lines[1:], ""], strict=True):
        line = _DESCRIPTION_TAG.sub("", line)
        if _SECTION.match(line) or (line.strip() and _UNDERLINE.match(following)):
            break
        if line.strip():
            is_link = _LINK_DEFINITION.match(line) or (lines and _LINK_LINE.fullmatch(line.strip()))
            if not is_link:
                lines.append(line.strip())
        elif lines:
            yield _join(lines, labels)
            lines = []
    if lines:
        yield _join(lines, labels)


def _join(lines: list[str], labels: set[str]) -> str:
    """Return the lines as one, without the brackets around the ``labels`` of links that are defined elsewhere."""
    return re.sub(r"\[([^\[\]]+)\]", lambda match: match[1] if match[1] in labels else match[0], " ".join(lines))
