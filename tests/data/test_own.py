"""Data sets of the user's own: what they may be, what is refused, and that random transforms repeat."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from pipar_rpc.base.errors import UserError
from pipar_rpc.base.network_input import NetworkInput
from pipar_rpc.base.random_streams import generator
from pipar_rpc.data import (
    Batches,
    DataSpec,
    MissingDataError,
    Partition,
    describe,
    load_held_out,
    load_train_part,
    open_source,
    some_labels,
)

RNG = generator(0, "test")


class Pairs(list):
    """Items in a list; `targets` and `classes` if they are given."""


def vectors(split, count=12, targets=False, names=None):
    """Float vectors (of NumPy's type) with class numbers; the test split has fewer classes."""
    made = Pairs((np.full(3, i / 8), i % (4 if split == "train" else 3)) for i in range(count))
    if targets:
        made.targets = [label for _, label in made]
    if names:
        made.classes = names
    return made


def regression(train):
    """A parameter `train`, as torchvision has it."""
    return Pairs((torch.arange(4.0) + i, 0.5 * i) for i in range(9 if train else 5))


def tokens(split, vocabulary=7):
    made = Pairs((torch.arange(5) % vocabulary, torch.arange(1, 6) % vocabulary) for _ in range(8))
    made.classes = list("abcdefg")
    return made


def images(split):
    return Pairs((torch.zeros(3, 8, 8), i % 2) for i in range(8))


class Noisy:
    """Draws from all three global generators."""

    def __init__(self, split):
        pass

    def __len__(self):
        return 10

    def __getitem__(self, index):
        noise = [float(torch.rand(())), random.random(), float(np.random.rand())]
        return torch.tensor([index, *noise]), torch.zeros(())


def at_root(split, root):
    if split == "train":
        raise FileNotFoundError(f"{root}/train.csv is not there")
    return images(split)


def whole():
    return images("train")


class Stream(IterableDataset):
    def __init__(self, split):
        pass

    def __iter__(self):
        return iter(())


def nothing(split):
    return []


def words(split):
    return Pairs([("a word", 0)] * 3)


def failing(split):
    return Pairs([(torch.zeros(2), 0.5), (torch.zeros(3), 0.5), (torch.zeros(2), 0.5)])


def other_shape(split):
    return Pairs((torch.zeros(3 if split == "train" else 4), 0.5) for _ in range(6))


def far_off(split):
    return Pairs((torch.zeros(2), -1 if split == "train" else 0) for _ in range(6))


def spec(target, kind="iid", num_classes=None, seed=0, **args):
    changes = {key: args.pop(key) for key in ("val_size", "val_from") if key in args}
    own = Partition(kind, classes_per_device=1)
    name = f"{__name__}.{target}"
    return DataSpec("custom", 1, 32, num_classes, seed, partition=own, target=name, args=args, **changes)


def opened(*args, root=Path("nowhere"), **kwargs):
    """The source on the server, and what it told of itself."""
    asked = spec(*args, **kwargs)
    source = open_source(asked, root, False)
    return source, describe(source, asked)


def on_a_device(known, device=1):
    return load_train_part(open_source(known, Path("nowhere"), False), known, device, 2)


@pytest.mark.parametrize("targets", [False, True])
def test_class_numbers_are_looked_up_or_read(targets):
    _, known = opened("vectors", targets=targets)
    assert (known.num_classes, known.classes) == (4, ("0", "1", "2", "3"))
    assert known.input == NetworkInput((3,), "float")
    parts = [on_a_device(known, device) for device in (1, 2)]
    assert [len(part) for part in parts] == [6, 6]
    assert [sum(counts) for counts in zip(*(part.class_counts() for part in parts), strict=True)] == [3] * 4
    inputs, labels = parts[0].read(torch.tensor([0, 5]), RNG)
    assert (inputs.dtype, labels.dtype) == (torch.get_default_dtype(), torch.int64)
    assert torch.equal((inputs[:, 0] * 8).long() % 4, labels)


def test_names_of_classes_and_their_configured_number():
    names = ["north", "east", "south", "west"]
    assert opened("vectors", names=names)[1].classes == tuple(names)
    assert opened("vectors", num_classes=6)[1].classes == tuple("012345")


def test_labels_that_are_no_classes():
    source, known = opened("regression")
    assert (known.num_classes, known.classes, known.has_classes) == (None, (), False)
    assert on_a_device(known).class_counts() == [5]
    assert some_labels(source).tolist() == [0.0, 0.5]
    source, known = opened("tokens")
    assert (known.num_classes, known.classes, known.input) == (7, (), NetworkInput((5,), "int64"))
    assert some_labels(source).shape == (2, 5)


def test_the_loss_is_tried_with_the_largest_class():
    assert some_labels(opened("vectors")[0]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["dirichlet", "shards"])
def test_classes_are_spread_only_where_there_are_any(kind):
    known = opened("regression", kind=kind)[1]
    with pytest.raises(UserError, match=f"^partition.name={kind}: must be iid, sizes, file, own: the labels"):
        on_a_device(known)
    on_a_device(opened("vectors", kind="shards")[1])


def test_random_transforms_repeat_and_leave_the_global_generators_alone():
    _, known = opened("Noisy")
    own = on_a_device(known)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    batches = [Batches(own, 3, None, seed, 1).get(*at) for seed, *at in ((0, 1, 0), (0, 1, 1), (0, 2, 0))]
    again = Batches(own, 3, None, 0, 1).get(1, 0)
    assert torch.equal(again[0], batches[0][0])
    drawn = torch.cat([inputs[:, 1:] for inputs, _ in batches])
    assert len(drawn.flatten().unique()) == drawn.numel() == 24  # 3, 2 and 3 samples: none is drawn twice
    torch.manual_seed(5)
    random.seed(5)
    assert torch.equal(Batches(own, 3, None, 0, 1).get(1, 0)[0], batches[0][0])
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    own.read(torch.arange(2), RNG)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_missing_training_data_is_told_apart():
    source, known = opened("at_root", num_classes=2, root=Path("there"))
    assert known.classes == ("0", "1")
    with pytest.raises(MissingDataError, match=r"FileNotFoundError: there/train\.csv is not there"):
        source.labels("train")
    assert len(load_held_out(source, known)[1]) == 8


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("whole", r"must be a function or class with a parameter `split` \(train or test\) or `train`"),
        ("Stream", "must be what makes a map-style data set, with __len__ and __getitem__, not Stream"),
        ("nothing", "the data set has no samples in test"),
        ("words", r"items must be pairs \(input, label\) of tensors, .*input and label are tuple and Tensor"),
        ("nowhere", "must be the dotted name of a function that this machine can import"),
    ],
)
def test_what_is_no_data_set(target, line):
    with pytest.raises(UserError, match=line) as caught:
        opened(target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("other_shape", "inputs of train are 3 float, those of test on the server 4 float"),
        ("far_off", r"train has the label -1: the server knows classes 0..0 \(data.num_classes says"),
    ],
)
def test_a_device_whose_data_differs_is_told(tmp_path, target, line):
    known = opened(target, kind="own")[1]
    with pytest.raises(UserError, match=line):
        load_train_part(open_source(known, tmp_path, False), known, 1, 2)


def test_what_a_device_has_of_its_own_is_somewhere():
    known = opened("images", kind="own", num_classes=2)[1]
    with pytest.raises(MissingDataError, match=r"node\.data_root=nowhere does not exist"):
        on_a_device(known)


def test_an_item_that_cannot_be_read_is_one_line():
    source, known = opened("failing")
    part = load_train_part(source, known, 1, 1)
    with pytest.raises(UserError, match="all of one shape") as caught:
        part.read(torch.arange(3), RNG)
    assert "\n" not in str(caught.value)


def test_validation_samples_of_the_training_split():
    source, known = opened("vectors", val_size=4, val_from="train")
    val, test = load_held_out(source, known)
    assert (len(val), len(test)) == (4, 12)
    parts = [on_a_device(known, device) for device in (1, 2)]
    seen = [part.read(torch.arange(len(part)), RNG)[0][:, 0] * 8 for part in (val, *parts)]
    assert sorted(torch.cat(seen).tolist()) == list(range(12))  # each is in one of them
