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


MIN_WORDS, MAX_WORDS = 3, 64
_USELESS = re.compile(
    r"(?:todo|fixme|xxx|hack|noqa|type:|pylint|pragma|nolint|eslint|jshint|istanbul|rubocop|@?ts-|deprecated\b"
    r"|see\s|same as\b|overrid(?:es|den|e)\b|inherit(?:ed|s)?\b|\(non-javadoc\)|alias (?:for|of)\b|copyright\b"
    r"|[\w-]+ :?:?=\s|docstring\b|not documented|undocumented|auto-?generated|generated\b|internal use|private\b"
    r"|region\b)",
    re.IGNORECASE,
)
_FOREIGN = frozenset(
    "der die das und nicht für eine einen ist mit von den werden wird el los las una para que del por con le les une "
    "des du est pour dans avec il lo gli della di che nella os uma não com de la".split()
)
_ENGLISH = frozenset("the a an of to is and for in this that if it from with or by on as be are returns return".split())


def why_not_asked(query: str) -> str | None:
    """Return why nobody would ask ``query`` in English words, ``None`` if somebody would.

    The rules are those of CodeSearchNet (Husain et al. 2019) and CodeXGLUE (Lu et al. 2021), and a little more.

    >>> why_not_asked("Read a file line by line."), why_not_asked("Reads."), why_not_asked("Die Summe und das Ziel")
    (None, 'description under 3 words', 'description not in English')
    """
    words = re.findall(r"[^\W_]\w*", query)
    if not query:
        return "no description"
    if "://" in query or "www." in query or re.search(r"<img|!\[|data:image", query):
        return "description with a link or an image"
    if _USELESS.match(query):
        return "description is a note or a reference"
    if len(words) < MIN_WORDS:
        return f"description under {MIN_WORDS} words"
    if len(words) > MAX_WORDS:
        return f"description over {MAX_WORDS} words"
    letters = [letter for letter in query if letter.isalpha()]
    plain = sum(letter.isascii() for letter in letters)
    lower = {word.lower() for word in words}
    foreign, english = len(lower & _FOREIGN), len(lower & _ENGLISH)
    if plain < 0.9 * len(letters) or (foreign >= 2 and foreign > english):
        return "description not in English"
    if plain < 0.5 * len(query.replace(" ", "")):
        return "description not in words"
    return None
