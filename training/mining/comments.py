"""Doc comments to queries: the first paragraph in plain words, and whether a person would ask it."""

from __future__ import annotations

import re
from itertools import takewhile

_HTML = "a|b|i|u|em|strong|code|tt|pre|p|br|hr|ul|ol|li|dl|dt|dd|h[1-6]|div|span|table|tr|td|th|sup|sub|kbd|var|small|c"
_XML = "see|seealso|para|paramref|typeparamref|summary|remarks|returns|param|typeparam|exception|value|example"
_BREAK = re.compile(r"\s*<(?:p|br|ul|ol|li|dl|pre|h[1-6]|table)\s*/?>", re.IGNORECASE)
_TAG = re.compile(rf"</?(?:{_HTML}|{_XML}|inheritdoc)(?:\s[^<>]*)?/?>", re.IGNORECASE)
# what stands before the description's words, rather than behind them
_LEAD = re.compile(r"^\s*[@\\](?:brief|short|desc|description|summary|details|abstract)\b[ \t]*:?", re.IGNORECASE)
_END = re.compile(
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
    (re.compile(r"\[([^\[\]]+)\]\(\s*[\w.:#/-]+[^()\s]*\)"), r"\1"),  # Markdown
    (re.compile(r":(?:[\w+-]+:)+`!?([^`<]+?)\s*<[^`<>]*>`"), r"\1"),  # reST, with a title
    (re.compile(r":(?:[\w+-]+:)+`~[^`]*?([^`.]+)`"), r"\1"),
    (re.compile(r":(?:[\w+-]+:)+`!?([^`]+)`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`<>]*>`_+"), r"\1"),
    (re.compile(r"\s?\[[\w#*]+\]_(?!\w)"), ""),  # footnotes
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"\[`([^`]+)`\]"), r"\1"),  # Rust
    (re.compile(r"`([^`]+)`_*"), r"\1"),
    (re.compile(r"\b[LCIBM]\{([^{}]*)\}"), r"\1"),  # Epytext
    (re.compile(r"(?<!\w)\{(?:rdoc-ref:)?([A-Z#:][\w:#.?!]*)\}"), r"\1"),  # YARD
    (re.compile(r"(?<!\S)\+([\w:#.?!@]+)\+(?!\w)"), r"\1"),  # RDoc
    (re.compile(r"(?<!\S)[@\\](?:a|c|p|e|em|b|ref|ingroup)\s+(?=\w)"), ""),  # Doxygen
    (re.compile(r"(?<![\w*])\*\*(?=\S)([^*]+?)(?<=\S)\*\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*]+?)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"\s?%\(\w+\)s"), ""),  # filled in when the module is loaded
    (re.compile(r"&lt;"), "<"),
    (re.compile(r"&gt;"), ">"),
    (re.compile(r"&nbsp;"), " "),
    (re.compile(r"&amp;"), "&"),
)


def summary(docstring: str) -> str:
    """Return the first paragraph of a doc comment as one line of plain words, without sections, tags and markup.

    A paragraph that only repeats the signature is passed over.

    >>> summary("Returns the {@link Cart#total total} of <b>all</b> items.\\n\\n@param tax in percent")
    'Returns the total of all items.'
    >>> summary("total(tax) -> float\\n\\nSum of ``prices`` in a :class:`~shop.Cart`.\\n:param tax: in percent")
    'Sum of prices in a Cart.'
    """
    text = _TAG.sub("", _BREAK.sub("\n\n", docstring.replace("\r\n", "\n")))
    lines: list[str] = []
    rest = text.strip().split("\n")
    for place, line in enumerate(rest):
        line = _LEAD.sub("", line)
        underlined = place + 1 < len(rest) and _UNDERLINE.match(rest[place + 1])
        if _END.match(line) or (underlined and line.strip()):
            break
        lines.append(line)
    remaining = iter(lines)
    for line in remaining:
        if not line.strip():
            continue
        paragraph = " ".join([line.strip(), *(each.strip() for each in takewhile(str.strip, remaining))])
        for pattern, replacement in _INLINE:
            paragraph = pattern.sub(replacement, paragraph)
        paragraph = " ".join(paragraph.split())
        if paragraph and not _SIGNATURE.fullmatch(paragraph):
            return paragraph
    return ""
