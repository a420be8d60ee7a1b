"""Checkpoints that are written while the training goes on."""

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from pipar_rpc.base.errors import UserError, first_line
from pipar_rpc.base.threads import open_pool
from pipar_rpc.checkpoints.file import Checkpoint, CheckpointFolder

log = logging.getLogger(__name__)


class Writer:
    """Writes one checkpoint at a time on a thread of its own; obtained from `writing`.

    Until it is complete, the newest one before it stays. If it cannot be written, the log says so.

    Args:
        folder: folder of the checkpoints.
        pool: the thread.
    """

    def __init__(self, folder: CheckpointFolder, pool: ThreadPoolExecutor) -> None:
        self._folder, self._pool = folder, pool
        self._pending: Future[bool] | None = None

    def begin(self, checkpoint: Checkpoint) -> None:
        """Begins to write a checkpoint, whose tensors nobody changes; waits for the one before it."""
        self.finish()
        self._pending = self._pool.submit(self._write, checkpoint)

    def finish(self) -> bool:
        """Waits until nothing is being written; returns whether the last one could be, true without any."""
        if self._pending is None:
            return True
        wait([self._pending])
        pending, self._pending = self._pending, None
        return pending.result()

    def close(self) -> None:
        """Waits until nothing is being written, whatever becomes of it."""
        if self._pending is not None and not self._pending.done():
            log.info("a checkpoint is being written: the job ends when it is complete")
            wait([self._pending])

    def _write(self, checkpoint: Checkpoint) -> bool:
        try:
            self._folder.save(checkpoint)
        except (OSError, RuntimeError, UserError) as error:  # torch's error for a full disk is RuntimeError
            line = first_line(error)
            log.warning("the checkpoint of round %d could not be written: %s", checkpoint.round, line)
            return False
        return True


@contextmanager
def writing(folder: CheckpointFolder) -> Iterator[Writer]:
    """Opens a writer. At the end, after an error or Ctrl-C too, what is being written is completed."""
    with open_pool("checkpoint") as pool:
        writer = Writer(folder, pool)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()
