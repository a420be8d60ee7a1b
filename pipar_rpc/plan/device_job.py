"""One device's part of a job, as plain data that can be sent to it."""

from dataclasses import dataclass

from pipar_rpc.base.ranks import SERVER, device_name
from pipar_rpc.compression.coding import CodingSpec
from pipar_rpc.compression.registry import NONE, CodecSpec
from pipar_rpc.data import DataSpec, Transform
from pipar_rpc.learning import LearningSpec
from pipar_rpc.models import ModelSpec
from pipar_rpc.plan.deadlines import DeadlineSpec
from pipar_rpc.privacy.spec import NO_PRIVACY, PrivacySpec
from pipar_rpc.testbed.device_speed import SpeedSpec
from pipar_rpc.testbed.link import LinkSpec


@dataclass(frozen=True)
class Placement:
    """The process that holds a device.

    Attributes:
        rank: its rank among torchrun's.
        devices: number of devices that it holds.
        first: whether the device is the first of them.
        at_once: number of them that may train at the same time.
    """

    rank: int = 1
    devices: int = 1
    first: bool = True
    at_once: int = 1


ALONE = Placement()


@dataclass(frozen=True)
class DeviceJob:
    """One device's part in a job.

    Attributes:
        rank: number of the device, 1..K.
        num_devices: K.
        model: uncut network.
        data: data set, of which the device takes its own part.
        transform: conversion of stored images to network input; None for a data set of the user's.
        num_units: Q, the number of units between which the network can be cut.
        split_point: P, 1..Q.
        num_micro_batches: N.
        batch_size: B.
        smallest: least number of samples in a micro-batch.
        uplink: emulated uplink.
        downlink: emulated downlink.
        speed: speed of the emulated device.
        coding: codecs of activations and gradients.
        model_codec: codec of models, the same for all devices.
        learning: loss, optimiser and schedule.
        seed: seed of the experiment.
        deadlines: deadlines of waiting for the other side.
        emulated_s: longest emulated transfers and computing between two signs of life, in seconds.
        privacy: privacy mechanisms.
        labels_stay: number of last units that stay on the device with loss and labels; 0 if the labels cross.
        server: RPC name of the server rank that holds its server half.
        trained: numbers in the trained parameters of each cut unit.
        placed: the process that holds it.
        rests: whether its network is kept only in the rounds that it trains.
    """

    rank: int
    num_devices: int
    model: ModelSpec
    data: DataSpec
    transform: Transform | None
    num_units: int
    split_point: int
    num_micro_batches: int
    batch_size: int
    smallest: int
    uplink: LinkSpec
    downlink: LinkSpec
    speed: SpeedSpec
    coding: CodingSpec
    model_codec: CodecSpec
    learning: LearningSpec
    seed: int
    deadlines: DeadlineSpec
    emulated_s: float = 0.0
    privacy: PrivacySpec = NO_PRIVACY
    labels_stay: int = 0
    trained: tuple[int, ...] = ()
    server: str = SERVER
    placed: Placement = ALONE
    rests: bool = False

    @property
    def name(self) -> str:
        """Name of the device."""
        return device_name(self.rank)

    @property
    def told_classes(self) -> tuple[str, ...]:
        """Names of the classes of which the server is told how many samples there are; empty for none."""
        return () if self.labels_stay else self.data.classes

    @property
    def tail_units(self) -> int:
        """T, the number of last units that the device holds apart from 1..P; 0 where it holds all."""
        return 0 if self.split_point == self.num_units else self.labels_stay

    @property
    def compression(self) -> str:
        """The name of the codecs in results: of activations, gradients and models, or the one of all."""
        labels = [spec.label for spec in (self.coding.activations, self.coding.gradients, self.model_codec)]
        return labels[0] if len(set(labels)) == 1 else "/".join(labels)

    @property
    def protection(self) -> str:
        """The name of the privacy mechanisms in results, and of labels that stay on the device."""
        names = (self.privacy.label, "labels" if self.labels_stay else "")
        return "+".join(filter(None, names)) or NONE

    @property
    def links_emulated(self) -> bool:
        """Whether the rates of both links are known."""
        return self.uplink.rate.limited and self.downlink.rate.limited

    @property
    def timeout_s(self) -> float:
        """Longest silence of the other side before anything has been measured."""
        return self.deadlines.ceiling_s + self.emulated_s


def links_timed(job: DeviceJob) -> bool:
    """Whether the links' times are known: they are emulated, or unused."""
    return job.links_emulated or job.split_point == job.num_units
