"""A report as one HTML page that loads nothing from elsewhere and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.eval.report.charts import retrieval_charts
from llamaindex_code_retrieval.eval.report.details import changed_queries, example_answers
from llamaindex_code_retrieval.eval.report.tables import collapsed_table, report_sections, verdict
from llamaindex_code_retrieval.eval.report.text import html_text
from llamaindex_code_retrieval.eval.results import Comparison, CurveReport, Report

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --box: #f6f8fa;
  --bad: #a40e26; --bad-box: #ffebe9; --good: #116329; --good-box: #dafbe1; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181d; --ink: #e3e8ee; --soft: #a0a9b4; --line: #3a424c;
  --box: #1e2329; --bad: #ff9a9a; --bad-box: #40191c; --good: #7ee2a0; --good-box: #12331f; } }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3, h4 { line-height: 1.25; margin: 1.6em 0 .5em; } h1 { margin-top: .3em; } h4 { margin: .2em 0; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .2em; } .soft { color: var(--soft); }
.bad { background: var(--bad-box); color: var(--bad); font-weight: 600; } .down, .unsure { color: var(--bad); }
.good { background: var(--good-box); color: var(--good); font-weight: 600; }
.verdict { border-left: .4rem solid; padding: .6rem 1rem; font-weight: 600; }
.scroll { overflow-x: auto; border: 1px solid var(--line); margin: .6rem 0; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: .875rem; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { background: var(--box); } .number { text-align: right; font-variant-numeric: tabular-nums; }
td.number, .bad, .good, .down, .unsure, .equal { white-space: nowrap; } .word { min-width: 4.5rem; }
.query { min-width: 14rem; overflow-wrap: anywhere; }
.charts, .sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem; }
.sides { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); } .sides > div { min-width: 0; }
figure { margin: 0; min-width: 0; } figcaption, .legend { font-size: .875rem; }
svg { display: block; max-width: 100%; height: auto; } svg * { stroke-linejoin: round; }
.legend { position: sticky; top: 0; background: var(--paper); padding: .3rem 0; list-style: none; margin: 0;
  display: flex; flex-wrap: wrap; gap: 0 1.2rem; }
details { margin: .4rem 0; } summary { cursor: pointer; } td details { margin: 0; } td pre { width: min(32rem, 75vw); }
pre { background: var(--box); border: 1px solid var(--line); padding: .5rem; margin: .3rem 0; font-size: .8125rem;
  max-height: 24rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def html(
    report: Report,
    comparisons: Sequence[Comparison] = (),
    codes: Mapping[str, Mapping[str, str]] | None = None,
    baseline: Report | None = None,
) -> str:
    """Return one page with all of a report; equal reports give equal pages.

    With ``codes`` (task -> corpus id -> source text) the page shows the code that is now ranked first for a query, and
    with ``baseline`` it has charts of the ranks then and now.

    Raises:
        ImportError: matplotlib or scipy is not installed.
    """
    check_installed("matplotlib", "scipy", extra="eval", purpose="the HTML report")
    result = "bad" if any(each.regression for each in comparisons) else "good"
    blocks = [
        *page_head(f"Code retrieval: {report.suite}", report),
        f'<p class="verdict {result}">{verdict(comparisons)}</p>'
        if comparisons
        else '<p class="verdict">Compared with no baseline</p>',
    ]
    for section in report_sections(report, comparisons, intervals=True):
        blocks += section.html()
        if section.title == "Against the baseline":
            blocks += changed_queries(comparisons, codes or {})
        elif section.title == "Retrieval":
            collapsed = collapsed_table(report)
            blocks += ["<h3>Equal codes once</h3>", collapsed.html()] if collapsed.rows else []
            blocks += retrieval_charts(report, baseline)
        elif section.title == "Generation":
            blocks += example_answers(report.generation)
    return page(f"Code retrieval: {report.suite}", blocks)


def page_head(title: str, report: Report | CurveReport) -> list[str]:
    """Return the heading of a page and where its report was made."""
    origin = f"{html_text(report.date)} · {html_text(report.machine)} · {report.seconds:,.0f} s"
    return [f"<h1>{html_text(title)}</h1>", f'<p class="soft">{origin}</p>']


def page(title: str, blocks: Sequence[str]) -> str:
    """Return a whole page of HTML blocks."""
    # Under this policy no script runs and nothing is loaded, whatever a query or a code contains.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html_text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        "<body>\n" + "\n".join(blocks) + "\n</body>\n</html>\n"
    )
