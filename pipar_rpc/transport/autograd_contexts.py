"""The contexts that torch's distributed autograd keeps for a device on the server, and their release."""

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
        self._known: dict[int, tuple[int, int]] = {}  # context -> epoch and iteration, of the last two
        self._in_use: set[int] = set()
        self._left = False

    def note(self, context_id: int, part: Part) -> None:
        """Notes a micro-batch; the first of an iteration shows that those before the last are released."""
        now = part.epoch, part.iteration
        if part.index == 1:
            kept = {now, *list(self._known.values())[-1:]}
            for earlier, when in self._known.copy().items():
                if when not in kept:
                    self._known.pop(earlier, None)
        self._known[context_id] = now

    @contextmanager
    def using(self, context_id: int) -> Iterator[None]:
        """Keeps the context from being released within the block."""
        self._in_use.add(context_id)
        try:
            yield
        finally:
            self._in_use.discard(context_id)
            if self._left:
                self._release(context_id)

    def leave(self) -> None:
        """Releases the contexts of a device that has left; those in use follow when they no longer are."""
        self._left = True
        for context_id in self._known.keys() - self._in_use:
            self._release(context_id)

    def _release(self, context_id: int) -> None:
        with suppress(RuntimeError):  # the device was alive and has done it
            dist_autograd._release_context(context_id)  # type: ignore[attr-defined]
