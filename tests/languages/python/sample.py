"""Carts."""
import os

RATE = 0.2


class Cart:
    """A cart.

    Holds items.
    """

    size: int = 0

    def __init__(self):
        self.items = []

    @property
    def total(self):
        r"""Sum of \d prices."""
        return sum(self.items)

    limit = 9

    class Line:
        async def save(self): ...


# Only a comment.
@cache
def rate(kind):
    def inner():
        "Look it up."
        return RATE

    return inner()


if os.name == "nt":

    def drive(): pass

try:
    from fast import parse
except ImportError:

    async def parse(text):
        return text


Point = namedtuple("Point", ["x", "y"])
UserId = typing.NewType("UserId", int)
Json: TypeAlias = "dict[str, Json]"
type Pair[T] = tuple[T, T]
square = lambda x: x * x


class Store(Protocol):
    key = lambda self: "k"

    def load(self, name: str) -> bytes: ...

    def save(self, name: str) -> None:
        """Save it."""
        ...

    @property
    def size(self):
        return self._size

    @size.setter
    def size(self, value):
        local = lambda: value
        self._size = local()

    @overload
    def find(self, key: int) -> str: ...

    @typing.overload
    def find(self, key: str) -> int:
        """Only a signature."""

    # Not a docstring.
    @cache
    @retry(
        times=3,
    )
    def find(self, key):
        class Found:
            def __bool__(self): return True

        return Found()


def old((a, b)):
    print "old", a
    print >>log, `b`
    exec "a" in {}
    try:
        raise ValueError, "b"
    except ValueError, e:
        return 0777 if a <> b else 1L
