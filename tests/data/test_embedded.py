"""Data that needs no files."""

from pathlib import Path

import pytest
import torch

from pipar_rpc.base.errors import ConfigError, PeerError
from pipar_rpc.base.stopping import Stop
from pipar_rpc.data import (
    DataSpec,
    load_train_part,
    open_source,
    partition,
)


def spec(name="digits", **changes) -> DataSpec:
    values = {"name": name, "channels": 3, "image_size": 32, "num_classes": 10, "seed": 0}
    return DataSpec(**(values | changes))


def test_digits_are_real_and_split_apart():
    source = open_source(spec(channels=1), Path(), False)
    train, test = source.labels("train"), source.labels("test")
    assert (len(train), len(test)) == (1438, 359)
    images = source.images("train", torch.arange(10))
    assert images.shape == (10, 1, 32, 32)
    assert images.max() > 200


def test_synthetic_is_the_same_for_every_device():
    one = open_source(spec("synthetic", train_size=50), Path(), False)
    other = open_source(spec("synthetic", train_size=50), Path(), False)
    indices = torch.tensor([7, 3])
    assert torch.equal(one.images("train", indices), other.images("train", indices.flip(0)).flip(0))
    assert not torch.equal(one.images("train", indices), one.images("test", indices))


def test_unknown_data_set():
    with pytest.raises(ConfigError, match=r"data.name=cifar: must be .+ did you mean cifar10"):
        open_source(spec("cifar"), Path(), False)


def test_a_device_that_loads_its_images_can_be_stopped():
    spec = DataSpec("synthetic", 1, 8, 10, seed=0, train_size=1000)
    source, stop = open_source(spec, None, download=False), Stop()
    whole = load_train_part(source, spec, 1, 2, stop.check)
    assert torch.equal(whole.images, source.images("train", partition(source.labels("train"), spec, 2)[0]))
    images = source.images

    def few(split, indices):
        stop.set("stopped by the server")
        return images(split, indices)

    source.images = few
    with pytest.raises(PeerError, match="stopped by the server"):
        load_train_part(source, spec, 1, 2, stop.check)
