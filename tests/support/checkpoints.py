"""Checkpoints of no training."""

import torch

from pipar_rpc.base.states import State
from pipar_rpc.checkpoints.file import Checkpoint


def make(number: int = 3, value: float = 1.0, rule: State | None = None) -> Checkpoint:
    weights = {"a": torch.full((1000,), value)}
    settings = {"seed": 0, "model.name": "vgg5", "partition.sizes": None}
    row = {"epoch": 1, "loss": 0.5, "device_uplink_mbps": (1.0, None), "strategy": "pipar"}
    cuts = [(1, 8), (2, 8)]
    return Checkpoint(number, 2, 1, [weights], [{}, weights], cuts, settings, [row], rule=rule or {})
