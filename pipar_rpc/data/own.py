"""Data sets of the user's own, named by a dotted name: whatever torch calls a map-style data set."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, first_line
from pipar_rpc.base.network_input import NetworkInput
from pipar_rpc.base.random_streams import generator, global_generators
from pipar_rpc.data.spec import OWN, DataSpec, MissingDataError, Split

KEY = "data._target_"
SPLITS = ("split", "train")  # parameters that say which split is wanted
AT_ONCE = 64  # items whose labels are read in one go


class OwnDataSet:
    """What the user's function or class returns for each split; made when it is asked for.

    The function gets, of `split` ("train" or "test"), `train` (True or False, as in torchvision) and `root`
    (`node.data_root`, a path), those that it has parameters for, and what `data.args` holds. It returns an
    object with `__len__` and `__getitem__`, whose items are pairs of input and label: tensors, arrays or
    numbers, of the same shapes for all items.

    Labels are class numbers if they are single integers >= 0. They are looked up in the data set's `targets`
    where it has such an attribute (and no `target_transform`); otherwise all items are read once. `classes`,
    if there is such an attribute, names the classes.
    """

    def __init__(self, spec: DataSpec, root: Path, download: bool) -> None:
        self._spec, self._root = spec, root
        self._made: dict[Split, Any] = {}
        self._found: dict[Split, Tensor] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where labels are no classes, and before `describe`."""
        return self._spec.classes

    def describe(self) -> DataSpec:
        """Finds out, on the server, what the labels and the inputs are; returns the specification with it."""
        spec, made = self._spec, self._open("test")
        inputs, labels = self._first("test")
        named = tuple(map(str, getattr(made, "classes", None) or ()))
        numbers = self._numbers("test") if _are_numbers(labels) else None
        if numbers is None or int(numbers.min()) < 0:
            count = spec.num_classes or len(named) or None
            self._spec = replace(spec, num_classes=count, input=NetworkInput.of(inputs))
            return self._spec
        count = spec.num_classes or len(named) or max(int(numbers.max()), self._largest_of_training()) + 1
        names = named if len(named) == count else tuple(map(str, range(count)))
        self._spec = replace(spec, classes=names, num_classes=count, input=NetworkInput.of(inputs))
        return self._spec

    def _largest_of_training(self) -> int:
        if self._spec.partition.name == OWN:  # these are on the devices
            return -1
        try:
            return int(self._numbers("train").max())
        except MissingDataError:
            return -1

    def labels(self, split: Split, on_items: Callable[[], None] = lambda: None) -> Tensor:
        """See `Source.labels`; `on_items` is called before every few items whose labels must be read."""
        if not self.classes:
            return torch.zeros(len(self._open(split)), dtype=torch.int64)
        numbers = self._numbers(split, on_items)
        least, most = int(numbers.min()), int(numbers.max())
        if least < 0 or most >= len(self.classes):
            wrong, last = least if least < 0 else most, len(self.classes) - 1
            known = f"the server knows classes 0..{last} (data.num_classes says how many there are)"
            raise UserError(f"{KEY}={self._spec.target}: {split} has the label {wrong}: {known}")
        return numbers

    def images(self, split: Split, indices: Tensor) -> Tensor:
        """The inputs at `indices`, as they go into the network."""
        return self.samples(split, indices).read(torch.arange(len(indices)), generator(0, "look"))[0]

    def some_labels(self) -> Tensor:
        """Labels of the test split as the loss gets them: the first two, and the largest class number."""
        chosen = torch.arange(min(2, len(self._open("test"))))
        if self.classes:
            chosen = torch.cat([chosen, self._numbers("test").argmax().view(1)])
        return self.samples("test", chosen).read(torch.arange(len(chosen)), generator(0, "look"))[1]

    def samples(self, split: Split, indices: Tensor, on_items: Callable[[], None] = lambda: None) -> "Items":
        """The samples at `indices`, which are read when they are asked for.

        Raises:
            UserError: they have not the shape or type of those on the server.
        """
        made, known = self._open(split), self._spec.input
        found = NetworkInput.of(self._first(split)[0])
        if known is not None and found != known:
            other = f"inputs of {split} are {found}, those of test on the server {known}"
            raise UserError(f"{KEY}={self._spec.target}: {other}")
        numbers = self.labels(split, on_items)[indices] if self.classes else None
        return Items(made, f"{self._spec.target}, {split}", indices, numbers)

    def _open(self, split: Split) -> Any:
        if split not in self._made:
            self._made[split] = self._make(split)
        return self._made[split]

    def _make(self, split: Split) -> Any:
        target, args = self._spec.target or "", self._spec.args
        offered = {"split": split, "train": split == "train", "root": self._root}
        if not dotted.accepted(dotted.resolved(KEY, target), offered).keys() & {*SPLITS}:
            both = "a function or class with a parameter `split` (train or test) or `train` (True or False)"
            raise ConfigError(KEY, target, both)
        if split == "train" and self._spec.partition.name == OWN and not self._root.exists():
            where = f"node.data_root={self._root} does not exist (partition=own)"
            raise MissingDataError(f"{KEY}={target}: {where}")
        try:
            made = dotted.call(KEY, target, offered, args)
        except UserError as error:
            if isinstance(error.__cause__, OSError):
                raise MissingDataError(str(error)) from error
            raise
        needed = all(hasattr(made, name) for name in ("__len__", "__getitem__"))
        if isinstance(made, IterableDataset) or not needed:
            what = "what makes a map-style data set, with __len__ and __getitem__"
            raise ConfigError(KEY, target, f"{what}, not {type(made).__name__}")
        if not len(made):
            raise MissingDataError(f"{KEY}={target}: the data set has no samples in {split}")
        return made

    def _first(self, split: Split) -> tuple[Tensor, Tensor]:
        items = Items(self._open(split), f"{self._spec.target}, {split}", torch.zeros(1, dtype=torch.int64))
        return items.read(torch.zeros(1, dtype=torch.int64), generator(0, "look"))

    def _numbers(self, split: Split, on_items: Callable[[], None] = lambda: None) -> Tensor:
        """Class numbers of a split, looked up or read."""
        if split not in self._found:
            self._found[split] = self._look_up(split, on_items)
        return self._found[split]

    def _look_up(self, split: Split, on_items: Callable[[], None]) -> Tensor:
        made = self._open(split)
        given = getattr(made, "targets", None)
        if given is not None and len(given) == len(made) and getattr(made, "target_transform", None) is None:
            return torch.as_tensor(given).long()
        every, found = Items(made, f"{self._spec.target}, {split}", torch.arange(len(made))), []
        for chosen in torch.arange(len(made)).split(AT_ONCE):
            on_items()
            found.append(every.read(chosen, generator(0, "look"))[1])
        return torch.cat(found)


