"""How long the cut units of a network take on this machine."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pipar_rpc.base.gpu import Stream, main_stream
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.without_compiler import keep_compiler_out, pass_back
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.models import ModelSpec, build_device_layers, build_meta, build_model, output_shape
from pipar_rpc.privacy.cut import CutPrivacy
from pipar_rpc.privacy.dpsgd import timed_gradients
from pipar_rpc.privacy.gradients import PLAIN
from pipar_rpc.privacy.registry import build_cut_privacy
from pipar_rpc.privacy.spec import NO_PRIVACY, PrivacySpec
from pipar_rpc.testbed.steadiness import Repeats, Timed, Waits
from pipar_rpc.testbed.unit_times import UnitTimes

T = TypeVar("T")

BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100)
LIMIT_S = 30.0  # after which a job measures nothing again
PART = Part(1, 0, 1, 1, 1.0)  # the place of what is only timed


def sizes_to_time(batch_size: int, smallest: int) -> list[int]:
    """Sizes of micro-batches that are timed: a few up to the whole mini-batch."""
    return [*(size for size in BATCH_SIZES if smallest <= size < batch_size), batch_size]


class Coder(NamedTuple):
    """What is done at the cut, and timed: codecs on the device or on the server, mechanisms on the device."""

    coding: Coding
    server: bool = False
    privacy: CutPrivacy = CutPrivacy()

    @classmethod
    def of(cls, spec: CodingSpec, privacy: PrivacySpec = NO_PRIVACY, server: bool = False) -> "Coder | None":
        """None where everything crosses as it is."""
        if spec.exact and privacy.idle_at_cut:
            return None
        return cls(Coding(spec), server, build_cut_privacy(privacy))


class UnitTimer:
    """A cut unit that notes how long it computes.

    Args:
        name: name of the unit.
        layers: the unit. It is trained, with a step size of almost nothing.
        device: torch device that computes.
        clock: seconds.
        coder: codecs of what crosses if the network is cut after the unit; None if it crosses as it is.
        private: whether it is trained by DP-SGD, whose time is that of backward pass and update.
        stream: stream on which it is run; by default the main one of `device`.
    """

    def __init__(
        self,
        name: str,
        layers: nn.Module,
        device: torch.device,
        clock: Callable[[], float],
        coder: Coder | None = None,
        private: bool = False,
        stream: Stream | None = None,
    ) -> None:
        self._stream = stream or main_stream(device)
        self._name, self._layers, self._device, self._clock = name, layers.train(), device, clock
        parameters = [own for own in layers.parameters() if own.requires_grad]
        keep_compiler_out()
        self._optimizer = torch.optim.SGD(parameters, lr=1e-9, momentum=0.9) if parameters else None
        self._forward = defaultdict[int, list[float]](list)
        self._backward = defaultdict[int, list[float]](list)
        self._update = defaultdict[int, list[float]](list)
        self._coder, self._gradients = coder, timed_gradients(layers) if private else PLAIN
        self._coding = [defaultdict[int, list[float]](list) for _ in range(4)]
        self._output = torch.empty(0)

    def forward(self, x: Tensor, inputs: Tensor) -> Tensor:
        """The output. The gradient of `x` is computed if `x` requires it: if anything before is trained.

        Args:
            x: input of the unit.
            inputs: input of the network.
        """
        entering = x.detach().requires_grad_(x.requires_grad).clone()  # the unit may work in place
        with self._gradients.watched():
            self._output, seconds = self._timed(lambda: self._layers(entering))
        self._forward[len(x)].append(seconds)
        if self._coder is not None:
            self._code(self._coder, inputs, self._output.detach().requires_grad_())
        return self._output

    def _code(self, coder: Coder, inputs: Tensor, output: Tensor) -> None:
        """What crosses, up and down, once."""
        released, release_s = self._timed(lambda: coder.privacy.release(PART, inputs, output))
        sent, up_s = self._timed(lambda: coder.coding.encode_activation(PART, released.values))
        activation, arrived_s = self._timed(lambda: coder.coding.decode_activation(sent, self._device))
        payload, down_s = self._timed(lambda: coder.coding.encode_gradient(PART, sent, activation))
        received, returned_s = self._timed(lambda: coder.coding.decode_gradient(sent, payload, self._device))
        _, gradient_s = self._timed(lambda: released.gradient(received))
        device, server = (release_s + up_s, returned_s + gradient_s), (down_s, arrived_s)
        here_and_there = (*server, *device) if coder.server else (*device, *server)
        for times, seconds in zip(self._coding, here_and_there, strict=True):
            times[len(output)].append(seconds)

    def backward(self) -> None:
        """The backward pass of the last output, if there is one, and an optimiser step."""
        output, gradient, seconds = self._output, torch.ones_like(self._output), 0.0
        if output.requires_grad:
            _, seconds = self._timed(lambda: self._pass_back(output, gradient))
        self._backward[len(output)].append(seconds)
        if self._optimizer is not None:
            _, seconds = self._timed(partial(self._step, self._optimizer))
            self._update[len(output)].append(seconds)
            self._optimizer.zero_grad()

    def _pass_back(self, output: Tensor, gradient: Tensor) -> None:
        pass_back(output, gradient)
        self._gradients.after(PART)

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        self._gradients.finish(PART)
        optimizer.step()

    def times(self, counted: Mapping[int, Sequence[int]] | None = None) -> UnitTimes:
        """Medians.

        Args:
            counted: numbers of the runs that count, for each batch size; by default all but the first one.
        """

        def of_size(size: int, runs: list[float]) -> list[float]:
            return runs[1:] if counted is None else [runs[number] for number in counted[size]]

        def medians(seconds: Mapping[int, list[float]]) -> dict[int, float]:
            return {size: _median(of_size(size, runs)) for size, runs in seconds.items()}

        passes = medians(self._forward), medians(self._backward)
        coding = map(medians, self._coding)
        updates = [
            own
            for size, runs in self._update.items()
            for own in (runs if counted is None else of_size(size, runs))
        ]
        return UnitTimes(self._name, *passes, _median(updates or [0.0]), *coding)

    def seconds(self, size: int) -> list[float]:
        """Forward and backward pass of every run of a batch size."""
        passes = zip(self._forward[size], self._backward[size], strict=True)
        return [forward + backward for forward, backward in passes]

    def _timed(self, work: Callable[[], T]) -> tuple[T, float]:
        """What `work` returns, and its seconds."""
        return self._stream.timed(work, self._clock)


def run_once(units: Sequence[UnitTimer], inputs: Tensor) -> None:
    """One forward and one backward pass of consecutive units, the first of a network first."""
    x = inputs
    for unit in units:
        x = unit.forward(x, inputs)
    for unit in reversed(units):
        unit.backward()


def timers(
    network: nn.Sequential,
    device: torch.device,
    clock: Callable[[], float],
    coder: Coder | None = None,
    private: bool = False,
    stream: Stream | None = None,
) -> list[UnitTimer]:
    """A timer for each unit of a network that is on `device`; arguments as of `UnitTimer`."""
    named = zip(network._modules, network, strict=True)
    return [UnitTimer(name, layers, device, clock, coder, private, stream) for name, layers in named]


def time_units(
    spec: ModelSpec,
    sizes: Sequence[int],
    runs: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    on_run: Callable[[], object] = lambda: None,
    num_units: int | None = None,
    tail_units: int = 0,
    coder: Coder | None = None,
    private: bool = False,
    limit_s: float = LIMIT_S,
) -> Timed:
    """Trains a network of its own and tells how long each unit took; global random numbers stay as they were.

    Sizes whose runs are not steady are measured again, up to `MOST_BLOCKS` times.

    Args:
        spec: network to time.
        sizes: batch sizes.
        runs: number of runs that count, for each size; there is one more before them.
        device: torch device that computes.
        clock: seconds.
        on_run: function called after each run.
        num_units: number of first units to time; all by default.
        tail_units: number of last units to time besides, on an input of their own.
        coder: codecs of what crosses; None if it crosses as it is.
        private: whether it is trained by DP-SGD.
        limit_s: seconds after which nothing is measured again.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = build_model(spec) if num_units is None else build_device_layers(spec, num_units, tail_units)
        units = timers(network.to(device), device, clock, coder, private)
        inputs = spec.make_input(max(sizes), device)
        pieces = [(units[:num_units], inputs)]
        if tail_units:
            before = output_shape(build_meta(spec)[:-tail_units], spec)
            outputs = torch.randn(max(sizes), *before, device=device, requires_grad=True)
            pieces.append((units[num_units:], outputs))
        repeats, began, missing = Repeats(sizes, runs), clock(), list(sizes)
        while missing:
            for size in missing:
                waits = Waits(device, clock)
                for _ in range(1 + runs):
                    with waits.noted():
                        for piece, entering in pieces:
                            run_once(piece, entering[:size])
                    on_run()
                each = zip(*(unit.seconds(size)[-1 - runs :] for unit in units), strict=True)
                repeats.add(size, [sum(own) for own in each], waits.shares)
            missing = repeats.to_repeat() if clock() - began < limit_s else []
    counted = repeats.counted()
    return Timed([unit.times(counted) for unit in units], repeats.steadiness())


def _median(seconds: Sequence[float]) -> float:
    return round(statistics.median(seconds), 7)
