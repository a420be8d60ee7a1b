"""The devices that take part in a job. Those that are lost leave it, and the others go on.

Everything that waits for devices waits here, or inside `watching`. A device leaves on purpose, because its
numbers are not finite, or because its process is lost. Which processes are lost, and why, the RPC group alone
knows (`Remote.lost`), also from job to job; a device that is lost leaves as soon as it is looked up who takes
part, and nobody waits for it again.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

from pipar_rpc.base.errors import LostError, PeerError, first_line
from pipar_rpc.coordination.device_handle import Method, Peer
from pipar_rpc.timing.traffic import PINGS, Ping
from pipar_rpc.training.device import Device
from pipar_rpc.transport.remote_object import Placed, Remote, name_of

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

STALL_S = 10.0  # between two looks; under load they may be seconds apart
POLL_S = 0.2  # how often displays are refreshed and deadlines checked while waiting


def _ignore() -> None:
    pass


def _log(line: str, number: int) -> None:
    log.warning(line)


class Roster:
    """Who takes part.

    Args:
        everyone: all devices of the job.
        min_devices: with fewer left, the job fails.
        leave: rounds, from 1, before which devices leave on purpose, by their names.
        on_wait: called every now and then while devices work, for displays.
        on_leave: called with a line about each device that leaves, and the round.

    Attributes:
        everyone: all devices of the job.
        round: number of the round that is trained or was trained last, from 1; 0 before the first one.
        counts: whether the present round has been averaged already, so that the work of a device that leaves
            now counts in it.
    """

    def __init__(
        self,
        everyone: Sequence[Peer],
        min_devices: int = 1,
        leave: Mapping[str, int] | None = None,
        on_wait: Callable[[], None] = _ignore,
        on_leave: Callable[[str, int], None] = _log,
    ) -> None:
        self.everyone, self.round, self.counts = everyone, 0, False
        self._min_devices, self._leave = min_devices, leave or {}
        self._on_wait, self._on_leave = on_wait, on_leave

    @property
    def peers(self) -> list[Peer]:
        """Those who take part, in the order of their numbers; who is lost leaves now.

        Raises:
            PeerError: too few are left.
        """
        for peer in self.everyone:
            if reason := peer.remote.lost:
                self.lose(peer, LostError(reason))
        return [peer for peer in self.everyone if peer.present]

    def _taking_part(self, of_each: Mapping[Peer, T]) -> dict[Peer, T]:
        """What belongs to those who take part."""
        peers = set(self.peers)
        return {peer: own for peer, own in of_each.items() if peer in peers}

    def begin_round(self) -> None:
        """Counts rounds; devices that are to leave before this one do."""
        self.round, self.counts = self.round + 1, False
        for peer in self.peers:
            if self.round >= self._leave.get(peer.name, self.round + 1):
                self.lose(peer, LostError("as fault.leave says"))

    def ask(
        self, method: Callable[Concatenate[Device, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> dict[Peer, T]:
        """What a method gives on every device; without those that are lost meanwhile."""
        return self.collect({peer: peer.call(method, *args, **kwargs) for peer in self.peers}, method)

    def collect(self, calls: Mapping[Peer, Future[T]], method: Method) -> dict[Peer, T]:
        """The results of calls of `method`, in the order of `calls`; without devices that are lost meanwhile.

        Raises:
            PeerError: a device or its server half failed, or too few devices are left.
            UserError: a device cannot do it, for a reason the user can mend.
        """
        began = looked = time.monotonic()
        pending, results = dict(calls), dict[Peer, T]()
        while pending := self._taking_part(pending):
            done, _ = wait(pending.values(), timeout=POLL_S, return_when=FIRST_COMPLETED)
            for peer in [peer for peer, call in pending.items() if call in done]:
                with self.watching(peer):
                    if (call := pending.pop(peer)).exception():
                        peer.port.check()  # the cause, rather than that the device waited for it
                    results[peer] = call.result()
            if time.monotonic() - looked > STALL_S:  # this process itself was stopped: nobody else was silent
                began = time.monotonic()
                for peer in pending:
                    peer.port.listen()
            looked = time.monotonic()
            for peer in pending:
                peer.port.remind()
                with self.watching(peer):
                    _check_alive(peer, method, time.monotonic() - began)
            self._on_wait()
        return self._taking_part({peer: results[peer] for peer in calls if peer in results})

    def settle(self, reports: Mapping[Peer, T]) -> dict[Peer, T]:
        """Waits for the server halves of devices that have trained, without those that are lost meanwhile.

        The last update of a half follows the last gradient, and so the device's report. Nothing may be done
        with the halves before it.

        Raises:
            PeerError: a server half failed, or too few devices are left.
        """
        for peer in reports:
            with self.watching(peer):
                peer.port.settle()
        return self._taking_part(reports)

    def ping(self, peers: Sequence[Peer]) -> dict[Peer, Ping]:
        """The fastest of a few pings to each device, all at the same time; without those that are lost."""
        found: dict[Peer, Ping] = {}
        for _ in range(PINGS):
            sent = {
                peer: (time.monotonic(), _timed(peer.call(Device.clock))) for peer in peers if peer.present
            }
            answers = self.collect({peer: answer for peer, (_, answer) in sent.items()}, Device.clock)
            for peer, (theirs, after) in answers.items():
                one = Ping.of(sent[peer][0], theirs, after)
                found[peer] = min(one, found.get(peer, one))
        return found

    @contextmanager
    def watching(self, peer: Peer) -> Iterator[None]:
        """Takes a device off the list if it is lost in the block, which ends there."""
        try:
            yield
        except LostError as error:
            self.lose(peer, error)

    def lose(self, peer: Peer, error: LostError) -> None:
        """Goes on without a device; raises PeerError if too few are left."""
        if peer.left:
            return
        peer.left = True
        peer.port.leave("this device was given up")
        left = f"{len(self.peers)} of {len(self.everyone)} devices left"
        when = f"{'after' if self.counts else 'in'} round {self.round}"
        self._on_leave(f"{peer.name} leaves {when}: {first_line(error)}; {left}", self.round)
        if len(self.peers) < self._min_devices:
            raise PeerError(
                f"{left}, fault.min_devices={self._min_devices}; "
                f"the last to leave: {peer.name}: {first_line(error)}"
            )


def ask(peer: Peer, method: Callable[Concatenate[Device, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a method of one device; raises LostError if it does not come in time."""
    limit_s = peer.limit_s(method)
    call = peer.call(method, *args, **kwargs)
    return wait_for(peer.remote, call, limit_s, f"answer to {name_of(method)}")


