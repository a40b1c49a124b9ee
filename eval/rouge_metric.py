"""ROUGE as a metric of the ``evaluate`` library that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from tempfile import TemporaryDirectory

from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.eval.rouge import Tokenize, rouge_scores

check_installed("evaluate", "rouge_score", extra="eval", purpose="the metric Rouge")

import evaluate  # noqa: E402
from datasets import Features, Value  # noqa: E402


class Rouge(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """F-measures of ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum: ``evaluate.load("rouge")`` without its download.

    ``compute`` takes ``predictions`` and ``references``, one reference each. It returns the mean of each measure, or
    one value per item with ``use_aggregator=False``. ``use_stemmer=True`` compares Porter stems. Words are runs of a-z
    and 0-9, so that other scripts do not count, unless a ``tokenizer`` is given: a function that returns the words of a
    text, such as :func:`~llamaindex_code_retrieval.eval.rouge.words`. For ROUGE-Lsum a line is a sentence. No file
    outlives the call.

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
        tokenizer: Tokenize | None = None,
    ) -> dict[str, float] | dict[str, list[float]]:
        values = rouge_scores(predictions, references, tokenize=tokenizer, use_stemmer=use_stemmer)
        if not use_aggregator:
            return values
        if not predictions:
            raise ValueError("there are no predictions, so there is no mean; pass some, or use_aggregator=False")
        return {name: fmean(each) for name, each in values.items()}
