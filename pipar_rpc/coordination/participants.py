"""The devices of each round: whom the policy chooses among those that are there and have samples left."""

from collections.abc import Sequence

from pipar_rpc.aggregation.participation import Participation
from pipar_rpc.base.errors import UserError
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.rounds import Round


class Participants:
    """Asks the policy once for each round.

    Args:
        membership: devices that take part in the job.
        policy: policy that chooses among them.
    """

    def __init__(self, membership: Membership, policy: Participation) -> None:
        self._membership, self._policy = membership, policy
        self._asked: dict[int, list[DeviceHandle]] = {}

    def of(self, current: Round) -> list[DeviceHandle]:
        """Returns the devices that train the present round; raises UserError if the policy fails."""
        return self._chosen(self._membership.round, current.start)

    def of_next(self, current: Round) -> list[DeviceHandle]:
        """Returns the devices that train the round after this one.

        Empty if the policy cannot say, which is no matter if there is no such round.
        """
        try:
            return self._chosen(self._membership.round + 1, current.next.iteration)
        except UserError:
            return []

    def _chosen(self, number: int, start: int) -> list[DeviceHandle]:
        """The devices of a round; chosen again if one of them has been lost since."""
        known = self._asked.get(number)
        if known is None or not all(handle.present for handle in known):
            everyone = self._membership.everyone
            chosen = self._policy.choose(number, self._numbers(start))
            self._asked = {number: [everyone[k - 1] for k in chosen]}
        return self._asked[number]

    def _numbers(self, start: int) -> Sequence[int]:
        """Numbers of the devices that have iterations left from `start` on; of all, if none has."""
        present = self._membership.handles
        there = [(k, each) for k, each in enumerate(self._membership.everyone, start=1) if each in present]
        left = [k for k, handle in there if handle.iterations > start]
        return left or [k for k, _ in there]
