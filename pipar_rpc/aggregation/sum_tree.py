"""Sums whose order of additions is fixed, so that parts of them may be computed anywhere, bit for bit.

Terms are numbered from 0. A block of 2^m terms begins at a multiple of 2^m, and its sum is that of its first
half plus that of its second half, if there are any terms in it. The sum of all is that of the smallest block
with all terms.
"""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

Block = tuple[int, int]  # the first of its terms, and for how many it has room: a power of two


def smallest_block(count: int) -> Block:
    """Returns the smallest block with all of `count` terms."""
    return 0, 1 << (count - 1).bit_length()


def blocks_of(own: Iterable[int], count: int) -> Iterator[Block]:
    """Yields the largest blocks that have no other terms than these.

    Args:
        own: numbers of terms.
        count: number of all terms.
    """
    mine = set(own)

    def within(block: Block) -> Iterator[Block]:
        first, size = block
        terms = set(terms_of(block, count))
        if terms and terms <= mine:
            yield block
        elif terms & mine:
            yield from within((first, size // 2))
            yield from within((first + size // 2, size // 2))

    yield from within(smallest_block(count))


def sum_of(block: Block, term: Callable[[int], Tensor], count: int) -> Tensor:
    """Sums the terms of a block.

    Args:
        block: the block.
        term: function that makes a term in a tensor of its own, which is changed.
        count: number of all terms.
    """
    first, size = block
    if size == 1:
        return term(first)
    middle = first + size // 2
    total = sum_of((first, size // 2), term, count)
    return total.add_(sum_of((middle, size // 2), term, count)) if middle < count else total


def terms_of(block: Block, count: int) -> range:
    """Returns the numbers of a block's terms."""
    first, size = block
    return range(first, min(first + size, count))


class TreeSum:
    """The sum of all terms, to which sums of blocks come in any order; its additions are those of `sum_of`.

    Two blocks that make a larger one are added at once. Of blocks that come in order, one of each size waits.

    Args:
        count: number of all terms.
    """

    def __init__(self, count: int) -> None:
        self._count, self._sums = count, dict[Block, Tensor]()

    def add(self, block: Block, total: Tensor) -> None:
        """Adds the sum of a block, in a tensor that is changed from now on."""
        whole = smallest_block(self._count)
        while block != whole:
            first, size = block
            other = first ^ size, size  # the other half of the next larger block
            if other[0] < self._count:
                if other not in self._sums:
                    break
                its = self._sums.pop(other)
                total = its.add_(total) if other < block else total.add_(its)
            block = first & ~size, 2 * size
        self._sums[block] = total

    @property
    def total(self) -> Tensor:
        """The sum, once all terms are in it."""
        return self._sums[smallest_block(self._count)]
