"""Networks of which something is not trained."""

import torch
from torch import nn

from pipar_rpc.models import CUSTOM, ModelSpec, Norm, build_model

CLASSES = 10
TRAINED = {  # which units have anything to train
    "frozen_first": [False, True, True],
    "pooling_first": [False, True, True, True],
    "frozen_middle": [True, False, True],
    "frozen_last": [True, True, False],
}


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(CUSTOM, Norm.batch, 3, 8, CLASSES, target=f"tests.support.own_network.{name}")


def make(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    return build_model(spec_of(name))
