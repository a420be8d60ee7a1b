"""The figures that were published for PiPar, measured on other hardware; they are in published.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class PublishedEpoch:
    """An epoch of PiPar with P = 1, and how many times longer one of federated learning took.

    Attributes:
        uplink_mbps: rate of each device's uplink in Mbit/s.
        downlink_mbps: rate of each device's downlink in Mbit/s.
        num_micro_batches: N.
        epoch_s: seconds of the epoch.
        over_fl: federated learning's seconds divided by `epoch_s`.
    """

    uplink_mbps: float
    downlink_mbps: float
    num_micro_batches: int
    epoch_s: float
    over_fl: float


@dataclass(frozen=True)
class Published:
    """All figures, as texts where they are shown only.

    Attributes:
        speedup_over_fl: speed-up over federated learning, by model.
        speedup_over_sfl: speed-up over split federated learning, by model.
        idle_and_throughput: idle times and throughput, by what is compared.
        accuracy: accuracy on CIFAR-10 in per cent, by model and strategy.
        epochs: epoch times of PiPar and federated learning, by model.
    """

    speedup_over_fl: Mapping[str, str]
    speedup_over_sfl: Mapping[str, str]
    idle_and_throughput: Mapping[str, str]
    accuracy: Mapping[str, Mapping[str, str | float]]
    epochs: Mapping[str, PublishedEpoch]


def read_published() -> Published:
    """Reads published.yaml, which lies beside this file."""
    content = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    epochs = {model: PublishedEpoch(**figures) for model, figures in content.pop("epochs").items()}
    return Published(**content, epochs=epochs)
