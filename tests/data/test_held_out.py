"""Validation and test data are apart, and a device holds its own part only."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.data import (
    DataSpec,
    load_held_out,
    load_train_part,
    open_source,
    split_held_out,
)


def spec(name="digits", **changes) -> DataSpec:
    values = {"name": name, "channels": 3, "image_size": 32, "num_classes": 10, "seed": 0}
    return DataSpec(**(values | changes))


@given(st.integers(2, 400), st.integers(0, 300), st.none() | st.integers(1, 300), st.integers(0, 3))
def test_validation_and_test_never_overlap(num_held_out, val_size, test_size, seed):
    asked = spec(seed=seed, val_size=val_size, test_size=test_size)
    if val_size >= num_held_out or val_size + (test_size or 1) > num_held_out:
        with pytest.raises(ConfigError):
            split_held_out(num_held_out, asked)
        return
    val, test = (indices.tolist() for indices in split_held_out(num_held_out, asked))
    assert set(val).isdisjoint(test)
    assert len(val) == val_size
    assert len(test) == (num_held_out - val_size if test_size is None else test_size)
    again = split_held_out(num_held_out, asked)
    assert [again[0].tolist(), again[1].tolist()] == [val, test]


def test_a_device_holds_its_own_part_only():
    asked = spec(channels=1, train_size_per_device=100, val_size=50, test_size=200)
    source = open_source(asked, Path(), False)
    first, second = (load_train_part(source, asked, device, 2) for device in (1, 2))
    assert first.images.shape == (100, 1, 32, 32)
    assert first.images.untyped_storage().nbytes() == first.images.nbytes  # no view of the whole data set
    assert not torch.equal(first.images, second.images)
    val, test = load_held_out(source, asked)
    assert (len(val.labels), len(test.labels)) == (50, 200)
