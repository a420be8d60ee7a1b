"""Figures that were published for PiPar, measured on other hardware: what published.yaml says."""

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
        epoch_s: seconds.
        over_fl: federated learning's seconds / epoch_s.
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
        speedup_over_fl: by model.
        speedup_over_sfl: by model.
        idle_and_throughput: by what is compared.
        accuracy: per cent on CIFAR-10, by model and strategy.
        epochs: by model.
    """

    speedup_over_fl: Mapping[str, str]
    speedup_over_sfl: Mapping[str, str]
    idle_and_throughput: Mapping[str, str]
    accuracy: Mapping[str, Mapping[str, str | float]]
    epochs: Mapping[str, PublishedEpoch]


def read_published() -> Published:
    """Reads the file beside this one."""
    content = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    epochs = {model: PublishedEpoch(**figures) for model, figures in content.pop("epochs").items()}
    return Published(**content, epochs=epochs)
