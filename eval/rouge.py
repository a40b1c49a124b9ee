"""ROUGE as a metric of the ``evaluate`` library that needs no network; the arithmetic is ``rouge_score``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from tempfile import TemporaryDirectory

try:
    import evaluate
    from datasets import Features, Value
    from rouge_score.rouge_scorer import RougeScorer
except ImportError as error:
    raise ImportError("ROUGE needs evaluate and rouge_score: pip install 'llamaindex-code-retrieval[eval]'") from error

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """F-measures of ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum: ``evaluate.load("rouge")`` without its download.

    ``compute`` takes ``predictions`` and ``references``, one reference each. It returns the mean of each measure, or
    one value per item with ``use_aggregator=False``; ``use_stemmer=True`` compares Porter stems. For ROUGE-Lsum a
    line is a sentence. Words are runs of a-z and 0-9: other scripts count as nothing. No file outlives the call.

    >>> Rouge().compute(predictions=["read the file"], references=["read a file"], use_aggregator=False)["rouge2"]
    [0.0]
    """

    def __init__(self) -> None:
        with TemporaryDirectory() as folder:  # the base class makes a folder even where it then writes no file
            super().__init__(keep_in_memory=True, cache_dir=folder, seed=0)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE F-measures, by rouge_score",
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            inputs_description="predictions and references: lists of as many strings",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[str],
        use_aggregator: bool = True,
        use_stemmer: bool = False,
    ) -> dict[str, float] | dict[str, list[float]]:
        scorer = RougeScorer(ROUGE, use_stemmer=use_stemmer)
        scores = [
            scorer.score(reference, prediction) for prediction, reference in zip(predictions, references, strict=True)
        ]
        values = {name: [float(score[name].fmeasure) for score in scores] for name in ROUGE}
        if not use_aggregator:
            return values
        if not scores:
            raise ValueError("there are no predictions, so there is no mean; pass some, or use_aggregator=False")
        return {name: fmean(each) for name, each in values.items()}
