"""Checkpoints of a running job."""

import logging
import time
from collections.abc import Callable

from pipar_rpc.aggregator import average
from pipar_rpc.checkpoint import Checkpoint, CheckpointFolder
from pipar_rpc.coordinator import Coordinator
from pipar_rpc.errors import RegroupError, UserError
from pipar_rpc.fedavg import State
from pipar_rpc.plan import Plan
from pipar_rpc.resuming import settings_of
from pipar_rpc.roster import Roster
from pipar_rpc.session import Session
from pipar_rpc.sinks import Row
from pipar_rpc.timeline import Timeline

log = logging.getLogger(__name__)


def needed_bytes(plan: Plan) -> int:
    """Bytes of the checkpoints and the model that a job keeps."""
    config, num_devices = plan.config, len(plan.devices)
    if not config.checkpoint.every:
        return plan.network.num_bytes
    networks = num_devices if config.aggregation.every == 0 else 1
    momenta = num_devices if config.optimizer.momentum else 0
    return plan.network.num_bytes * (1 + (networks + momenta) * (config.checkpoint.keep + 1))


class Saver:
    """Writes a checkpoint at the end of every so many rounds. What it takes is in no measured time.

    Args:
        folder: where to.
        every: rounds between two checkpoints; 0 for none.
        coordinator: of the job.
        roster: of the job.
        plan: of the job, as it is at the moment.
        rows: of the epochs that have ended; grows meanwhile.
        group: tells which lost devices have come back.
        elapsed_s: real seconds that were trained before.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        every: int,
        coordinator: Coordinator,
        roster: Roster,
        plan: Callable[[], Plan],
        rows: list[Row],
        group: Session,
        elapsed_s: float,
    ) -> None:
        self._folder, self._every = folder, every
        self._coordinator, self._roster, self._plan, self._rows = coordinator, roster, plan, rows
        self._group, self._told = group, False
        self._began = time.monotonic() - elapsed_s
        self._settings = settings_of(plan())  # P and N, which may change, are not in it

    def after_round(self, epoch: int, iteration: int, network: State | None, last: bool = False) -> None:
        """Writes one if it is due; arguments as `save`, and whether the training ends.

        Raises:
            RegroupError: a lost device has come back, which only a new group can admit.
        """
        returned = [] if last else self._group.returned()
        regroups = bool(returned) and self._can_regroup(returned)
        if self._every and (last or regroups or self._roster.round % self._every == 0):
            written = self.save(epoch, iteration, network)
            if regroups and written:
                again = f"all ranks start again from the end of round {self._roster.round}"
                raise RegroupError(f"{' and '.join(returned)} came back: {again}")

    def _can_regroup(self, names: list[str]) -> bool:
        """Whether it can be done; says once why not."""
        able = self._every > 0 and self._group.can_regroup
        if not able and not self._told:
            self._told = True
            lacking = "--max-restarts" if self._every else "checkpoints"
            log.warning("%s came back, but cannot be let in without %s", " and ".join(names), lacking)
        return able

    def save(self, epoch: int, iteration: int, network: State | None) -> bool:
        """Writes one; if that fails, the log says so, and the result is false.

        Args:
            epoch: in which to go on.
            iteration: at which to go on.
            network: the global network; None if it was not averaged.
        """
        if not self._every:
            return False
        checkpoint = self._take(epoch, iteration, network)
        try:
            self._folder.save(checkpoint)
        except (OSError, UserError) as error:
            log.warning("the checkpoint of round %d could not be written: %s", checkpoint.round, error)
            return False
        return True

    def _take(self, epoch: int, iteration: int, network: State | None) -> Checkpoint:
        everyone = self._roster.everyone
        momentum = self._coordinator.momentum() if self._roster.round else {}
        networks = [network] if network is not None else self._own_networks()
        plan = self._plan()
        shared = plan.config.resolved_strategy.shared_half  # it is also the half of those that have left
        return Checkpoint(
            round=self._roster.round,
            epoch=epoch,
            iteration=iteration,
            networks=networks,
            momentum=[momentum.get(peer) or (peer.half.momentum() if shared else {}) for peer in everyone],
            cuts=[(job.split_point, job.num_micro_batches) for job in plan.devices],
            settings=self._settings,
            rows=self._rows,
            elapsed_s=(time.monotonic() - self._began) * plan.config.testbed.time_scale,
            num_iterations=(epoch - 1) * max(peer.iterations for peer in everyone) + iteration,
        )

    def _own_networks(self) -> list[State]:
        """Of every device; those that have left get the average of the others."""
        own = self._coordinator.networks()
        if len(own) < len(self._roster.everyone):
            mean = average(list(own.values()), [1] * len(own), Timeline())
            return [own.get(peer, mean) for peer in self._roster.everyone]
        return list(own.values())
