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
class PublishedChoice:
    """A row of the paper's Table IV: P and N that were selected, the best N with that P, and their epochs.

    Attributes:
        split_point: P.
        num_micro_batches: N that the formula gave.
        epoch_s: seconds of an epoch with these.
        optimal_num_micro_batches: N of the shortest epoch.
        optimal_epoch_s: seconds of that.
    """

    split_point: int
    num_micro_batches: int
    epoch_s: float
    optimal_num_micro_batches: int
    optimal_epoch_s: float


@dataclass(frozen=True)
class Published:
    """All figures, as texts where they are shown only.

    Attributes:
        speedup_over_fl: speed-up over federated learning, by model.
        speedup_over_sfl: speed-up over split federated learning, by model.
        idle_and_throughput: idle times and throughput, by what is compared.
        accuracy: accuracy on CIFAR-10 in per cent, by model and strategy.
        largest: largest figures of all networks, by what is compared.
        epochs: epoch times of PiPar and federated learning, by model.
        table_iv: what was selected, by model and network.
    """

    speedup_over_fl: Mapping[str, str]
    speedup_over_sfl: Mapping[str, str]
    idle_and_throughput: Mapping[str, str]
    accuracy: Mapping[str, Mapping[str, str | float]]
    largest: Mapping[str, float]
    epochs: Mapping[str, PublishedEpoch]
    table_iv: Mapping[str, Mapping[str, PublishedChoice]]


def read_published() -> Published:
    """Reads published.yaml, which lies beside this file."""
    content = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    epochs = {model: PublishedEpoch(**figures) for model, figures in content.pop("epochs").items()}
    table_iv = {
        model: {network: PublishedChoice(**figures) for network, figures in networks.items()}
        for model, networks in content.pop("table_iv").items()
    }
    return Published(**content, epochs=epochs, table_iv=table_iv)
