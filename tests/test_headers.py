"""The signature of a definition and the beginning of its documentation, in several languages."""

from __future__ import annotations

import pytest

from llamaindex_code_retrieval.chat.headers import header_lines, signature_lines

PYTHON = '''@dataclass
class Cart(Base):
    """What a customer buys.

    More of it.
    """

    size: int
'''
JAVA = """/**
 * A cart.
 *
 * <p>More of it.
 */
@Deprecated
public class Cart extends Base
    implements Closeable {
  int size;
"""
RUST = """/// A cart.
/// It is small.
///
/// More.
#[derive(Debug)]
pub struct Cart<T>
where
    T: Clone,
{
"""
GO = "// Cart is a cart.\nfunc (c *Cart) Add(\n\ta int,\n) (int, error) {\n\treturn a, nil\n}"
CSHARP = "public class Cart : Base\n{\n    int size;\n}"
ONE_LINE = '"""Module."""\ndef cart(a=(1, 2)): return a\nx = 1'


@pytest.mark.parametrize(
    ("text", "symbol", "signature", "header"),
    [
        (PYTHON, "Cart", [1, 2], [1, 2, 3]),
        (JAVA, "Cart", [6, 7, 8], [1, 2, 6, 7, 8]),
        (RUST, "Cart", [5, 6, 7, 8, 9], [1, 2, 5, 6, 7, 8, 9]),
        (GO, "Add", [2, 3, 4], [1, 2, 3, 4]),
        (CSHARP, "Cart", [1, 2], [1, 2]),
        (ONE_LINE, "cart", [2], [1, 2]),
        ("a = 1\nb = 2", "missing", [1], [1]),
    ],
)
def test_signature_and_header(text: str, symbol: str, signature: list[int], header: list[int]) -> None:
    lines = dict(enumerate(text.split("\n"), start=1))
    assert signature_lines(lines, sorted(lines), symbol) == signature
    assert header_lines(lines, sorted(lines), symbol) == header


def test_long_decorators_and_signatures_are_bounded() -> None:
    lines = [*(f"@decorator_{number}" for number in range(9)), "def f(", *("    a," for _ in range(50)), "): ..."]
    numbered = dict(enumerate(lines, start=1))
    assert signature_lines(numbered, sorted(numbered), "f") == [1, 2, 3, *range(10, 22)]