@dataclass(frozen=True)
class Items:
    """Samples of a user's data set.

    Attributes:
        data_set: the user's object.
        called: what it is called in errors.
        indices: places of these samples in it: int64 of shape [n].
        classes: their class numbers: int64 of shape [n]; None where labels are no classes.
    """

    data_set: Any
    called: str
    indices: Tensor
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, chosen: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Samples.read`. Floats come as torch's default type, integers of labels as int64.

        Raises:
            UserError: an item cannot be read, or is no pair of tensors, arrays or numbers.
        """
        places = self.indices[chosen].tolist()
        try:
            with global_generators(rng):
                many = getattr(self.data_set, "__getitems__", None)
                items = many(places) if many else [self.data_set[place] for place in places]
            return _collated(items)
        except Exception as error:
            pairs = "items must be pairs (input, label) of tensors, arrays or numbers, all of one shape"
            why = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{KEY}={self.called}: {pairs} (item {places[0]} and others: {why})") from error

    def class_counts(self) -> list[int]:
        """See `Samples.class_counts`."""
        return [len(self)] if self.classes is None else torch.bincount(self.classes).tolist()


def _collated(items: list[Any]) -> tuple[Tensor, Tensor]:
    inputs, labels = default_collate(items)
    if not (isinstance(inputs, Tensor) and isinstance(labels, Tensor)):
        found = f"{type(inputs).__name__} and {type(labels).__name__}"
        raise TypeError(f"input and label are {found}")
    floats = torch.get_default_dtype()
    inputs = inputs.to(floats) if inputs.is_floating_point() else inputs
    return inputs, labels.to(floats if labels.is_floating_point() else torch.int64)


def _are_numbers(labels: Tensor) -> bool:
    """Whether each label is one integer."""
    return labels.dim() == 1 and not labels.is_floating_point()
