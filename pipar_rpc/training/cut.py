"""What a device half is made of: where the network is cut, and the device's own data."""

from dataclasses import dataclass, field

from torch import nn

from pipar_rpc.compression.coding import Coding
from pipar_rpc.data import Batches
from pipar_rpc.models import DropoutStreams
from pipar_rpc.privacy.cut import CutPrivacy
from pipar_rpc.privacy.gradients import PLAIN, Gradients
from pipar_rpc.testbed.device_speed import SpeedSpec
from pipar_rpc.training.exchange import Exchange


@dataclass
class Cut:
    """Where the network and the mini-batches are cut, and what follows from it on the device.

    Attributes:
        layers: layers that the device holds, on the CPU: 1..P and, if the labels stay on it, the last ones.
        exchange: connection to the server half.
        coding: codecs of activations and gradients.
        num_micro_batches: N.
        dropout: random generators of the layers' dropout.
        speed: speed of the emulated device; if it is calibrated, `calibrate` must be called before training.
        smallest: least number of samples in a micro-batch.
        split_point: P; None if all layers are before the cut.
        gradients: what becomes of the layers' gradients before the optimiser uses them.
        privacy: mechanisms that change activations before they are encoded, or add to the loss.
    """

    layers: nn.Sequential
    exchange: Exchange
    coding: Coding
    num_micro_batches: int
    dropout: DropoutStreams
    speed: SpeedSpec
    smallest: int = 1
    split_point: int | None = None
    gradients: Gradients = PLAIN
    privacy: CutPrivacy = field(default_factory=CutPrivacy)


@dataclass(frozen=True)
class LocalData:
    """The device's own data, which never leaves it.

    Attributes:
        batches: mini-batches of the samples.
        roots: folders that hold the samples; the server is told of them, see `DataSummary`.
        tells_classes: whether the server may know how many samples of each class there are.
    """

    batches: Batches
    roots: tuple[str, ...] = ()
    tells_classes: bool = True
