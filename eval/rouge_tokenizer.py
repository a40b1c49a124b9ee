"""Words of texts in any script, for ROUGE."""

from __future__ import annotations

import re

# Scripts that are written without spaces between words: Hiragana, Katakana, and Han with its extensions.
_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CHARACTER}]|(?:(?![{_CHARACTER}])[^\W_])+")


class WordTokenizer:
    """Splits a text as ``rouge_score`` does, and also words of other scripts than a-z and 0-9, which that one drops.

    A word is a run of letters and digits in lower case; each Chinese or Japanese character is a word by itself.

    >>> WordTokenizer().tokenize("Read_file größte 文件")
    ['read', 'file', 'größte', '文', '件']
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text in their order."""
        return _WORD.findall(text.lower())
