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
