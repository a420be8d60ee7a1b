"""A device between the rounds that it trains: all that it needs is its data and its optimiser's state."""

from collections.abc import Mapping

from pipar_rpc.base.states import State
from pipar_rpc.testbed.device_speed import MachineSpeed, calibrate
from pipar_rpc.training.device_half import DeviceHalf


class RestingHalf(DeviceHalf):
    """A device half that may give its network up, with optimiser and exchange, until `load` brings a network.

    What it computes then is, bit for bit, what it would compute if it had kept them: whoever trains a round
    begins it with the global network, and every random choice has a generator of its own.
    """

    _kept: State | None = None  # the optimiser's state of a half that rests

    def rest(self) -> None:
        """Gives the network up; to be called between rounds, and only if the device will be given another."""
        if self._kept is not None:
            return
        self._kept, self._speed, self._given = self.optimizer_state(), self._cut.speed, None
        self._cut.exchange.close()
        del self._cut, self._layers, self._head, self._optimizer

    def load(self, payload: State) -> None:
        """Replaces parameters and buffers, see `DeviceHalf.load`; a half that rests goes on with them.

        Args:
            payload: network that the server has encoded; whole if the half rests.
        """
        if self._kept is None:
            super().load(payload)
        else:
            self.wake(self._models.decode(payload, None))

    def wake(self, state: State) -> None:
        """Goes on with a network as it is, after a rest: it is held anyway, and so has not crossed.

        Args:
            state: parameters and buffers of the device half.
        """
        assert self._make_cut is not None
        assert self._job is not None
        assert self._kept is not None
        kept, self._kept = self._kept, None
        self._hold(self._make_cut(self._job, state), kept)
        self._given = self._base()

    def optimizer_state(self) -> State:
        """Returns a copy of the optimiser's state; of a half that rests, the one that is kept."""
        return super().optimizer_state() if self._kept is None else dict(self._kept)

    def calibrate(self, known: Mapping[str, MachineSpeed]) -> tuple[str, MachineSpeed]:
        """Emulates the device's speed, see `DeviceHalf.calibrate`; from the next network on if it rests."""
        if self._kept is None:
            return super().calibrate(known)
        host, self._machine = calibrate(self._speed, known, self._device)
        return host, self._machine

    def close(self) -> None:
        """Releases the threads."""
        if self._kept is None:
            super().close()
        else:
            self._stack.close()
