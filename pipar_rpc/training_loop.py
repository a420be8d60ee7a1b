"""The training of a job, round by round: what happens between two updates of the global network, in order."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipar_rpc.base.errors import PeerError
from pipar_rpc.base.states import State
from pipar_rpc.checkpoints.best_model import BestModel
from pipar_rpc.checkpoints.saving import Saver
from pipar_rpc.coordination.coordinator import Coordinator, Trained
from pipar_rpc.coordination.epoch_result import EpochResult, EpochSums
from pipar_rpc.coordination.rounds import Position
from pipar_rpc.plan.plan import Plan
from pipar_rpc.plan.settings import Settings
from pipar_rpc.privacy.ledger import Ledger
from pipar_rpc.results.columns import Row
from pipar_rpc.results.observer import Observer
from pipar_rpc.results.outputs import Outputs
from pipar_rpc.results.rows import epoch_line, evaluation_columns, make_row, targets_line
from pipar_rpc.results.terminal import Progress
from pipar_rpc.selector.reselection import Reselector
from pipar_rpc.selector.selection import Selection
from pipar_rpc.training.evaluation import Evaluation, Evaluator

log = logging.getLogger(__name__)


def has_reached(row: Row, targets: Mapping[str, float]) -> bool:
    """Whether an epoch has all the accuracies that end a job, by column; never if there are none."""
    reached = [row.get(name) is not None and row[name] >= target for name, target in targets.items()]
    return bool(targets) and all(reached)


def is_done(settings: Settings, epoch: int, rows: Sequence[Row]) -> bool:
    """Whether nothing is left to train: no epoch, or one has reached the accuracies that end the job.

    Args:
        settings: settings of the job.
        epoch: epoch that would be trained next, from 1.
        rows: rows of the epochs that have ended.
    """
    return epoch > settings.epochs or any(has_reached(row, settings.until) for row in rows)


@dataclass(frozen=True)
class EndedEpoch:
    """An epoch whose networks have been evaluated, its row of the results, and what the test samples gave."""

    result: EpochResult
    row: Row
    test: Evaluation | None


class Held(NamedTuple):
    """What was measured on held-out samples: the evaluation of the test samples, and all columns."""

    test: Evaluation | None
    row: Row


@dataclass(frozen=True)
class TrainingLoop:
    """Trains a job.

    Attributes:
        number: the job's place within a multirun.
        first_plan: the job with the P and N that it begins with.
        coordinator: the devices' rounds and averages.
        reselector: chooses P and N again; None if they stay.
        evaluator: measures networks on held-out images.
        saver: writes checkpoints.
        best: keeps the network with the highest accuracy.
        ledger: account of how often the devices' data was used.
        observer: records what happens.
        progress: the bar on the terminal.
        outputs: receive the rows.
        rows: rows of all epochs so far; grows.
    """

    number: int
    first_plan: Plan
    coordinator: Coordinator
    reselector: Reselector | None
    evaluator: Evaluator
    saver: Saver
    best: BestModel
    ledger: Ledger
    observer: Observer
    progress: Progress
    outputs: Outputs
    rows: list[Row]

    def run(self, start: Position) -> State | None:
        """Trains from `start` until the job is done; returns the global network, None if nothing was trained.

        Raises:
            RegroupError: a lost device has come back, which only a new group can admit.
            PeerError: a device failed, or too few are left.
            UserError: a device cannot do its part, for a reason the user can mend.
        """
        final, settings = None, self.first_plan.settings
        for epoch in range(start.epoch, settings.epochs + 1):
            begin = start if epoch == start.epoch else Position(epoch)
            if is_done(settings, epoch, self.rows) or self._ends_early(begin):
                break
            plan, selection = self.plan, self.selection  # as the epoch begins: the rounds may change them
            self.observer.begin(epoch)
            self.progress.start(epoch)
            sums, network = EpochSums(self.coordinator.membership.everyone, begin.iteration), None
            for this in self.coordinator.rounds(begin):
                trained = self.coordinator.train(this, sums)  # both halves of every device have ended
                self._note_exposed(trained)
                network = self.coordinator.average(trained, sums)
                if self.reselector and network is not None:
                    sums.uploaded(self.reselector.choose_again(network, this))
                if not this.ends_epoch:
                    with sums.paused():
                        self.saver.after_round(this.next, network, self.plan, self.rows)
            # Whichever round was the last: the device with the most to train may have been lost in it.
            if (ended := self._end(epoch, sums, network, plan, selection)) is None:
                log.warning("epoch %d: nothing was trained: all that were to train are lost", epoch)
                continue
            self.best.consider(self.rows, ended.result.network)
            last = is_done(settings, epoch + 1, self.rows) or bool(self.ledger.spent())
            self.saver.after_round(Position(epoch + 1), network, self.plan, self.rows, last)
            self._report(ended, last)
            final = ended.result.network
        self.saver.finish()  # nothing is written after the model
        if not self.rows:
            raise PeerError("nothing was trained: all devices that were to train are lost")
        return final

    def _ends_early(self, begin: Position) -> bool:
        """Whether the privacy budget of a device does not suffice for the epoch, which is told then."""
        spent = "" if begin.iteration else self.ledger.spent()
        if spent:
            line = f"the job ends before epoch {begin.epoch}: {spent}"
            log.info(line)
            self.outputs.event(line, self.coordinator.membership.round)
        return bool(spent)

    def _note_exposed(self, trained: Trained) -> None:
        """Enters a round into the account of what the devices' data has been exposed to."""
        for number, handle in enumerate(self.coordinator.membership.everyone, start=1):
            if handle in trained.reports:
                split = self.plan.devices[number - 1].split_point < self.plan.devices[number - 1].num_units
                iterations = trained.reports[handle].iterations
                self.ledger.trained(number, trained.round.epoch, iterations, split)
        if trained.uploads:
            self.ledger.averaged(self._participation(trained))

    def _participation(self, trained: Trained) -> float:
        """Probability that a device took part in a round; 1 where nothing is known of the user's policy.

        Devices that were lost in the round are not among those that could be chosen, so that it is rather
        too large.
        """
        if self.first_plan.settings.participation.target is not None:
            return 1.0
        handles = self.coordinator.membership.handles
        left = [handle for handle in handles if handle.iterations > trained.round.start] or handles
        return min(1.0, len(trained.uploads) / max(1, len(left)))

    @property
    def selection(self) -> Selection | None:
        """The present choice of P and N; None if they were not chosen."""
        return self.reselector.selection if self.reselector else None

    @property
    def plan(self) -> Plan:
        """The job with the present P and N."""
        return self.selection.plan if self.selection else self.first_plan

    def _end(
        self, epoch: int, sums: EpochSums, network: State | None, plan: Plan, selection: Selection | None
    ) -> EndedEpoch | None:
        """Evaluates an epoch and adds its row; None if those that are left had nothing to train."""
        result, settings = sums.result(network), plan.settings
        self.progress.stop()
        if result is None:
            return None
        if network is None and epoch == settings.epochs:
            result.network = self.coordinator.gather()
        measured = self._evaluate(epoch, result)  # before the row, which has the memory's peak
        row = make_row(plan, self.number, epoch, result) | measured.row | self.ledger.epsilons()
        row |= {"updates_clipped": self.ledger.drain_clipped()} | self.observer.observe(epoch, result)
        row |= {"checkpoint_wait_s": self.saver.drain_wait_s(plan)}
        if selection:
            predicted_s = selection.predicted_s * settings.time_scale
            row |= selection.link_mbps | {"predicted_iteration_s": predicted_s}
        self.rows.append(row)
        return EndedEpoch(result, row, measured.test)

    def _evaluate(self, epoch: int, result: EpochResult) -> Held:
        """What is measured on held-out samples; None where there is no network or no sample."""
        settings, evaluator, state = self.first_plan.settings, self.evaluator, result.network
        own = result.device_networks if settings.device_val else []
        names = [name for name, wanted in (("val", settings.val), ("test", settings.test)) if wanted]
        work = evaluator.num_samples(*names) * (state is not None) + evaluator.num_samples("val") * len(own)
        self.progress.start_evaluation(epoch, work)
        found = {name: evaluator.measure(state, name) if state else None for name in names}
        cut = self.plan.common_cut
        coded = evaluator.measure(state, "test", cut) if state and cut and settings.test else None
        by_device = tuple(evaluator.measure(network, "val") if network else None for network in own)
        self.progress.stop()
        return Held(found.get("test"), evaluation_columns(found, by_device, coded))

    def _report(self, ended: EndedEpoch, last: bool) -> None:
        self.outputs.add(ended.row)
        if last:
            self.outputs.confusion(ended.test, self.first_plan.devices[0].data.classes)
        settings = self.first_plan.settings
        reached = targets_line(settings.until) if has_reached(ended.row, settings.until) else ""
        log.info(epoch_line(ended.row, settings.epochs, reached))
        self.observer.warn(ended.result, ended.row)
        if reached:
            ends = f"the job ends after epoch {ended.row['epoch']}: {reached}"
            self.outputs.event(ends, self.coordinator.membership.round)
