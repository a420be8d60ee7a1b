"""The devices that take part in a job. Those that are lost leave it, and the others go on.

Everything that waits for devices waits here, or inside `watching`. A device leaves on purpose, because its
numbers are not finite, or because its process is lost. Which processes are lost, and why, the RPC group alone
knows (`Remote.lost`), from job to job too. A device that is lost leaves as soon as somebody asks who takes
part, and nobody waits for it again.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

from pipar_rpc.base.errors import LostError, PeerError, first_line
from pipar_rpc.base.ranks import as_list
from pipar_rpc.coordination.device_handle import DeviceHandle, Method
from pipar_rpc.timing.traffic import PINGS, Ping
from pipar_rpc.training.device_loop import Device
from pipar_rpc.transport.remote_object import Remote, Target, name_of
from pipar_rpc.transport.rpc_futures import timed

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

STALL_S = 10.0  # time between two looks that means a stopped process; load alone makes it seconds
POLL_S = 0.2  # how often displays are refreshed and deadlines checked while waiting


def _ignore() -> None:
    pass


def _log(line: str, number: int) -> None:
    log.warning(line)


class Membership:
    """The devices that take part in a job.

    Args:
        everyone: all devices of the job.
        min_devices: least number of devices; with fewer left, the job fails.
        leave: round, from 1, before which a device leaves on purpose, by the device's name.
        on_wait: function called every now and then while devices work, for displays.
        on_leave: function called with a line about devices that leave together, and the round.

    Attributes:
        everyone: all devices of the job.
        round: number of the round that is trained or was trained last, from 1; 0 before the first one.
        counts: whether the present round has been averaged already, so that the work of a device that leaves
            now counts in it.
    """

    def __init__(
        self,
        everyone: Sequence[DeviceHandle],
        min_devices: int = 1,
        leave: Mapping[str, int] | None = None,
        on_wait: Callable[[], None] = _ignore,
        on_leave: Callable[[str, int], None] = _log,
    ) -> None:
        self.everyone, self.round, self.counts = everyone, 0, False
        self._min_devices, self._leave = min_devices, leave or {}
        self._on_wait, self._on_leave = on_wait, on_leave

    @property
    def handles(self) -> list[DeviceHandle]:
        """The devices that take part, in the order of their numbers; those that are lost leave now.

        Raises:
            PeerError: too few are left.
        """
        self._lose_all(self._gone())
        return [handle for handle in self.everyone if handle.present]

    def _gone(self) -> dict[DeviceHandle, LostError]:
        """Devices whose process is lost, which may have held several, and how it was lost."""
        return {handle: LostError(handle.remote.lost or "") for handle in self.everyone if handle.remote.lost}

    def _taking_part(self, of_each: Mapping[DeviceHandle, T]) -> dict[DeviceHandle, T]:
        """Keeps the entries of devices that take part."""
        handles = set(self.handles)
        return {handle: value for handle, value in of_each.items() if handle in handles}

    def begin_round(self) -> None:
        """Counts the round; devices that are to leave before it leave now."""
        self.round, self.counts = self.round + 1, False
        planned = [h for h in self.handles if self.round >= self._leave.get(h.name, self.round + 1)]
        self._lose_all(dict.fromkeys(planned, LostError("as fault.leave says")))

    def ask(
        self, method: Callable[Concatenate[Device, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> dict[DeviceHandle, T]:
        """Calls a method of every device; returns the results of those that are not lost meanwhile."""
        return self.collect({handle: handle.call(method, *args, **kwargs) for handle in self.handles}, method)

    def collect(self, calls: Mapping[DeviceHandle, Future[T]], method: Method) -> dict[DeviceHandle, T]:
        """Waits for calls of `method`; returns the results, in order, without devices lost meanwhile.

        Raises:
            PeerError: a device or its server half failed, or too few devices are left.
            UserError: a device cannot do it, for a reason that the user can mend.
        """
        results = dict(self.arriving(calls, method))
        return self._taking_part({handle: results[handle] for handle in calls if handle in results})

    def arriving(
        self, calls: Mapping[DeviceHandle, Future[T]], method: Method
    ) -> Iterator[tuple[DeviceHandle, T]]:
        """As `collect`, but yields each result when it comes, and keeps none."""
        began = looked = time.monotonic()
        pending = dict(calls)
        while pending := self._taking_part(pending):
            done = wait(pending.values(), timeout=POLL_S, return_when=FIRST_COMPLETED).done
            for handle in [handle for handle, call in pending.items() if call in done]:
                done.discard(call := pending.pop(handle))
                with self.watching(handle):
                    if call.exception():
                        handle.port.check()  # the cause, rather than that the device waited for it
                    yield handle, call.result()
                del call
            if time.monotonic() - looked > STALL_S:  # this process itself was stopped: nobody else was silent
                began = time.monotonic()
                for handle in pending:
                    handle.port.listen()
            looked = time.monotonic()
            for handle in pending:
                handle.port.remind()
                with self.watching(handle):
                    _check_alive(handle, method, time.monotonic() - began)
            self._on_wait()

    def settle(self, reports: Mapping[DeviceHandle, T]) -> dict[DeviceHandle, T]:
        """Waits for the server halves of devices that have trained; leaves out those lost meanwhile.

        The last update of a half follows the last gradient, and so the device's report. Nothing may be done
        with the halves before that update.

        Raises:
            PeerError: a server half failed, or too few devices are left.
        """
        for handle in reports:
            with self.watching(handle):
                handle.port.settle()
        return self._taking_part(reports)

    def ping(self, handles: Sequence[DeviceHandle]) -> dict[DeviceHandle, Ping]:
        """Returns the fastest of a few pings to each device, all at the same time; without lost ones."""
        fastest: dict[DeviceHandle, Ping] = {}
        for _ in range(PINGS):
            sent = {h: (time.monotonic(), timed(h.call(Device.clock))) for h in handles if h.present}
            answers = self.collect({handle: answer for handle, (_, answer) in sent.items()}, Device.clock)
            for handle, (theirs, after) in answers.items():
                one = Ping.of(sent[handle][0], theirs, after)
                fastest[handle] = min(one, fastest.get(handle, one))
        return fastest

    @contextmanager
    def watching(self, handle: DeviceHandle) -> Iterator[None]:
        """Takes a device off the list if it is lost in the block, which then ends."""
        try:
            yield
        except LostError as error:
            self.lose(handle, error)

    def lose(self, handle: DeviceHandle, error: LostError) -> None:
        """Goes on without a device, and those of its process; raises PeerError if too few are left."""
        self._lose_all(self._gone() | {handle: error})

    def _lose_all(self, leaving: Mapping[DeviceHandle, LostError]) -> None:
        """Goes on without these devices; those that have left before do not count."""
        leaving = {handle: error for handle, error in leaving.items() if not handle.left}
        for handle in leaving:
            handle.left = True
            handle.port.leave("this device was given up")
        number = sum(handle.present for handle in self.everyone)
        left = f"{number} of {len(self.everyone)} devices left"
        when = f"{'after' if self.counts else 'in'} round {self.round}"
        by_reason: dict[str, list[str]] = {}
        for handle, error in leaving.items():
            by_reason.setdefault(first_line(error), []).append(handle.name)
        for reason, names in by_reason.items():
            leave = "leaves" if len(names) == 1 else "leave"
            self._on_leave(f"{as_list(names)} {leave} {when}: {reason}; {left}", self.round)
        if leaving and number < self._min_devices:
            raise PeerError(
                f"{left}, fault.min_devices={self._min_devices}; "
                f"the last to leave: {handle.name}: {first_line(error)}"
            )


def ask(
    handle: DeviceHandle, method: Callable[Concatenate[Device, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Calls a method of one device and waits; raises LostError if the result does not come in time."""
    limit_s = handle.limit_s(method)
    call = handle.call(method, *args, **kwargs)
    return wait_for(handle.remote, call, limit_s, f"answer to {name_of(method)}")


def wait_for(
    remote: Remote[Target],
    future: Future[T],
    timeout_s: float,
    to_do: str,
    silent_s: Callable[[], float] | None = None,
) -> T:
    """Waits for a result; raises LostError, and gives the worker up, if it does not come in time.

    Args:
        remote: object that was called.
        future: result of the call.
        timeout_s: longest silence of the worker, in seconds.
        to_do: task of the worker, for the error.
        silent_s: function that returns the seconds since its last sign of life; by default since now.
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


def _check_alive(handle: DeviceHandle, method: Method, waited_s: float) -> None:
    silence = min(handle.port.silent_s, waited_s)
    if silence > handle.limit_s(method):
        if method is Device.train:
            where = f"last heard of in iteration {handle.port.iteration}"
        else:
            where = f"asked to {name_of(method)}"
        reason = f"the server waited {silence:.0f} s for {handle.name}, {where}"
        handle.remote.abandon(reason)
        raise LostError(reason)
