"""What DP-SGD cannot train is refused in one line; the noise for a target is that of Opacus."""

import re

import pytest
from opacus.accountants.utils import get_noise_multiplier
from torch import nn

from tests.support.configuration import message, plan
from tests.support.overrides import SMALL, merged

ON = (*SMALL, "privacy.dpsgd.noise_multiplier=1")
GROUP = (*ON, "model.norm=group")


class Weighted(nn.Module):
    """A loss that says what counts."""

    def forward(self, outputs, labels):
        return nn.functional.cross_entropy(outputs, labels)

    @staticmethod
    def count(labels):
        return 2.0 * len(labels)


class Contrast(nn.Module):
    """A loss of pairs of samples."""

    def forward(self, outputs, labels):
        return (outputs - outputs.mean(0)).square().mean() + 0 * labels.sum()


WEIGHTS = "loss.args.weight=[1,1,1,1,1,1,1,1,1,2]"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (ON, "privacy.dpsgd: batch norm mixes the samples of a mini-batch, .* choose model.norm=group"),
        ((*GROUP, WEIGHTS), "loss=cross_entropy: must be one whose samples count alike with privacy.dpsgd"),
        ((*GROUP, "loss.args.ignore_index=3"), "loss=cross_entropy: must be one whose samples count alike"),
        ((*GROUP, f"loss=custom loss._target_={__name__}:Weighted"), "must be one whose samples count alike"),
        ((*GROUP, f"loss=custom loss._target_={__name__}:Contrast"), "must be one whose samples count alike"),
        ((*GROUP, "privacy.dpsgd.target_epsilon=1"), "privacy.dpsgd.target_epsilon=1.0: must be null with"),
    ],
)
def test_refusals(options, line):
    assert re.search(line, message(*" ".join(options).split(" ")))


def test_a_device_alone_may_have_it():
    devices = plan(
        *(*SMALL, "model.norm=group", "devices.overrides.2.privacy.dpsgd.noise_multiplier=2"), world_size=3
    ).devices
    assert [device.speed.private for device in devices] == [False, True]
    assert devices[0].privacy.dpsgd is None


@pytest.mark.filterwarnings("ignore:Optimal order")
def test_noise_for_a_target_is_found_for_all_epochs_of_each_device():
    options = (
        *merged(*SMALL, "batch_size=5"),
        "model.norm=group",
        "epochs=3",
        "privacy.dpsgd.target_epsilon=5",
    )
    first = plan(*options, "devices.overrides.2.batch_size=4", world_size=3)
    assert first.lacks_noise
    found = first.with_noise([20, 22])
    assert not found.lacks_noise
    for noise, rate, steps in zip(found.noise, (5 / 20, 4 / 22), (3 * 4, 3 * 6), strict=True):
        assert noise == get_noise_multiplier(
            target_epsilon=5, target_delta=1e-5, sample_rate=rate, steps=steps, accountant="rdp"
        )
    assert first.keep_noise([1.5, 2.5]).noise == [1.5, 2.5]
    recut = found.recut([(1, 1), (2, 2)])
    assert recut.noise == found.noise
