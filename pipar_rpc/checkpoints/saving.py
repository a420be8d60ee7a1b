"""Checkpoints of a running job."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipar_rpc.aggregation.rules import networks_kept
from pipar_rpc.base.errors import RegroupError
from pipar_rpc.base.states import State, copied
from pipar_rpc.checkpoints.background import Writer, writing
from pipar_rpc.checkpoints.best_model import BestModel, deciding_samples
from pipar_rpc.checkpoints.file import Checkpoint, CheckpointFolder
from pipar_rpc.coordination.aggregation import average
from pipar_rpc.coordination.coordinator import Coordinator
from pipar_rpc.coordination.rounds import Position
from pipar_rpc.plan.plan import Plan
from pipar_rpc.privacy.ledger import Ledger
from pipar_rpc.results.columns import Row
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.transport.rpc_group import Session

log = logging.getLogger(__name__)


def needed_bytes(plan: Plan) -> int:
    """Computes the bytes of the checkpoints and the models that a job keeps."""
    settings, num_devices = plan.settings, len(plan.devices)
    best = int(deciding_samples(plan) is not None)
    if not plan.checkpoints.every:
        return plan.network.num_bytes * (1 + best)
    networks = num_devices if settings.aggregation_every == 0 else 1
    optimizers = num_devices * settings.optimizer_copies
    in_each = networks + optimizers + networks_kept(settings.aggregation_rule) + best
    kept = plan.checkpoints.num_kept(plan.network.num_bytes * in_each)
    return math.ceil(plan.network.num_bytes * (1 + best + in_each * (kept + 1)))


class Saver:
    """Has a checkpoint written at the end of every so many rounds; no measured time contains what it takes.

    The training waits until a copy of all that will change has been made, and until the checkpoint before has
    been written; the rest happens while it goes on.

    Args:
        writer: writer of the checkpoints.
        coordinator: coordinator of the job.
        group: RPC group, which knows the lost devices that have come back.
        best: best network so far.
        ledger: account of how often the devices' data was used.
        elapsed_s: real seconds of training before this process began.
    """

    def __init__(
        self,
        writer: Writer,
        coordinator: Coordinator,
        group: Session,
        best: BestModel,
        ledger: Ledger,
        elapsed_s: float,
    ) -> None:
        self._writer, self._coordinator, self._membership = writer, coordinator, coordinator.membership
        self._group, self._best, self._ledger, self._told = group, best, ledger, False
        self._began, self._saved_at = time.monotonic() - elapsed_s, time.monotonic()
        self._waited_s = 0.0

    def after_round(
        self, position: Position, network: State | None, plan: Plan, rows: list[Row], last: bool = False
    ) -> None:
        """Writes a checkpoint if one is due, as it is after the `last` round; other arguments as of `save`.

        Raises:
            RegroupError: a lost device has come back, which only a new group can admit.
        """
        settings = plan.checkpoints
        returned = [] if last else self._group.returned()
        regroups = bool(returned) and self._can_regroup(returned, settings.every > 0)
        minutes = (time.monotonic() - self._saved_at) / 60
        if last or regroups or settings.is_due(self._membership.round, minutes):
            written = self.save(position, network, plan, rows, completely=last or regroups)
            if regroups and written:
                again = f"all ranks start again from the end of round {self._membership.round}"
                raise RegroupError(f"{' and '.join(returned)} came back: {again}")

    def _can_regroup(self, names: list[str], saved: bool) -> bool:
        """Whether a new group can admit these devices; logs once why not."""
        able = saved and self._group.can_regroup
        if not able and not self._told:
            self._told = True
            lacking = "--max-restarts" if saved else "checkpoints"
            log.warning("%s came back, but cannot be let in without %s", " and ".join(names), lacking)
        return able

    def save(
        self,
        position: Position,
        network: State | None,
        plan: Plan,
        rows: list[Row],
        completely: bool = False,
    ) -> bool:
        """Has a checkpoint written, if there are to be any; if that fails, the log says so.

        Args:
            position: iteration at which to go on.
            network: global network; None if it was not averaged.
            plan: plan of the job, with the present P and N.
            rows: rows of the epochs that have ended.
            completely: whether to wait until it is complete.

        Returns:
            Whether it is being written, or if `completely`, whether it is complete.
        """
        if not plan.checkpoints.every:
            return False
        began = time.monotonic()
        self._writer.finish()  # before another copy is made: there is memory for one
        self._writer.begin(self._take(position, network, plan, rows))
        written = self._writer.finish() if completely else True
        self._saved_at = time.monotonic()
        self._waited_s += self._saved_at - began
        return written

    def finish(self) -> None:
        """Waits until nothing is being written."""
        self._writer.finish()

    def drain_wait_s(self, plan: Plan) -> float | None:
        """Returns for how long the training has waited since the last call, emulated; None without any."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s * plan.settings.time_scale if plan.checkpoints.every else None

    def _take(self, position: Position, network: State | None, plan: Plan, rows: list[Row]) -> Checkpoint:
        """All that a checkpoint holds, in tensors of its own where the training changes them."""
        everyone = self._membership.everyone
        networks = [network] if network is not None else self._own_networks()
        return Checkpoint(
            round=self._membership.round,
            epoch=position.epoch,
            iteration=position.iteration,
            networks=[copied(own) for own in networks],
            optimizers=self._coordinator.optimizer_states(plan.settings.strategy.shared_half),
            cuts=plan.cuts,
            settings=dict(plan.checkpoints.same),  # without P and N, which may change
            rows=[dict(row) for row in rows],
            elapsed_s=(time.monotonic() - self._began) * plan.settings.time_scale,
            num_iterations=(position.epoch - 1) * max(handle.iterations for handle in everyone)
            + position.iteration,
            rule=copied(self._coordinator.rule_state()),
            best=self._best.state,
            exposed=self._ledger.state(),
            noise=plan.noise,
        )

    def _own_networks(self) -> list[State]:
        """Returns every device's network; for a device that has left, the average of the others."""
        networks = self._coordinator.networks()
        if len(networks) < len(self._membership.everyone):
            mean = average(list(networks.values()), [1] * len(networks), Timeline())
            return [networks.get(handle, mean) for handle in self._membership.everyone]
        return list(networks.values())


@contextmanager
def saving(
    folder: CheckpointFolder,
    coordinator: Coordinator,
    group: Session,
    best: BestModel,
    ledger: Ledger,
    elapsed_s: float,
) -> Iterator[Saver]:
    """Opens the saver of a job; at its end, what is being written is completed.

    Args:
        folder: folder of the checkpoints.
        coordinator, group, best, ledger, elapsed_s: see `Saver`.
    """
    with writing(folder) as writer:
        yield Saver(writer, coordinator, group, best, ledger, elapsed_s)
