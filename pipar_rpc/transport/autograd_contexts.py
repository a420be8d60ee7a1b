"""What torch's distributed autograd keeps of a device on the server; it is to be released with the device."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch.distributed import autograd as dist_autograd

from pipar_rpc.base.microbatch import Part


class Contexts:
    """The autograd contexts of one device's micro-batches.

    A device releases them itself as soon as it has its gradients. One that is gone does not, and they would
    stay for ever.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}  # of the iteration that came last, and which that is
        self._in_use: set[int] = set()
        self._left = False

    def note(self, context_id: int, part: Part) -> None:
        """A micro-batch has come. With the first of an iteration, the device has released the one before."""
        now = part.epoch, part.iteration
        if part.index == 1:
            for earlier, when in self._known.copy().items():
                if when != now:
                    self._known.pop(earlier, None)
        self._known[context_id] = now

    @contextmanager
    def using(self, context_id: int) -> Iterator[None]:
        """The context is not released within the block."""
        self._in_use.add(context_id)
        try:
            yield
        finally:
            self._in_use.discard(context_id)
            if self._left:
                self._release(context_id)

    def leave(self) -> None:
        """The device has left: releases its contexts, those that are in use when they no longer are."""
        self._left = True
        for context_id in self._known.keys() - self._in_use:
            self._release(context_id)

    def _release(self, context_id: int) -> None:
        with suppress(RuntimeError):  # the device was alive and has done it
            dist_autograd._release_context(context_id)  # type: ignore[attr-defined]
