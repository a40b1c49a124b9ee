"""ROUGE as a metric of the ``evaluate`` library that needs no network; the arithmetic is that of ``rouge_score``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from tempfile import TemporaryDirectory

from llamaindex_code_retrieval._optional import check_installed

check_installed("evaluate", "rouge_score", extra="eval", purpose="ROUGE")

import evaluate  # noqa: E402
from datasets import Features, Value  # noqa: E402
from rouge_score.rouge_scorer import RougeScorer  # noqa: E402

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """F-measures of ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum: ``evaluate.load("rouge")`` without its download.

    ``compute`` takes ``predictions`` and ``references``, one reference each. It returns the mean of each measure, or
    one value per item with ``use_aggregator=False``. ``use_stemmer=True`` compares Porter stems. Words are runs of a-z
    and 0-9, so that other scripts count as nothing, unless a ``tokenizer`` is given: a function that returns the words
    of a text, such as ``WordTokenizer().tokenize``. For ROUGE-Lsum a line is a sentence. No file outlives the call.

    >>> Rouge().compute(predictions=["read the file"], references=["read a file"], use_aggregator=False)["rouge2"]
    [0.0]
    """

    def __init__(self) -> None:
        with TemporaryDirectory() as folder:  # the base class creates a folder even if it then writes no file
            super().__init__(keep_in_memory=True, cache_dir=folder, seed=0)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE F-measures, by rouge_score",
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            inputs_description="predictions and references: lists of strings of the same length",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[str],
        use_aggregator: bool = True,
        use_stemmer: bool = False,
        tokenizer: Callable[[str], list[str]] | None = None,
    ) -> dict[str, float] | dict[str, list[float]]:
        if use_stemmer and tokenizer is not None:
            raise ValueError("use_stemmer has no effect with a tokenizer of your own; let the tokenizer stem the words")
        scorer = RougeScorer(ROUGE, use_stemmer=use_stemmer, tokenizer=tokenizer and _Tokenizer(tokenizer))
        scores = [
            scorer.score(reference, prediction) for prediction, reference in zip(predictions, references, strict=True)
        ]
        values = {name: [float(score[name].fmeasure) for score in scores] for name in ROUGE}
        if not use_aggregator:
            return values
        if not scores:
            raise ValueError("there are no predictions, so there is no mean; pass some, or use_aggregator=False")
        return {name: fmean(each) for name, each in values.items()}


class _Tokenizer:
    """A function with the interface of ``rouge_score``'s tokenizers."""

    def __init__(self, tokenize: Callable[[str], list[str]]) -> None:
        self.tokenize = tokenize
