"""Which mechanisms a device gets, what is refused, and what is told."""

import pytest

from pipar_rpc.base.dotted import Choice
from pipar_rpc.privacy.spec import LAPLACE, NO_PRIVACY, ActivationNoiseSpec, UpdateNoiseSpec
from tests.support.configuration import message, plan

GROUP = ("model=vgg5", "model.norm=group")
ON = "privacy.activations.noise_multiplier=2"
OWN = "privacy.cut._target_=tests.support.mechanisms."
BAD = {
    (
        "privacy.activations.noise_multiplier=-1",
    ): "noise_multiplier=-1.0: must be 0 or more and finite, or null for none",
    ("privacy.activations.max_norm=0",): "privacy.activations.max_norm=0.0: must be above 0 and finite",
    ("privacy.activations.max_norm=inf",): "privacy.activations.max_norm=inf: must be above 0 and finite",
    ("privacy.activations.delta=1",): "privacy.activations.delta=1.0: must be above 0 and below 1",
    ("privacy.activations.distribution=uniform",): "privacy.activations.distribution",
    (ON,): "model.norm=batch: must be group or none with privacy.activations: a sample's activation must not",
    (
        ON,
        "model=custom",
        "model._target_=tests.support.own_network.frozen_first",
    ): "must be a network without batch norm",
    ("privacy.nopeek.weight=-1",): "privacy.nopeek.weight=-1.0: must be 0 or more",
    (
        "privacy.nopeek.weight=1",
        "privacy.dpsgd.noise_multiplier=1",
        *GROUP,
    ): "privacy.nopeek.weight=1.0: must be 0 with privacy.dpsgd",
    ("privacy.cut._target_=my.Mask",): "privacy.cut._target_=my.Mask: must be the dotted name of a function",
    ("privacy.cut.args.share=1",): "privacy.cut.args={'share': 1}: must be empty",
    (f"{OWN}Flat",): "Flat: must be a mechanism that releases torch.float32 of shape [4, 32, 16, 16], not",
    (
        f"{OWN}NoLoss",
    ): "NoLoss: must be a function that returns a mechanism, with the methods release and loss",
    (f"{OWN}AsItIs", "privacy.cut.args.share=1"): "AsItIs failed: TypeError",
    (
        f"{OWN}Halved",
        "privacy.dpsgd.noise_multiplier=1",
        *GROUP,
    ): "without a loss of its own, with privacy.dpsgd",
    ("devices.overrides.2.privacy.cut._target_=x",): "privacy.cut: must be the same for all devices",
    (
        *GROUP,
        "devices.overrides.2.privacy.activations.max_norm=0",
    ): "devices.overrides.2.privacy.activations.max",
}


UPDATES = "privacy.updates.noise_multiplier=1"
BAD |= {
    (UPDATES,): "model.norm=batch: must be group or none with privacy.updates: batch statistics are not part",
    (UPDATES, *GROUP, "strategy=sl"): "noise_multiplier=1.0: must be null with strategy=sl, which averages",
    (
        UPDATES,
        *GROUP,
        "aggregation.every=0",
    ): "1.0: must be null with aggregation.every=0, which averages nothing",
    (
        UPDATES,
        *GROUP,
        "strategy=sfl",
        "sfl.server=shared",
    ): "1.0: must be null with sfl.server=shared: all devices",
    (
        UPDATES,
        *GROUP,
        "aggregation/rule=trimmed_mean",
    ): "rule.name=trimmed_mean: must be fedavg, fedavgm, fedadam",
    (
        UPDATES,
        *GROUP,
        "aggregation/rule=custom",
        "aggregation.rule._target_=pipar_rpc.aggregation.fedavg.FedAvg",
    ): "aggregation.rule.name=custom: must be fedavg, fedavgm",
    (UPDATES, *GROUP, "devices.overrides.2.privacy.updates.max_norm=2"): "must be the same for all devices",
    ("privacy.updates.max_norm=0",): "privacy.updates.max_norm=0.0: must be above 0 and finite",
}


@pytest.mark.parametrize("overrides", BAD)
def test_bad_input_is_one_line(overrides):
    assert BAD[overrides] in message("model=vgg5", *overrides)


def test_each_device_may_have_its_own():
    first, second = plan(
        *(*GROUP, "num_devices=2", ON, "devices.overrides.2.privacy.activations.distribution=laplace"),
        *("devices.overrides.2.privacy.activations.noise_multiplier=1", "privacy.nopeek.weight=0.5"),
        *("devices.overrides.2.privacy.nopeek.weight=0", f"{OWN}Halved"),
    ).devices
    assert first.privacy.activations == ActivationNoiseSpec(1.0, 2.0)
    assert second.privacy.activations == ActivationNoiseSpec(1.0, 1.0, LAPLACE)
    assert (first.privacy.nopeek, second.privacy.nopeek) == (0.5, 0.0)
    assert first.privacy.cut == second.privacy.cut == Choice(target="tests.support.mechanisms.Halved")
    assert (first.speed.privacy, second.speed.privacy) == (first.privacy, second.privacy)


def test_frozen_batch_norm_does_not_mix_samples():
    plan(ON, "model=vgg5", "model.freeze=[conv*]")


def test_where_nothing_leaves_batch_norm_and_mechanisms_do_no_harm():
    job = plan(ON, "strategy=fl", "privacy.nopeek.weight=1", "model=vgg5")
    assert (
        "privacy.activations and privacy.cut do nothing where devices hold the whole network" in job.notices
    )
    assert "privacy.nopeek.weight does nothing where devices hold the whole network" in job.notices


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ((), "privacy.nopeek.weight: the distance correlation is that of micro-batches of 12 samples"),
        (("pipeline.num_micro_batches=50",), "weight does nothing with micro-batches of 2: the distance"),
        (("model.freeze=1",), "privacy.nopeek.weight does nothing: layers 1..1 are frozen"),
    ],
)
def test_what_n_means_for_nopeek_is_told(overrides, line):
    job = plan(*GROUP, "privacy.nopeek.weight=1", *overrides)
    assert any(line in notice for notice in job.notices)


def test_a_seed_is_told_to_be_for_research():
    def told(*overrides):
        return any(line.startswith("privacy.secure_noise=false") for line in plan(*overrides).notices)

    assert told(*GROUP, ON)
    assert not told(*GROUP, ON, "privacy.secure_noise=true")
    assert not told(*GROUP)


def test_evaluation_at_the_cut_has_its_mechanisms():
    assert plan(*GROUP).common_cut is None
    assert plan(*GROUP, "privacy.nopeek.weight=1").common_cut is None  # what leaves is what it was
    split_point, _, coding, privacy = plan(*GROUP, ON).common_cut
    assert (split_point, coding.exact, privacy.idle) == (1, True, False)
    assert plan(*GROUP, ON, "compression=int8").common_cut is not None
    assert plan(*GROUP, ON, "devices.overrides.2.privacy.activations.noise_multiplier=1").common_cut is None
    assert plan(*GROUP, ON, "strategy=fl").common_cut is None
    assert plan(*GROUP).devices[0].privacy == NO_PRIVACY


@pytest.mark.parametrize("rule", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_updates_of_every_strategy_that_averages_are_protected(rule):
    for strategy in ("fl", "sfl", "pipar"):
        job = plan(*GROUP, UPDATES, f"strategy={strategy}", f"aggregation/rule={rule}")
        assert job.devices[0].privacy.updates == UpdateNoiseSpec(1.0, 1.0)
