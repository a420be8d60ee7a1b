"""Closing objects on other ranks: a worker that is busy is not lost, one that is silent is."""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait

from pipar_rpc.base.errors import LostError
from pipar_rpc.plan.deadlines import Deadlines
from pipar_rpc.transport.remote_object import Remote, Target

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0  # time between two questions to a worker that closes: what it does, if it is alive


def close_all(remotes: Mapping[Remote[Target], Deadlines]) -> list[tuple[str, BaseException]]:
    """Closes objects at the same time and waits until they are; returns the workers that failed, and why.

    A worker that is busy is waited for as long as it answers, up to the longest that it may take for
    anything. Those that are lost are left alone.

    Args:
        remotes: objects to close, each with the deadlines of its worker.
    """
    began, failed = time.monotonic(), list[tuple[str, BaseException]]()
    closing = {remote: remote.close() for remote in remotes if not remote.lost}
    while closing:
        wait(closing.values(), ASK_EVERY_S)
        busy = {
            remote: remote.doing(remotes[remote].unanswered_s)
            for remote, closed in closing.items()
            if not closed.done()
        }
        for remote, closed in closing.items():
            if remote in busy:
                error = _given_up(remote, busy[remote], time.monotonic() - began, remotes[remote].longest_s)
            else:
                error = closed.exception()
            if error is not None:
                failed.append((remote.name, error))
        closing = {remote: closing[remote] for remote in busy if not remote.lost}
    return failed


def warn_of(failed: Sequence[tuple[str, BaseException]]) -> None:
    """Logs what `close_all` returned."""
    by_reason: dict[str, list[str]] = {}
    for name, error in failed:
        by_reason.setdefault(str(error), []).append(name)
    for reason, (first, *others) in by_reason.items():
        more = f" and {len(others)} more" if others else ""
        log.warning("%s%s could not be cleaned up: %s", first, more, reason)


def _given_up(
    remote: Remote[Target], doing: Future[str], waited_s: float, longest_s: float
) -> BaseException | None:
    """Returns why nobody waits any longer for a worker that has been closing for `waited_s`, or None."""
    if error := doing.exception():
        return error
    if waited_s > longest_s:
        reason = f"the server waited {waited_s:.0f} s for {remote.name} to end {doing.result()}"
        remote.abandon(reason)
        return LostError(reason)
    log.info("waiting for %s to end %s, %.0f s so far", remote.name, doing.result(), waited_s)
    return None
