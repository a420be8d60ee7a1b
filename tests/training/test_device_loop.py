"""Devices that are stopped while they wait."""

from concurrent.futures import Future

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import PeerError
from pipar_rpc.base.stopping import Stop
from pipar_rpc.data import Batches, Images, Transform
from pipar_rpc.learning import LearningSpec, OptimizerSpec
from pipar_rpc.models import DropoutStreams
from pipar_rpc.testbed.device_speed import SpeedSpec
from pipar_rpc.testbed.link import Link
from pipar_rpc.testbed.unit_times import UnitTimes
from pipar_rpc.training.cut import Cut, LocalData
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.instrumented import Instruments
from tests.support.coding import EXACT
from tests.support.loops import NATIVE
from tests.support.waiting import begun


class SilentExchange:
    """A server that never answers."""

    def submit(self, part, activation, labels):
        return Future()

    def finish(self, measure):
        pass

    def close(self):
        pass


def make_device(exchange, stop, uplink=None, speed=NATIVE):
    data = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    return Device(
        name="device3",
        cut=Cut(
            layers=layers,
            exchange=exchange,
            coding=EXACT,
            num_micro_batches=2,
            dropout=DropoutStreams(layers, seed=0, device=3),
            speed=speed,
        ),
        learning=LearningSpec(OptimizerSpec(lr=0.1, momentum=0.0)),
        data=LocalData(Batches(data, 4, Transform((0.0,), (1.0,)), seed=0, device=1)),
        report=lambda iteration, loss: None,
        device=torch.device("cpu"),
        instruments=Instruments(uplink=uplink or Link()),
        stop=stop,
    )


SLOW = SpeedSpec(NATIVE.model, 1, 1, profile=(UnitTimes("one", {1: 3600.0}, {1: 3600.0}, 3600.0),))


@pytest.mark.parametrize(
    "waiting",
    [
        lambda stop: make_device(SilentExchange(), stop).train(1, 0, 1),  # for a gradient
        lambda stop: make_device(SilentExchange(), stop, speed=SLOW).train(1, 0, 1),  # in a forward pass
        lambda stop: make_device(SilentExchange(), stop, Link(1e-6, sleep=stop.sleep)).upload(),
    ],
    ids=["gradient", "emulated computing", "emulated upload"],
)
def test_a_stopped_device_ends_at_once(waiting):
    """It once went on sleeping, and counted as lost because it had not closed within 30 s."""
    stop = Stop()
    device = begun(waiting, stop)
    stop.set("stopped by the server")
    with pytest.raises(PeerError, match="stopped by the server"):
        device.result(30)


def test_a_stopped_device_ends_at_its_next_micro_batch():
    stop = Stop()
    device = make_device(SilentExchange(), stop)
    stop.set("stopped by the server")
    with pytest.raises(PeerError, match=r"^stopped by the server"):
        device.train(1, 0, 1)
    device.close()
