"""Where the ranks of a job find each other, again and again: torchrun's own store.

torchrun restarts workers (`--max-restarts`), but a torch RPC group admits nobody after it has come together.
So every time the server starts it opens a new generation, and all ranks form a new group in it. A device
that finds that its rank has been in the generation has come back: it says so, and waits for the next one.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import _TERMINAL_STATE_SYNC_ID
from torch.distributed.elastic.utils.store import _barrier_nonblocking
from torch.distributed.rendezvous import register_rendezvous_handler

from pipar_rpc.base.errors import PeerError, first_line

T = TypeVar("T")

log = logging.getLogger(__name__)

SCHEME = "pipar"
POLL_S = 0.3
BEAT_S = 2.0


class Meeting:
    """torchrun's store, as one rank sees it; obtained from `from_environment`.

    All methods raise PeerError if the store is gone.

    Args:
        store: store of torchrun's agents.
        run_id: name that torchrun gave its run.
        rank: rank of this process.
        timeout_s: longest wait for a sign of life of the server, in seconds; may be changed.
    """

    def __init__(self, store: Store, run_id: str, rank: int, timeout_s: float) -> None:
        self._agents = PrefixStore(run_id, store)
        self._store = PrefixStore("pipar_rpc", self._agents)
        self._rank, self.timeout_s = rank, timeout_s
        self._generation, self._beats = 0, 0

    @classmethod
    def from_environment(cls, rank: int, timeout_s: float) -> "Meeting | None":
        """Connects to the store; None if this process was not started by torchrun.

        Raises:
            PeerError: the store does not answer.
        """
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return None
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            store = TCPStore(host, port, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)
        except RuntimeError as error:
            waited = f"rank {rank} waited {timeout_s:.0f} s for torchrun's store at {host}:{port}"
            raise PeerError(f"{waited}: {first_line(error)}") from error
        return cls(store, os.environ["TORCHELASTIC_RUN_ID"], rank, timeout_s)

    def gather(self) -> None:
        """Opens a generation and waits until all ranks are in it; called on the server.

        Raises:
            PeerError: somebody has not come in time.
        """
        began, others = time.monotonic(), range(1, _world_size())
        self._open()
        while missing := [rank for rank in others if not self._ask(self._store.check, [self._place(rank)])]:
            if time.monotonic() - began > self.timeout_s:
                who = ", ".join(map(str, missing))
                raise PeerError(f"the server waited {self.timeout_s:.0f} s for rank {who} to join")
            time.sleep(POLL_S)
            self.beat()
            if any(map(self.returned, others)):  # it had come, but has died since
                self._open()
        self._ask(self._store.set, f"{self._generation}/formed", "")

    def attend(self) -> bool:
        """Waits until all ranks, this one included, are in a generation; called on devices.

        Returns:
            True when they are; False if the training has ended without this rank.

        Raises:
            PeerError: nothing was heard of the server in time.
        """
        known, joined, beat, heard = 0, False, None, time.monotonic()
        while time.monotonic() - heard < self.timeout_s:
            self._generation = int(self._get("generation") or 0)
            if self._generation != known:
                known = self._generation
                joined = self._ask(self._store.add, self._place(self._rank), 1) == 1
                if not joined:
                    self._ask(self._store.set, f"{known}/returned{self._rank}", "")
                    log.info("waiting for the server to form a new group: this rank was in the last one")
            if joined and self._get(f"{known}/formed") is not None:
                return True
            if self._get(f"{known}/ended") is not None:
                return False
            if beat != (beat := self._get(f"{known}/beat")):
                heard = time.monotonic()
            time.sleep(POLL_S)
        raise PeerError(f"rank {self._rank} waited {self.timeout_s:.0f} s for the server")

    def _open(self) -> None:
        self._generation = self._ask(self._store.add, "generation", 1)
        self.beat()

    def _place(self, rank: int) -> str:
        return f"{self._generation}/rank{rank}"

    def beat(self) -> None:
        """Gives a sign of life of the server to those who wait for the next generation."""
        self._beats += 1
        self._ask(self._store.set, f"{self._generation}/beat", str(self._beats))

    def returned(self, rank: int) -> bool:
        """Whether a device waits for the next generation."""
        return self._ask(self._store.check, [f"{self._generation}/returned{rank}"])

    def end(self, lost_hosts: int) -> None:
        """Lets go of whoever waits; called on the server at the end of all training.

        Args:
            lost_hosts: number of hosts without a living rank. torchrun's agents wait up to 300 s for each
                other before they end, so somebody must stand in for agents that are gone.
        """
        self._ask(self._store.set, f"{self._generation}/ended", "")
        hosts = int(os.environ["GROUP_WORLD_SIZE"])
        for _ in range(lost_hosts if hosts > 1 else 0):
            self._ask(_barrier_nonblocking, self._agents, hosts, _TERMINAL_STATE_SYNC_ID)

    def remember(self, name: str, value: str) -> None:
        """Keeps a text for the devices, and for the server that torchrun may start after this one."""
        self._ask(self._store.set, f"memory/{name}", value)

    def recall(self, name: str) -> str | None:
        """Returns a text that an earlier server has left."""
        return self._get(f"memory/{name}")

    def expect(self, name: str) -> str:
        """Waits for a text that the server keeps; called on devices.

        Raises:
            PeerError: it has not come in time.
        """
        began = time.monotonic()
        while (value := self.recall(name)) is None:
            if time.monotonic() - began > self.timeout_s:
                raise PeerError(f"rank {self._rank} waited {self.timeout_s:.0f} s for the server")
            time.sleep(POLL_S)
        return value

    def init_method(self) -> str:
        """Returns the URL by which `torch.distributed.rpc` meets in this generation."""

        def meet(url: str, **_: Any) -> Iterator[tuple[Store, int, int]]:
            yield PrefixStore(f"{self._generation}/rpc", self._store), self._rank, _world_size()

        register_rendezvous_handler(SCHEME, meet)
        return f"{SCHEME}://"

    def _get(self, key: str) -> str | None:
        return str(self._ask(self._store.get, key).decode()) if self._ask(self._store.check, [key]) else None

    def _ask(self, operation: Callable[..., T], *args: Any) -> T:
        """Returns the answer of the store, which lives in torchrun's agent on the first machine."""
        try:
            return operation(*args)
        except RuntimeError as error:
            raise PeerError(f"rank {self._rank} lost torchrun's store: {first_line(error)}") from error


def _world_size() -> int:
    return int(os.environ["WORLD_SIZE"])
