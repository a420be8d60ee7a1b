"""How training data is spread over the devices: every sample at most once, and what each kind promises."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipar_rpc.base.errors import ConfigError, UserError
from pipar_rpc.data import DataSpec, Partition, partition, read_indices

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=400).map(torch.tensor)
DEVICES = st.integers(1, 12)
SIZE = st.none() | st.integers(1, 40)
NUMBERS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def spec(size=None, seed=0, **kind) -> DataSpec:
    return DataSpec("digits", 1, 8, 7, seed, train_size_per_device=size, partition=Partition(**kind))


def parts_of(labels, asked, num_devices):
    """The parts, after checks that hold for every kind; None if the samples do not suffice."""
    try:
        parts = partition(labels, asked, num_devices)
    except ConfigError:
        return None
    assert len(parts) == num_devices
    together = torch.cat(parts).tolist()
    assert len(set(together)) == len(together)
    assert all(0 <= index < len(labels) for index in together)
    again = partition(labels, asked, num_devices)
    assert all(torch.equal(part, other) for part, other in zip(parts, again, strict=True))
    return parts


@given(LABELS, DEVICES, st.integers(0, 5), SIZE)
def test_iid_covers_all_samples_in_equal_shares(labels, num_devices, seed, size):
    parts = parts_of(labels, spec(size, seed), num_devices)
    assert (parts is None) == (num_devices * (size or 1) > len(labels))
    if parts is not None and size is None:
        assert sum(map(len, parts)) == len(labels)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    elif parts is not None:
        assert {len(part) for part in parts} == {size}


@given(LABELS, DEVICES, st.integers(0, 5), SIZE, st.floats(0.05, 100), st.integers(0, 10))
def test_dirichlet_covers_all_samples_and_leaves_nobody_without(
    labels, num_devices, seed, size, alpha, smallest
):
    asked = spec(size, seed, name="dirichlet", alpha=alpha, smallest=smallest)
    parts = parts_of(labels, asked, num_devices)
    if parts is not None:
        assert sum(map(len, parts)) == (len(labels) if size is None else size * num_devices)
        assert min(map(len, parts)) >= smallest


def test_dirichlet_is_more_uneven_with_a_smaller_alpha():
    labels = torch.arange(10).repeat(500)

    def share_of_largest_class(alpha):
        parts = partition(labels, spec(name="dirichlet", alpha=alpha), 4)
        return sum(int(labels[part].bincount().max()) / len(part) for part in parts) / 4

    assert share_of_largest_class(0.05) > 0.3
    assert share_of_largest_class(1000) < 0.12


def test_a_dirichlet_partition_that_leaves_a_device_without_a_batch_is_refused():
    labels = torch.arange(10).repeat(10)
    with pytest.raises(ConfigError, match=r"partition.alpha=0.01: must be larger, or batch_size=30 smaller"):
        partition(labels, spec(name="dirichlet", alpha=0.01, smallest=30), 4)


@given(LABELS, DEVICES, st.integers(0, 5), st.integers(1, 8), SIZE)
def test_shards_give_each_device_that_many_classes(labels, num_devices, seed, held, size):
    parts = parts_of(labels, spec(size, seed, name="shards", classes_per_device=held), num_devices)
    present = len(labels.unique())
    plenty = int(labels.bincount()[labels.unique()].min()) >= num_devices * (size or 1)
    if held > present:
        assert parts is None
    elif plenty:
        assert parts is not None
    if parts is None:
        return
    if size is not None:
        assert {len(part) for part in parts} == {size}
        return
    assert all(len(labels[part].unique()) <= held for part in parts)
    if plenty:
        assert all(len(labels[part].unique()) == held for part in parts)
    if num_devices * held >= present:
        assert sum(map(len, parts)) == len(labels)


@given(LABELS, NUMBERS)
def test_sizes_are_kept(labels, sizes):
    parts = parts_of(labels, spec(name="sizes", sizes=tuple(sizes)), len(sizes))
    assert (parts is None) == (sum(sizes) > len(labels))
    if parts is not None:
        assert [len(part) for part in parts] == sizes


@given(LABELS, NUMBERS, SIZE)
def test_ratios_are_kept(labels, ratios, size):
    parts = parts_of(labels, spec(size, name="sizes", ratios=tuple(ratios)), len(ratios))
    if parts is not None:
        total = len(labels) if size is None else size * len(ratios)
        assert sum(map(len, parts)) == total
        for part, ratio in zip(parts, ratios, strict=True):
            assert abs(len(part) - total * ratio / sum(ratios)) <= 1


@settings(max_examples=20)
@given(st.sampled_from(["iid", "dirichlet", "shards"]), st.integers(1, 60))
def test_a_device_may_keep_fewer_samples(name, limit):
    labels = torch.arange(4).repeat(60)
    whole = partition(labels, spec(name=name, alpha=100), 4)
    assume(limit <= len(whole[1]))
    some = partition(labels, spec(name=name, alpha=100, limits=(None, limit, None, None)), 4)
    assert torch.equal(some[1], whole[1][:limit])
    assert torch.equal(some[2], whole[2])


def test_a_device_cannot_keep_more_than_its_part():
    with pytest.raises(ConfigError, match=r"devices.overrides.2.data.train_size_per_device=9: must be 1..5"):
        partition(torch.zeros(10).long(), spec(limits=(None, 9)), 2)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ({"name": "sizes", "sizes": (1, 2)}, r"partition.sizes=\[1, 2\]: must be 3 numbers"),
        ({"name": "sizes", "ratios": (1.0,)}, r"partition.ratios=\[1.0\]: must be 3 numbers"),
        ({"name": "sizes", "sizes": (5, 5, 5)}, r"must be at most 10 together \(digits has 10 training"),
        ({"name": "shards", "classes_per_device": 9}, r"partition.classes_per_device=9: must be 1..2"),
        ({"name": "file", "indices": ((1,), (2,))}, "partition.path: has 2 lists, num_devices is 3"),
        ({"name": "file", "indices": ((1,), (2,), (1,))}, "partition.path: index 1: must be there once"),
        ({"name": "file", "indices": ((1,), (2,), (10,))}, "partition.path: index 10: must be 0..9"),
        ({"name": "file", "indices": ((1,), (2,), (-1,))}, "partition.path: index -1: must be 0..9"),
    ],
)
def test_what_does_not_fit_is_refused(kind, line):
    with pytest.raises(UserError, match=line):
        partition(torch.tensor([0, 1] * 5), spec(**kind), 3)


def test_a_partition_from_a_file(tmp_path):
    path = tmp_path / "parts.json"
    path.write_text(json.dumps([[3, 1], [0], [4, 2]]))
    indices = read_indices(path)
    parts = partition(torch.zeros(5).long(), spec(name="file", indices=indices), 3)
    assert [part.tolist() for part in parts] == [[3, 1], [0], [4, 2]]


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '[["a"]]', "[[true]]"])
def test_files_of_another_kind_are_refused(tmp_path, text):
    path = tmp_path / "parts.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"partition.path=.+: must be a JSON"):
        read_indices(path)


def test_a_missing_file():
    with pytest.raises(ConfigError, match=r"partition.path=nowhere.json: must be a readable file"):
        read_indices(Path("nowhere.json"))
