"""What launch.headline compares: iterations that were run, and those that the stage recurrence gives."""

import math
from collections.abc import Sequence
from dataclasses import replace

from launch.headline_values import COMPARED, Case, Check, Figures, Link, Place
from pipar_rpc.base.errors import UserError
from pipar_rpc.models import MODELS
from pipar_rpc.plan.strategies import Method
from pipar_rpc.results.run_files import FACTS
from pipar_rpc.results.runs import NETWORKS, Run
from pipar_rpc.selector.choose import choose
from pipar_rpc.selector.facts import Facts
from pipar_rpc.selector.facts_file import read_facts
from pipar_rpc.selector.prediction import Predictor


class Reckoner:
    """Computes iterations from what a run's selector measured; its devices are all alike.

    Args:
        facts: facts of the run.
        link: links of the devices, which may be others than the run's.
    """

    def __init__(self, facts: Facts, link: Link) -> None:
        self._facts, self._halves = facts, len(facts.devices)
        self._device = replace(facts.devices[0], **link._asdict(), iterations=math.inf, num_samples=math.inf)
        once = replace(self._device, iterations=1)  # models are reckoned for one iteration
        self._predictor = Predictor(once, facts.server, facts.sizes, self._halves)

    @property
    def num_units(self) -> int:
        """Q, which is the split point of federated learning."""
        return len(self._facts.sizes)

    def figures(self, split_point: int, num_micro_batches: int) -> Figures:
        """Computes an iteration. The halves of devices that are alike compute at the same times."""
        server, found = self._facts.server, self._predictor.candidate(split_point, num_micro_batches)
        busy_s = 0.0
        if split_point < self.num_units:
            each = found.stages.server_forward + found.stages.server_backward
            busy_s = num_micro_batches * (float(each) - server.handling_s(self._halves))
            busy_s += sum(unit.update for unit in server.units[split_point:])
        idle_s = max(0.0, found.iteration_s - busy_s)
        return Figures(split_point, num_micro_batches, found.iteration_s, idle_s, found.moving_s)

    def federated(self) -> Figures:
        """Computes federated learning."""
        return self.figures(self.num_units, 1)

    def best_split(self) -> Figures:
        """Computes split federated learning with the split point whose iterations are shortest."""
        cuts = (self.figures(point, 1) for point in range(1, self.num_units))
        return min(cuts, key=lambda own: own.iteration_s)

    def selected(self, method: Method = Method.exhaustive) -> Figures:
        """Computes PiPar with the P and N that the selector, or the paper's formula, chooses."""
        devices = [self._device] * self._halves
        (best, *_), *_ = choose(devices, self._facts.server, self._facts.sizes, method)
        return self.figures(*best.cut)


class Runs:
    """Runs with their places, and what was measured for them.

    Args:
        runs: runs, as `load` returns them.

    Raises:
        UserError: no run has what its selector measured.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.links = {run.case.network: _link(run) for run in sorted(runs, key=lambda run: run.case.place)}
        self._facts = {
            _place(run): read_facts(path) for run in runs if (path := run.folder / FACTS).is_file()
        }
        if not self._facts:
            raise UserError(f"no run with {FACTS}, which jobs with the selector write (method=selected)")
        self._runs: dict[tuple[Place, str], Run] = {}
        for run in (run for run in runs if run.strategy in COMPARED):
            known = self._runs.setdefault((_place(run), run.strategy), run)
            if run.median("iteration_time_s") < known.median("iteration_time_s"):
                self._runs[_place(run), run.strategy] = run

    def reckoner(self, place: Place) -> Reckoner | None:
        """A reckoner for a place, by what was measured there or over other links; None without that."""
        same = {at.network: facts for at, facts in self._facts.items() if at[:2] == place[:2]}
        if not same:
            return None
        return Reckoner(same.get(place.network) or next(iter(same.values())), self.links[place.network])

    def facts(self, model: str) -> Facts | None:
        """What was measured for a network with the most devices."""
        found = {at.num_devices: facts for at, facts in self._facts.items() if at.model == model}
        return found[max(found)] if found else None

    def measured(self, place: Place, strategy: str) -> Figures | None:
        """Figures of the fastest run of a strategy; None without a run, or without a reckoner."""
        run, reckoner = self._runs.get((place, strategy)), self.reckoner(place)
        if run is None or reckoner is None:
            return None
        cut = _cut(run, reckoner)
        training_s = run.median("training_time_s")
        busy_s = run.median("epoch_time_s") - run.median("server_idle_s")
        return Figures(
            *cut,
            iteration_s=run.median("iteration_time_s"),
            server_idle_s=max(0.0, training_s - busy_s) / run.iterations,
            models_s=reckoner.figures(*cut).models_s,
        )

    def checks(self) -> list[Check]:
        """Every run for which there is a reckoner, beside what that computes."""
        found = []
        for place, strategy in sorted(self._runs, key=lambda key: (_order(key[0]), COMPARED.index(key[1]))):
            reckoner, run = self.reckoner(place), self.measured(place, strategy)
            if reckoner and run:
                computed = reckoner.figures(run.split_point, run.num_micro_batches)
                found.append(Check(place, strategy, run, computed))
        return found

    def cases(self) -> list[Case]:
        """Every network and number of devices for which there is a reckoner, over all links."""
        found, far = list[Case](), {check.place[:2] for check in self.checks() if not check.near}
        pairs = {at[:2] for at in self._facts}
        for place in sorted((Place(*pair, link) for pair in pairs for link in self.links), key=_order):
            run = {strategy: self.measured(place, strategy) for strategy in COMPARED}
            measured = {strategy: own for strategy, own in run.items() if own is not None}
            if len(measured) == len(COMPARED):
                found.append(Case(place, True, measured))
            elif (own := self.reckoner(place)) is not None:
                computed = {"fl": own.federated(), "sfl": own.best_split(), "pipar": own.selected()}
                found.append(Case(place, False, computed, valid=place[:2] not in far))
        return found

    def better_splits(self) -> list[tuple[Place, int, int]]:
        """Places where the recurrence knows a better split point for SFL than was run: it, and that one."""
        found = []
        for case in self.cases():
            own = self.reckoner(case.place) if case.measured else None
            if own is not None and (best := own.best_split().split_point) != case.of["sfl"].split_point:
                found.append((case.place, best, case.of["sfl"].split_point))
        return found


def _place(run: Run) -> Place:
    return Place(run.case.model, int(run.case.num_devices), run.case.network)


def _order(place: Place) -> tuple[int, int, int]:
    """The key that sorts places: networks as models/ has them, few devices first, slow links first."""
    known = [*MODELS].index(place.model) if place.model in MODELS else len(MODELS)
    return known, place.num_devices, ([*NETWORKS, place.network]).index(place.network)


def _link(run: Run) -> Link:
    network = run.settings.get("network") or {}
    rates = (network.get(f"{way}_mbps") for way in ("uplink", "downlink"))
    return Link(*(math.inf if rate is None else float(rate) for rate in rates))


def _cut(run: Run, reckoner: Reckoner) -> tuple[int, int]:
    """P and N of a run whose devices are alike."""
    if run.strategy == "fl":
        return reckoner.num_units, 1
    try:
        return int(run.text("split_point")), int(run.text("num_micro_batches"))
    except ValueError as error:
        raise UserError(f"{run.folder}: its devices have different P or N, and here all are alike") from error
