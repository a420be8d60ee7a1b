"""Chooses split point P and number of micro-batches N of each device: those with the shortest predicted time.

Every P in 1..Q and every N is tried. For the best P, the smallest N is taken whose time is that of the best
within 1 %: predictions are not better, and what they leave out is what further micro-batches cost. P = Q is
federated learning, where nothing crosses but models: strong devices on slow links are told to train alone.
`Method.paper` is the published formula instead (PiPar, section III-C), which takes a stage's time to be in
proportion to its samples and tries one N for each P.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from pipar_rpc.plan.strategies import Method
from pipar_rpc.selector.facts import DeviceFacts, ServerFacts, UnitSizes, needed_bytes
from pipar_rpc.selector.prediction import Candidate, Predictor
from pipar_rpc.timing.stage_recurrence import Array

NOISE = 0.01  # of a prediction, at best; within it, fewer micro-batches are the safer choice


def _fewest(totals: Array) -> int:
    """The smallest N whose time is that of the best N, but for noise: predictions leave out what N costs.

    Args:
        totals: seconds for N = 1, 2, ...; the least of them is finite.
    """
    return int(np.flatnonzero(totals <= (1 + NOISE) * totals.min())[0]) + 1


def rank(predictor: Predictor, method: Method, split_points: Sequence[int], count: int) -> list[Candidate]:
    """The `count` fastest candidates, the chosen one first; it is the fastest but for noise, see `_fewest`.

    Args:
        predictor: predictor of the device's iterations.
        method: way of finding N.
        split_points: P from which to choose.
        count: number of candidates to return.

    Raises:
        ValueError: no split point fits into the device's memory.
    """
    allowed = [point for point in split_points if predictor.fits[point - 1]]
    if not allowed:
        least = min(split_points)
        device = predictor.device
        needed = needed_bytes(predictor.sizes, device.batch_size, device.tail_units)[least - 1] / 1e6
        left = device.memory_bytes / 1e6
        raise ValueError(f"P = {least} needs {needed:.0f} MB, and {max(0.0, left):.0f} MB are left")
    if method is Method.paper:
        counts = predictor.published_counts()
        pairs = [(point, counts[point - 1]) for point in allowed if point <= len(counts)]
        found = [predictor.candidate(*pair) for pair in pairs]
        return sorted(found, key=lambda candidate: candidate.total_s)[:count]
    largest = predictor.most_micro_batches
    totals = predictor.totals()[np.array(allowed) - 1]
    best = np.argsort(totals, axis=None, kind="stable")
    row = int(best[0]) // largest
    chosen = row * largest + _fewest(totals[row]) - 1
    best = np.concatenate([[chosen], best[best != chosen]])[:count]
    cuts = [(allowed[cut // largest], cut % largest + 1) for cut in best.tolist()]
    return [
        predictor.candidate(*cut)
        for cut, total in zip(cuts, totals.ravel()[best], strict=True)
        if math.isfinite(total)
    ]


def predict(
    devices: Sequence[DeviceFacts],
    server: ServerFacts,
    sizes: Sequence[UnitSizes],
    cuts: Sequence[tuple[int, int]],
) -> list[Candidate]:
    """What given (P, N) are predicted to take, one pair for each device."""
    halves = sum(split_point < len(sizes) for split_point, _ in cuts)
    return [
        Predictor(device, server, sizes, halves).candidate(*cut)
        for device, cut in zip(devices, cuts, strict=True)
    ]


def best_of_each(
    devices: Sequence[DeviceFacts],
    server: ServerFacts,
    sizes: Sequence[UnitSizes],
    method: Method,
    halves: int,
) -> list[list[Candidate]]:
    """For each device the best N for each split point that fits into its memory, with a known load."""

    def best(device: DeviceFacts) -> list[Candidate]:
        predictor = Predictor(device, server, sizes, halves)
        if method is Method.paper:
            cuts = list(enumerate(predictor.published_counts(), start=1))
        else:
            totals = predictor.totals()
            finite = np.isfinite(totals).any(axis=1)
            cuts = [(row + 1, _fewest(totals[row])) for row in np.flatnonzero(finite).tolist()]
        return [predictor.candidate(*cut) for cut in cuts if predictor.fits[cut[0] - 1]]

    return _for_each(devices, best)


def _for_each(
    devices: Sequence[DeviceFacts], find: Callable[[DeviceFacts], list[Candidate]]
) -> list[list[Candidate]]:
    """What `find` gives for each device; it is asked once for equal ones. Its ValueErrors name the device."""
    found: list[list[Candidate]] = []
    for number, device in enumerate(devices, start=1):
        same = next((n for n, other in enumerate(devices[: number - 1]) if other == device), None)
        try:
            found.append(find(device) if same is None else found[same])
        except ValueError as error:
            raise ValueError(f"device {number}: {error}") from error
    return found


def choose(
    devices: Sequence[DeviceFacts],
    server: ServerFacts,
    sizes: Sequence[UnitSizes],
    method: Method = Method.exhaustive,
    split_points: Sequence[int] | None = None,
    count: int = 10,
) -> list[list[Candidate]]:
    """For each device the `count` fastest candidates, the chosen one first.

    The server is the slower, the more devices use it, and the slower it is, the more devices train alone. So
    this searches for the smallest number of users that is consistent: with the server as fast as it is for
    that number, no more devices than that choose to use it.

    Args:
        devices: facts about each device.
        server: facts about the server.
        sizes: sizes of each unit.
        method: way of finding N.
        split_points: P from which to choose; all by default.
        count: number of candidates to return.

    Raises:
        ValueError: none of the split points fits into a device's memory; the message names the device.
    """
    points = list(split_points or range(1, len(sizes) + 1))

    def ranked(halves: int) -> list[list[Candidate]]:
        return _for_each(
            devices, lambda device: rank(Predictor(device, server, sizes, halves), method, points, count)
        )

    def using(found: list[list[Candidate]]) -> int:
        return sum(own[0].split_point < len(sizes) for own in found)

    most = len(devices)
    found = ranked(most)
    least = using(found)
    while least < most:
        halves = (least + most) // 2
        tried = ranked(halves)
        if using(tried) <= halves:
            most, found = halves, tried
        else:
            least = halves + 1
    return found
