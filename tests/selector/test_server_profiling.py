"""How many server halves compute as fast as one alone is what the machine has, however the measuring went."""

import os

import pytest
import torch

from pipar_rpc.models import ModelSpec, Norm
from pipar_rpc.selector import server_profiling
from pipar_rpc.selector.server_profiling import profile_server

SPEC = ModelSpec("vgg5", channels=1, image_size=8, num_classes=10, norm=Norm.group)


@pytest.mark.parametrize(("crowded_s", "expected"), [(1e-9, os.cpu_count()), (1e9, 1)])
def test_cores_bound_how_many_halves_compute_as_fast_as_one(monkeypatch, crowded_s, expected):
    """A run alone that was disturbed looks as if many halves were faster than one."""
    monkeypatch.setattr(server_profiling, "_crowded_seconds", lambda *args: {4: crowded_s})
    facts = profile_server(SPEC, [4], 1, torch.device("cpu"), halves=1000)
    assert facts.halves_at_once == {4: expected}
