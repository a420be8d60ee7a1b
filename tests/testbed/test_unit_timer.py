"""Networks are timed unit by unit, as they are trained."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipar_rpc.compression.coding import NO_CODECS
from pipar_rpc.compression.models import ExactModel
from pipar_rpc.privacy.cut import CutPrivacy
from pipar_rpc.privacy.gradients import PlainGradients
from pipar_rpc.privacy.spec import ActivationNoiseSpec, PrivacySpec
from pipar_rpc.selector.sizes import unit_sizes
from pipar_rpc.testbed import unit_timer
from pipar_rpc.testbed.unit_timer import Coder, run_once, timers
from pipar_rpc.testbed.unit_times import UnitTimes
from tests.support.coding import EXACT
from tests.support.frozen import TRAINED, make, spec_of
from tests.support.loops import CPU, NATIVE
from tests.support.mechanisms import AsItIs
from tests.support.own_network import FROZEN


@pytest.mark.parametrize("name", FROZEN)
def test_units_are_timed_as_they_are_trained(name):
    """A clock that counts what is computed: backward passes where something is trained there or before."""
    clock = SimpleNamespace(now=0)

    def tick():
        clock.now += 1
        return clock.now

    network, entering = make(name), []
    for layers in network:
        layers.register_forward_pre_hook(lambda layers, inputs: entering.append(inputs[0].requires_grad))
    units = timers(network, CPU, tick)
    for _ in range(2):
        run_once(units, torch.rand(2, 3, 8, 8))
    trained = TRAINED[name]
    times = [unit.times() for unit in units]
    reached = np.logical_or.accumulate(trained).tolist()
    assert [unit.backward[2] > 0 for unit in times] == reached
    assert [unit.update > 0 for unit in times] == trained
    assert [unit.forward[2] > 0 for unit in times] == [True] * len(trained)
    assert entering == 2 * [False, *reached[:-1]]  # whether the gradient of the input is computed
    assert [unit.trained for unit in unit_sizes(spec_of(name), ExactModel())] == trained


def test_each_side_times_what_it_codes():
    """The device encodes activations and decodes gradients; on the server it is the other way round."""
    clock = SimpleNamespace(now=0.0)

    def lasting(seconds, result):
        clock.now += seconds
        return result

    coding = SimpleNamespace(
        encode_activation=lambda part, activation: lasting(1.0, activation),
        decode_activation=lambda sent, device: lasting(2.0, sent),
        encode_gradient=lambda part, sent, gradient: lasting(3.0, gradient),
        decode_gradient=lambda sent, payload, device: lasting(4.0, payload),
    )
    for server, encode, decode in ((False, 1.0, 4.0), (True, 3.0, 2.0)):
        units = timers(make("frozen_first"), CPU, lambda: clock.now, Coder(coding, server))
        for size in (2, 2, 4, 4):
            run_once(units, torch.rand(size, 3, 8, 8))
        for unit in units:
            times = unit.times()
            assert (times.encode, times.decode) == ({2: encode, 4: encode}, {2: decode, 4: decode})
            assert set(times.forward.values()) == {0.0}  # what codecs take is not part of the passes


def test_what_dpsgd_does_is_timed(monkeypatch):
    """A clock that counts its steps: after each backward pass, and once for each update."""
    clock = SimpleNamespace(now=0.0)

    class Counting(PlainGradients):
        def after(self, part):
            clock.now += 2.0

        def finish(self, part):
            clock.now += 3.0

    monkeypatch.setattr(unit_timer, "timed_gradients", lambda layers: Counting())
    for private, after, finish in ((False, 0.0, 0.0), (True, 2.0, 3.0)):
        units = timers(make("frozen_first"), CPU, lambda: clock.now, private=private)
        for _ in range(2):
            run_once(units, torch.rand(2, 3, 8, 8))
        times = [unit.times() for unit in units]
        assert [unit.backward[2] for unit in times] == [0, after, after]
        assert [unit.update for unit in times] == [0, finish, finish]


def test_a_network_is_timed_as_dpsgd_trains_it():
    """Each unit's gradients are clipped and noised."""
    network = make("frozen_first")
    before = {key: own.clone() for key, own in network.named_parameters()}
    units = timers(network, CPU, time.perf_counter, private=True)
    for own in units:
        if own._optimizer is not None:
            own._optimizer.param_groups[0]["lr"] = 1.0
    run_once(units, torch.zeros(2, 3, 8, 8))
    moved = {key: (own - before[key]).std() for key, own in network.named_parameters() if own.requires_grad}
    assert all(0.1 < deviation < 2 for key, deviation in moved.items() if before[key].numel() > 20)


def test_the_device_times_its_mechanisms_at_the_cut():
    """As part of what is encoded and decoded; distances are those of the network's input."""
    seen = []

    class Mechanism(AsItIs):
        def release(self, part, activation):
            seen.append("release")
            return activation * 2

        def loss(self, part, inputs, activation):
            seen.append(tuple(inputs.shape))
            return activation.sum()

    clock = SimpleNamespace(now=0.0)

    def tick():
        clock.now += 1.0
        return clock.now

    units = timers(make("frozen_first"), CPU, tick, Coder(EXACT, privacy=CutPrivacy([Mechanism()])))
    for _ in range(2):
        run_once(units, torch.rand(2, 3, 8, 8))
    assert seen == 2 * len(units) * ["release", (2, 3, 8, 8)]
    assert all((unit.times().encode, unit.times().decode) == ({2: 2.0}, {2: 2.0}) for unit in units)


def test_nothing_is_timed_where_nothing_is_done_at_the_cut():
    noise = PrivacySpec(activations=ActivationNoiseSpec(1.0, 1.0))
    assert Coder.of(NO_CODECS, PrivacySpec(secure_noise=True)) is None
    assert Coder.of(NO_CODECS, noise) is not None
    assert Coder.of(NO_CODECS, PrivacySpec(nopeek=1.0)) is not None
    profile = (UnitTimes("unit", {1: 1.0}, {1: 1.0}, 0.0),)
    assert not replace(NATIVE, profile=profile).calibrated
    assert replace(NATIVE, profile=profile, privacy=noise).calibrated  # a profile has no times of mechanisms
