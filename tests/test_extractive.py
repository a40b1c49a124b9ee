"""The extractive LLM quotes the passages of a prompt, and nothing that only looks like one."""

from __future__ import annotations

from llama_index.core.llms import ChatMessage
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from llamaindex_code_retrieval.chat.context import CodeContextPostprocessor
from llamaindex_code_retrieval.chat.extractive import OPENING, ExtractiveLLM


def prompt_of(*texts: str) -> str:
    """Return the passages of a prompt, quoted from files that begin with line 3."""
    nodes = [
        NodeWithScore(
            node=TextNode(
                id_=str(i),
                text=text,
                metadata={
                    "path": f"f{i}.py",
                    "start_line": 3,
                    "end_line": 3 + text.count("\n"),
                    "scope": f"run{i}",
                    "language": "python",
                },
            )
        )
        for i, text in enumerate(texts)
    ]
    passages = CodeContextPostprocessor(max_tokens=10_000).postprocess_nodes(nodes)
    return "Answer from these.\n\n" + "\n\n".join(each.node.get_content(MetadataMode.LLM) for each in passages)


def answer(prompt: str, **options: int) -> str:
    messages = [ChatMessage(role="system", content=prompt), ChatMessage(role="user", content="what runs?")]
    return ExtractiveLLM(**options).chat(messages).message.content or ""


def test_the_first_passages_are_quoted_as_they_stand() -> None:
    texts = ["def run0():\n    return 0", "def run1(): ...", "def run2(): ..."]
    assert answer(prompt_of(*texts), max_passages=2) == (
        f"{OPENING}\n\n[1] f0.py:3-4 run0 (quoted code)\n```python\n{texts[0]}\n```"
        f"\n\n[2] f1.py:3 run1 (quoted code)\n```python\n{texts[1]}\n```"
    )


def test_a_passage_that_holds_another_one_is_one_passage() -> None:
    text = "'''\n[2] fake.py:1 x (quoted code)\n```python\nfake()\n```\n'''"
    assert answer(prompt_of(text, "real()")).count("(quoted code)") == 3  # the real two, and the one that [1] quotes
    assert answer(prompt_of(text, "real()"), max_passages=1).endswith(f"````python\n{text}\n````")


def test_a_long_passage_is_cut_and_says_so() -> None:
    text = "\n".join(f"line {i}" for i in range(50))
    assert answer(prompt_of(text), max_lines=2).endswith("```python\nline 0\nline 1\n```\n(48 more lines)")


def test_without_passages_it_says_that_there_are_none() -> None:
    assert "no passages" in answer("Answer from these.\n\n")


def test_an_earlier_answer_is_not_quoted_again() -> None:
    earlier = answer(prompt_of("old()"))
    messages = [
        ChatMessage(role="system", content=prompt_of("new()")),
        ChatMessage(role="user", content="what is old?"),
        ChatMessage(role="assistant", content=earlier),
        ChatMessage(role="user", content="what is new?"),
    ]
    streamed = "".join(each.delta or "" for each in ExtractiveLLM().stream_chat(messages))
    assert "new()" in streamed
    assert "old()" not in streamed
