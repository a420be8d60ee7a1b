"""What a device holds (layers, optimiser and data), and what the server can ask of it besides training."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor

from pipar_rpc.base.gpu import Stream, main_stream
from pipar_rpc.base.memory import peak_rss_mb
from pipar_rpc.base.microbatch import MicroBatch, Part, split_batch
from pipar_rpc.base.shared_pools import open_share
from pipar_rpc.base.states import State, num_bytes
from pipar_rpc.base.stopping import Stop
from pipar_rpc.compression.models import ExactModel, ModelCodec
from pipar_rpc.data import DataSummary
from pipar_rpc.learning.half_optimizer import HalfOptimizer
from pipar_rpc.learning.loss import Criterion
from pipar_rpc.learning.optimizer_state import of_parameters
from pipar_rpc.learning.spec import LearningSpec
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.testbed.device_speed import MachineSpeed, calibrate
from pipar_rpc.timing.timeline import NO_ITERATION, Span, Stage, sum_by_stage
from pipar_rpc.training.cut import Cut, LocalData
from pipar_rpc.training.instrumented import Instrumented, Instruments
from pipar_rpc.training.round_report import RoundReport

LOADERS = 4  # threads that prepare mini-batches, for all devices of a process


class DeviceHalf(Instrumented):
    """Layers 1..P with their optimiser, and the device's own data.

    Args:
        name: the device's name, for errors.
        cut: the layers, and the connection to the server half.
        learning: loss, optimiser and schedule.
        data: the device's own samples.
        report: function called with (iteration, mean loss) after each iteration.
        device: torch device that computes.
        instruments: measuring instruments; the exchange uses the same ones, and models go up their uplink.
        make_cut: function called by `recut`; makes a cut from the new job and the state of its layers.
        job: job of the device, for `make_cut`.
        model_codec: codec of models that travel; by default they travel as they are.
        optimizer_state: state of the optimiser by parameters' names; None at the beginning of training.
        on_deadline: function called with the seconds of silence after which the server counts as lost.
        stop: request to end what runs, at the next micro-batch or in any sleep; never made by default.
        stream: stream on which it computes; by default the main one of `device`.
    """

    def __init__(
        self,
        name: str,
        cut: Cut,
        learning: LearningSpec,
        data: LocalData,
        report: Callable[[int, float], None],
        device: torch.device,
        instruments: Instruments | None = None,
        make_cut: Callable[[DeviceJob, State], Cut] | None = None,
        job: DeviceJob | None = None,
        model_codec: ModelCodec | None = None,
        optimizer_state: State | None = None,
        on_deadline: Callable[[float], None] = lambda seconds: None,
        stop: Stop | None = None,
        stream: Stream | None = None,
    ) -> None:
        super().__init__(instruments or Instruments())
        self._name, self._learning, self._data = name, learning, data
        self._criterion = Criterion(learning.loss)
        self._report, self._device, self._stream = report, device, stream or main_stream(device)
        self._make_cut, self._job, self._on_deadline = make_cut, job, on_deadline
        self._machine: MachineSpeed | None = None
        self._stop, self._stack = stop or Stop(), ExitStack()
        self._loader = self._stack.enter_context(open_share("loader", LOADERS))
        self._models = model_codec or ExactModel()
        self._hold(cut, optimizer_state or {})
        self._given = self._base()

    def _base(self) -> State | None:
        """A copy of the state, if the codec of models needs what both ends hold."""
        return self.state() if self._models.needs_base else None

    def _hold(self, cut: Cut, optimizer_state: State) -> None:
        self._cut, self._layers = cut, cut.layers.to(self._device).train()
        self._head = self._layers[: cut.split_point]  # layers 1..P
        learning = self._learning
        self._optimizer = HalfOptimizer(self._layers, learning.optimizer, learning.schedule, optimizer_state)
        self._set_pace()

    def _set_pace(self) -> None:
        """Has computing take as long as on the emulated device, as far as this machine's speed is known."""
        self._pace = self._cut.speed.pace(self._machine, self._stop.sleep)
        self._pace.finish = self._stream.finish

    def recut(self, job: DeviceJob, state: State, optimizer_state: State) -> State:
        """Changes the layers that are held, or how mini-batches are cut; to be called between rounds.

        Args:
            job: the device's job from now on.
            state: parameters and buffers of the layers that are new here.
            optimizer_state: optimiser's state of these layers' parameters.

        Returns:
            The optimiser's state of the layers that are no longer here; the emulated uplink has carried it.
        """
        assert self._make_cut is not None
        whole = self.optimizer_state() | optimizer_state
        self._cut.exchange.close()
        self._hold(self._make_cut(job, self.state() | state), whole)
        self._given = self._base()
        kept = of_parameters(whole, dict(self._layers.named_parameters()))
        given_up = {name: tensor for name, tensor in whole.items() if name not in kept}
        self._pay(given_up)
        return given_up

    def data_summary(self) -> DataSummary:
        """Tells the server what it may know of the device's data."""
        counts = tuple(self._data.batches.class_counts())
        return DataSummary(counts if self._data.tells_classes else (sum(counts),), self._data.roots)

    def calibrate(self, known: Mapping[str, MachineSpeed]) -> tuple[str, MachineSpeed]:
        """Emulates the device's speed, after measuring this machine's unless `known` has it.

        Args:
            known: speeds of machines that were measured, by name.

        Returns:
            This machine's name and speed.
        """
        host, self._machine = calibrate(self._cut.speed, known, self._device)
        self._set_pace()
        return host, self._machine

    def state(self) -> State:
        """Returns a copy of parameters and buffers, on the CPU."""
        return {key: tensor.to("cpu", copy=True) for key, tensor in self._layers.state_dict().items()}

    def optimizer_state(self) -> State:
        """Returns a copy of the optimiser's state by the names of this half's parameters, on the CPU."""
        return self._optimizer.state()

    def upload(self) -> State:
        """Returns the device half for aggregation, encoded, when the emulated uplink has carried it."""
        payload = self._models.encode(self.state(), self._given)
        self._pay(payload)
        return payload

    def _pay(self, state: State) -> None:
        """Waits until the emulated uplink has carried `state`."""
        slot = self._uplink.reserve(num_bytes(state))
        self._timeline.add(Span(Stage.UPLOAD, NO_ITERATION, 0, slot.start, slot.end))
        self._uplink.wait(slot)

    def load(self, payload: State) -> None:
        """Replaces parameters and buffers by those that the server has encoded, not the optimiser's state."""
        self._layers.load_state_dict(self._models.decode(payload, self._given))
        self._optimizer.begin_round()
        self._given = self._base()

    def close(self) -> None:
        """Releases the threads."""
        self._stack.close()
        self._cut.exchange.close()

    def _split(self, images: Tensor, labels: Tensor, epoch: int, iteration: int) -> list[MicroBatch]:
        """Cuts a mini-batch into micro-batches."""
        number, smallest = self._cut.num_micro_batches, self._cut.smallest
        step = (epoch - 1) * len(self._data.batches) + iteration
        count = self._cut.gradients.counting(self._criterion.count)
        return split_batch(images, labels, number, epoch, iteration, smallest, step, count)

    def _load_batch(self, epoch: int, iteration: int) -> Future[tuple[Tensor, Tensor]]:
        """Has another thread prepare the images and labels of a mini-batch."""
        return self._loader.submit(self._data.batches.get, epoch, iteration)

    @contextmanager
    def _measure(self, stage: Stage, part: Part, samples: int) -> Iterator[None]:
        """Measures the block, made as long as it would be on the emulated device."""
        span = self._timeline.measure(stage, part.iteration, part.index, self._stream.now)
        with span, self._pace.stretch(stage, samples):
            yield

    def _measure_coding(self, stage: Stage, part: Part, samples: int) -> AbstractContextManager[None]:
        """As `_measure`, for codecs and privacy mechanisms; nothing is noted where there are none."""
        idle = self._cut.coding.exact and self._cut.privacy.idle
        return nullcontext() if idle else self._measure(stage, part, samples)

    @contextmanager
    def _measured_round(self, start: int) -> Iterator[RoundReport]:
        """Gives the block a report to fill, and adds at its end what the round took."""
        began, report = time.monotonic(), RoundReport(start, uplink_bytes=-self._uplink.num_bytes)
        report.saved_bytes, report.expected = -self._cut.coding.saved_bytes, self._data.batches.expected
        self._pace.emulated_s = self._pace.late_s = 0.0
        yield report
        self._stream.finish()
        report.seconds = time.monotonic() - began
        spans = self._timeline.drain()
        report.stages = sum_by_stage(spans)
        self._keep(spans)
        report.uplink_bytes += self._uplink.num_bytes
        report.saved_bytes += self._cut.coding.saved_bytes
        report.emulated_s, report.late_s = self._pace.emulated_s, self._pace.late_s
        report.peak_rss_mb = peak_rss_mb()
        report.clipped = self._cut.gradients.drain()
