"""ROUGE F-measures by ``rouge_score``, over the words of any script."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from llamaindex_code_retrieval._optional import require

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")

Tokenize = Callable[[str], list[str]]
"""A function that returns the words of a text."""

# Scripts that are written without spaces between words: Hiragana, Katakana, and Han with its extensions; and Thai, Lao,
# Myanmar and Khmer, whose vowel signs and tone marks belong to the character before them.
_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WITH_MARKS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
# Marks inside the words of other scripts, which are no letters for `re`: accents, points of Hebrew and Arabic, and
# the scripts of India.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0df3"
_WORD = re.compile(
    rf"[{_CHARACTER}]|(?!\W)[{_WITH_MARKS}](?:(?!\w)[{_WITH_MARKS}])*"
    rf"|(?:(?![{_CHARACTER}{_WITH_MARKS}_])[\w{_MARKS}])+"
)


def words(text: str) -> list[str]:
    """Return the words of a text as ``rouge_score`` does, and also those of other scripts, which that one drops.

    A word is a run of letters and digits in lower case, with their marks. In Chinese, Japanese, Thai, Lao, Myanmar and
    Khmer, which have no spaces between words, each character is a word by itself.

    >>> words("Read_file größte 文件 हिन्दी ที่นี่")
    ['read', 'file', 'größte', '文', '件', 'हिन्दी', 'ที่', 'นี่']
    """
    return _WORD.findall(text.lower())


def rouge_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: Tokenize | None = words,
    use_stemmer: bool = False,
) -> dict[str, list[float]]:
    """Return the F-measures of ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum, one value per prediction.

    For ROUGE-Lsum a line is a sentence. Without ``tokenize`` the words are those of ``rouge_score``, runs of a-z and
    0-9, which ``use_stemmer`` compares by their Porter stems.

    Raises:
        ValueError: ``use_stemmer`` with a tokenizer.
        ImportError: ``rouge_score`` is not installed.

    >>> rouge_scores(["read the file"], ["read a file"])["rouge2"]
    [0.0]
    """
    if use_stemmer and tokenize is not None:
        raise ValueError("use_stemmer has no effect with a tokenizer; let the tokenizer stem the words")
    scorer = require("rouge_score.rouge_scorer", extra="eval", purpose="scoring answers").RougeScorer(
        ROUGE, use_stemmer=use_stemmer, tokenizer=None if tokenize is None else Tokenizer(tokenize)
    )
    scores = [
        scorer.score(target=reference, prediction=prediction)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return {name: [float(score[name].fmeasure) for score in scores] for name in ROUGE}


class Tokenizer:
    """A function with the interface of ``rouge_score``'s tokenizers."""

    def __init__(self, tokenize: Tokenize) -> None:
        self.tokenize = tokenize
