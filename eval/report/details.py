"""What a page shows of single queries: those whose rank changed, and example answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from llamaindex_code_retrieval.eval.report.tables import by_task, generation_metrics, scrolling_table
from llamaindex_code_retrieval.eval.report.text import html_text
from llamaindex_code_retrieval.eval.results import Change, Comparison, GenerationResult

_LINES = 20  # of a code or an answer
_CHANGES = 20  # per system and task
_EXAMPLES = 6  # per task


def changed_queries(comparisons: Sequence[Comparison], codes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a table of changed queries per system and task; ``codes`` maps task -> corpus id -> source text."""
    changed: dict[tuple[str, str], Comparison] = {}
    for each in comparisons:  # all metrics of a system and task have the same changes
        if each.changed:
            changed.setdefault((each.system, each.task), each)
    blocks = ["<h3>Queries that changed most</h3>"] if changed else []
    columns = '<th>query</th><th class="number">rank before</th><th class="number">now</th><th>ranked first now</th>'
    for (system, task), comparison in changed.items():
        worse = sum(change.gain < 0 for change in comparison.changed)
        counts = f"{len(comparison.changed) - worse:,} better, {worse:,} worse"
        regressed = any(each.regression for each in comparisons if (each.system, each.task) == (system, task))
        rows = "".join(_changed_row(change, codes.get(task, {})) for change in comparison.changed[:_CHANGES])
        blocks.append(
            f"<details{' open' if regressed or len(changed) == 1 else ''}>"
            f"<summary>{html_text(f'{system} / {task}')}: {counts}</summary>\n"
            f"{scrolling_table(f'<tr>{columns}</tr>', rows)}</details>"
        )
    return blocks


def _changed_row(change: Change, codes: Mapping[str, str]) -> str:
    before, after = ("not found" if rank is None else str(rank) for rank in (change.before, change.after))
    first = "nothing"
    if change.first is not None:
        first = html_text(change.first) + (" (relevant)" if change.after == 1 else "")
        if change.first in codes:
            first = f"<details><summary>{first}</summary>{_code(codes[change.first])}</details>"
    return (
        f'<tr><td class="query">{html_text(change.text)}</td><td class="number">{before}</td>'
        f'<td class="number">{"▼" if change.gain < 0 else "▲"} {after}</td><td class="query">{first}</td></tr>\n'
    )


def example_answers(generation: Sequence[GenerationResult]) -> list[str]:
    """Return some questions of each task, evenly spread, with the answers side by side."""
    blocks = []
    for task, group in groupby(by_task(generation), key=lambda result: result.task):
        results = list(group)
        questions = results[0].answers
        blocks.append(f"<h3>Examples: {html_text(task)}</h3>")
        for id_ in list(questions)[:: -(-len(questions) // _EXAMPLES)]:
            reference = f"<div><h4>Reference</h4>{_code(questions[id_].reference)}</div>"
            answers = "".join(_answer(result, id_) for result in results if id_ in result.answers)
            summary = f"<summary>{html_text(questions[id_].question)}</summary>"
            blocks.append(f'<details>{summary}\n<div class="sides">{reference}{answers}</div></details>')
    return blocks


def _answer(result: GenerationResult, id_: str) -> str:
    answer = result.answers[id_]
    name = " by ".join(filter(None, (result.condition.capitalize(), result.system)))
    metric = next(iter(generation_metrics([result])), "")
    value = f", {metric} {result.values[metric][id_]:.2f}" if metric else ""
    text = f"No answer: {answer.error}" if answer.error else answer.answer
    return f"<div><h4>{html_text(name + value)}</h4>{_code(text)}</div>"


def _code(text: str) -> str:
    """Return the first lines of a text as a block of code."""
    lines = text.splitlines()
    more = f"\n… {len(lines) - _LINES:,} more lines" if len(lines) > _LINES else ""
    return f"<pre>{html_text(chr(10).join(lines[:_LINES]) + more)}</pre>"
