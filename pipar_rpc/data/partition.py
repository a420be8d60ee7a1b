"""Who gets which training sample.

Every machine computes the same partition from the labels and the seed, so a device loads its own part and
nobody else's. Each sample goes to one device at most. With "own" there is nothing to share out: all that is
on a device's machine is its part.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipar_rpc.base.errors import ConfigError, UserError, first_line
from pipar_rpc.base.random_streams import generator
from pipar_rpc.data.held_out import validation_in_training
from pipar_rpc.data.spec import OWN, DataSpec

BY_CLASS = ("dirichlet", "shards")  # partitions that spread classes
MAX_DRAWS = 100  # of a Dirichlet partition, until every device has enough


def partition(labels: Tensor, spec: DataSpec, num_devices: int) -> list[Tensor]:
    """Indices of each device's training samples, disjoint, in random order.

    With "iid", "dirichlet" and ratios, the devices share `spec.train_size_per_device * num_devices` samples
    drawn at random, or with None all of them. With "own" only the entry of the device that asks
    means anything.

    Args:
        labels: class numbers, int64 of shape [n], of the whole training split; with "own", of what this
            machine has.
        spec: names the kind of partition and its parameters.
        num_devices: K.

    Raises:
        ConfigError: the samples do not suffice, the parameters do not fit the number of devices, or classes
            are to be spread where there are none.
    """
    kind = spec.partition
    if kind.name in BY_CLASS and not spec.has_classes:
        others = ", ".join(name for name in PARTITIONS if name not in BY_CLASS)
        none = f"{others}: the labels of this data set are no class numbers"
        raise ConfigError("partition.name", kind.name, none)
    left = _without(validation_in_training(len(labels), spec), len(labels))
    parts = [left[part] for part in PARTITIONS[kind.name](labels[left], spec, num_devices)]
    for device, (part, limit) in enumerate(zip(parts, kind.limits, strict=False), start=1):
        if limit is not None and limit > len(part) and kind.name != OWN:
            key = f"devices.overrides.{device}.data.train_size_per_device"
            raise ConfigError(key, limit, f"1..{len(part)} (device {device} has {len(part)} samples)")
    limits = kind.limits or [None] * num_devices
    return [part[:limit] for part, limit in zip(parts, limits, strict=True)]


def _without(taken: Tensor, count: int) -> Tensor:
    """The numbers 0..count-1 that are not taken, in order."""
    free = torch.ones(count, dtype=torch.bool)
    free[taken] = False
    return free.nonzero()[:, 0]


def read_indices(path: Path) -> tuple[tuple[int, ...], ...]:
    """Reads a partition file: JSON, one list of indices into the training split for each device.

    Raises:
        ConfigError: no such file, or something else in it.
    """
    key = "partition.path"
    try:
        lists = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(key, path, f"a readable file ({first_line(error)})") from error
    except ValueError as error:
        raise ConfigError(key, path, f"a JSON file ({first_line(error)})") from error
    if not isinstance(lists, list) or not all(
        isinstance(part, list) and all(type(index) is int for index in part) for part in lists
    ):
        raise ConfigError(key, path, "a JSON list with one list of indices for each device")
    return tuple(tuple(part) for part in lists)


def digest(indices: Sequence[Sequence[int]]) -> str:
    """Tells the contents of partition files apart."""
    return hashlib.sha256(json.dumps(indices).encode()).hexdigest()[:16]


def _iid(labels: Tensor, spec: DataSpec, num_devices: int) -> list[Tensor]:
    """At random; shares differ by at most one sample."""
    return list(torch.tensor_split(_pool(labels, spec, num_devices), num_devices))


def _dirichlet(labels: Tensor, spec: DataSpec, num_devices: int) -> list[Tensor]:
    """Each class is divided in proportions drawn from Dirichlet(alpha, ..., alpha) (Hsu et al., 2019).

    Drawn again, up to `MAX_DRAWS` times, until every device has `smallest` samples.
    """
    pool, kind = _pool(labels, spec, num_devices), spec.partition
    by_class = _by_class(labels, pool)
    most = 0
    for draw in range(MAX_DRAWS):
        rng = np.random.default_rng(generator(spec.seed, "dirichlet", draw).initial_seed())
        shares = rng.dirichlet([kind.alpha] * num_devices, size=len(by_class))
        divided = [_divide(own, share) for own, share in zip(by_class, shares, strict=True)]
        parts = [torch.cat(pieces) for pieces in zip(*divided, strict=True)]
        fewest = min(map(len, parts))
        if fewest >= kind.smallest:
            return [_shuffled(part, spec, device) for device, part in enumerate(parts, start=1)]
        most = max(most, fewest)
    found = f"in {MAX_DRAWS} draws some device always had {most} samples or fewer"
    allowed = f"larger, or batch_size={kind.smallest} smaller: {found}"
    raise ConfigError("partition.alpha", kind.alpha, allowed)


def _shards(labels: Tensor, spec: DataSpec, num_devices: int) -> list[Tensor]:
    """Each device holds `classes_per_device` classes; those who hold a class share it equally.

    Classes are dealt out in turn, so each is held by as many devices as any other, give or take one. The
    pathological partition of McMahan et al. (2017), with the number of classes kept exactly. Of its share,
    a device keeps `spec.train_size_per_device` samples.
    """
    held, by_class = spec.partition.classes_per_device, _by_class(labels, _order(labels, spec))
    present = [label for label, own in enumerate(by_class) if len(own)]
    if held > len(present):
        allowed = f"1..{len(present)} (the training samples have {len(present)} classes)"
        raise ConfigError("partition.classes_per_device", held, allowed)
    order = torch.randperm(len(present), generator=generator(spec.seed, "shards")).tolist()
    dealt = [present[order[index % len(present)]] for index in range(num_devices * held)]
    holders = {label: dealt.count(label) for label in set(dealt)}
    pieces = {label: list(torch.tensor_split(by_class[label], count)) for label, count in holders.items()}
    parts = [
        torch.cat([pieces[label].pop() for label in dealt[device * held : (device + 1) * held]])
        for device in range(num_devices)
    ]
    size, fewest = spec.train_size_per_device, min(map(len, parts))
    if fewest < (size or 1):
        allowed = f"1..{fewest} (some device has {fewest} samples of its {held} classes)"
        raise ConfigError("data.train_size_per_device", size, allowed)
    return [_shuffled(part, spec, device)[:size] for device, part in enumerate(parts, start=1)]


def _sizes(labels: Tensor, spec: DataSpec, num_devices: int) -> list[Tensor]:
    """Parts of given sizes, or in given ratios; drawn at random."""
    kind = spec.partition
    if kind.ratios:
        _one_each("partition.ratios", kind.ratios, num_devices)
        total = sum(kind.ratios)
        return _divide(_pool(labels, spec, num_devices), [ratio / total for ratio in kind.ratios])
    _one_each("partition.sizes", kind.sizes, num_devices)
    if sum(kind.sizes) > len(labels):
        allowed = f"at most {len(labels)} together ({spec.name} has {len(labels)} training samples)"
        raise ConfigError("partition.sizes", list(kind.sizes), allowed)
    return list(torch.split(_order(labels, spec)[: sum(kind.sizes)], list(kind.sizes)))


def _file(labels: Tensor, spec: DataSpec, num_devices: int) -> list[Tensor]:
    """As a file says."""
    lists = spec.partition.indices
    if len(lists) != num_devices:
        raise UserError(f"partition.path: has {len(lists)} lists, num_devices is {num_devices}")
    parts = [torch.tensor(part, dtype=torch.int64) for part in lists]
    every = torch.cat(parts)
    if len(every) and not 0 <= int(every.min()) <= int(every.max()) < len(labels):
        wrong = int(every.min()) if int(every.min()) < 0 else int(every.max())
        raise UserError(f"partition.path: index {wrong}: must be 0..{len(labels) - 1}")
    values, counts = every.unique(return_counts=True)
    if len(values) < len(every):
        raise UserError(f"partition.path: index {int(values[counts > 1][0])}: must be there once")
    return parts


def _own(labels: Tensor, spec: DataSpec, num_devices: int) -> list[Tensor]:
    """Everything, for whichever device asks."""
    return [_order(labels, spec)] * num_devices


PARTITIONS: dict[str, Callable[[Tensor, DataSpec, int], list[Tensor]]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "shards": _shards,
    "sizes": _sizes,
    "file": _file,
    OWN: _own,
}


def _order(labels: Tensor, spec: DataSpec) -> Tensor:
    return torch.randperm(len(labels), generator=generator(spec.seed, "partition"))


def _pool(labels: Tensor, spec: DataSpec, num_devices: int) -> Tensor:
    """Indices of the samples that are shared out."""
    limit, size = len(labels) // num_devices, spec.train_size_per_device
    if limit < 1:
        allowed = f"1..{len(labels)} (one training sample for each device)"
        raise ConfigError("num_devices", num_devices, allowed)
    if size is not None and size > limit:
        available = f"{spec.name} has {len(labels)} training samples for {num_devices} devices"
        raise ConfigError("data.train_size_per_device", size, f"1..{limit} ({available})")
    return _order(labels, spec)[: None if size is None else size * num_devices]


def _by_class(labels: Tensor, pool: Tensor) -> list[Tensor]:
    """The indices in `pool`, one tensor for each class, in the order of the pool."""
    own = labels[pool]
    return [pool[own == label] for label in range(int(labels.max()) + 1)]


def _divide(indices: Tensor, shares: Sequence[float]) -> list[Tensor]:
    """Cuts into parts whose sizes follow shares that add up to 1; each index is in one part."""
    ends = [round(float(end) * len(indices)) for end in accumulate(shares)]
    return list(torch.tensor_split(indices, ends[:-1]))


def _shuffled(part: Tensor, spec: DataSpec, device: int) -> Tensor:
    """A random order, so that keeping some of the samples keeps the mixture of classes."""
    return part[torch.randperm(len(part), generator=generator(spec.seed, "part", device))]


def _one_each(key: str, values: Sequence[float], num_devices: int) -> None:
    if len(values) != num_devices:
        raise ConfigError(key, list(values), f"{num_devices} numbers, one for each device")