def wait_for(
    remote: Remote[Placed],
    future: Future[T],
    timeout_s: float,
    to_do: str,
    silent_s: Callable[[], float] | None = None,
) -> T:
    """The result of a call; raises LostError, and gives the worker up, if it does not come in time.

    Args:
        remote: the object that was called.
        future: result of the call.
        timeout_s: longest silence of the worker.
        to_do: what it was asked to do, for the error.
        silent_s: seconds since its last sign of life; by default since now.
    """
    began, left = time.monotonic(), timeout_s
    while left > 0:
        try:
            return future.result(left)
        except TimeoutError:
            waited = time.monotonic() - began
            left = timeout_s - (min(waited, silent_s()) if silent_s else waited)
    reason = f"the server waited {timeout_s:.0f} s for {remote.name} to {to_do}"
    remote.abandon(reason)
    raise LostError(reason)


def _timed(call: Future[T]) -> Future[tuple[T, float]]:
    """The result of a call, with the time at which it came."""
    timed: Future[tuple[T, float]] = Future()

    def finish(done: Future[T]) -> None:
        if error := done.exception():
            timed.set_exception(error)
        else:
            timed.set_result((done.result(), time.monotonic()))

    call.add_done_callback(finish)
    return timed


def _check_alive(peer: Peer, method: Method, waited_s: float) -> None:
    silence = min(peer.port.silent_s, waited_s)
    if silence > peer.limit_s(method):
        if method is Device.train:
            where = f"last heard of in iteration {peer.port.iteration}"
        else:
            where = f"asked to {name_of(method)}"
        reason = f"the server waited {silence:.0f} s for {peer.name}, {where}"
        peer.remote.abandon(reason)
        raise LostError(reason)
