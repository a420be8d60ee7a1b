"""How well the whole network does on held-out samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.random_streams import generator
from pipar_rpc.base.states import State
from pipar_rpc.compression.coding import Coding
from pipar_rpc.data import Samples, Transform
from pipar_rpc.learning.loss import Criterion
from pipar_rpc.learning.metrics import Metrics
from pipar_rpc.privacy.cut import CutPrivacy

BATCH_SIZE = 250
PART = Part(1, 0, 1, 1, 1.0)  # the place of what is only evaluated


def _ignore(samples: int) -> None:
    pass


@dataclass(frozen=True)
class Evaluation:
    """What a network does on a set of samples.

    Attributes:
        loss: mean loss over what counts.
        accuracy: share of the labels that are classified correctly, 0..1; None if labels are no classes.
        metrics: further figures by name.
        confusion: number of samples by class (row) and by class found (column), int64 of shape [C, C]; None
            if there is not one class for each sample.
    """

    loss: float
    accuracy: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    confusion: Tensor | None = None


@torch.no_grad()
def evaluate(
    network: nn.Module,
    data: Samples,
    transform: Transform | None,
    device: torch.device,
    criterion: Criterion,
    metrics: Metrics,
    on_batch: Callable[[int], None] = _ignore,
) -> Evaluation:
    """Evaluates a network in evaluation mode.

    Args:
        network: the uncut network, on `device`.
        data: the samples.
        transform: preprocessing, of which the normalisation is applied and the augmentation is not; None for
            samples that are network input.
        device: torch device that computes.
        criterion: the training loss, on `device`.
        metrics: further metrics.
        on_batch: function called with the number of samples after each batch, for displays.
    """
    network.eval()
    metrics.reset()
    loss = counted = 0.0
    correct, classified, confusion = 0, 0, list[Tensor]()
    for chosen in torch.arange(len(data)).split(BATCH_SIZE):
        inputs, labels = data.read(chosen, generator(0, "evaluate", int(chosen[0])))
        outputs = network((transform.normalise(inputs) if transform else inputs).to(device))
        count = criterion.count(labels)
        if count:
            loss += count * float(criterion(outputs, labels.to(device)))
        outputs, counted = outputs.cpu(), counted + count
        correct += criterion.num_correct(outputs, labels)
        classified += criterion.num_classified(labels)
        metrics.update(outputs, labels)
        if outputs.dim() == 2 and labels.dim() == 1 and not labels.is_floating_point():
            confusion.append(_confusion(outputs, labels))
        on_batch(len(labels))
    return Evaluation(
        loss=loss / counted if counted else float("nan"),
        accuracy=correct / classified if classified else None,
        metrics=metrics.compute(),
        confusion=torch.stack(confusion).sum(dim=0) if confusion else None,
    )


def _confusion(outputs: Tensor, labels: Tensor) -> Tensor:
    classes = outputs.shape[1]
    shown = (labels >= 0) & (labels < classes)
    pairs = labels[shown] * classes + outputs.argmax(dim=1)[shown]
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


class CodedNetwork(nn.Module):
    """A network whose activations are released and coded at the cuts, as while it is trained.

    Args:
        network: the uncut network.
        split_point: P.
        tail_units: T, number of last units that are on the device again; 0 if there is one cut.
        coding: codecs of the first cut.
        privacy: mechanisms of the first cut; none by default.
    """

    def __init__(
        self,
        network: nn.Sequential,
        split_point: int,
        tail_units: int,
        coding: Coding,
        privacy: CutPrivacy | None = None,
    ) -> None:
        super().__init__()
        last = len(network) - tail_units
        pieces = [network[:split_point], network[split_point:last], network[last:]]
        self.pieces = nn.ModuleList(pieces if tail_units else pieces[:2])
        self._codings, self._privacy = (coding, coding.before_tail()), privacy or CutPrivacy()

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs; what is drawn at random, by a codec or as noise, is the same in every batch."""
        first, *others = self.pieces
        outputs = self._privacy.release(PART, inputs, first(inputs)).values
        for piece, coding in zip(others, self._codings, strict=False):
            sent = coding.encode_activation(PART, outputs)
            outputs = piece(coding.decode_activation(sent, inputs.device))
        return outputs


class Evaluator:
    """Evaluates networks on fixed sets of samples.

    Args:
        network: network of the right architecture, whose weights are overwritten.
        sets: samples by name, e.g. {"val": ..., "test": ...}.
        transform: conversion of stored images to network input; None for samples that are network input.
        device: torch device that computes.
        criterion: the training loss, on `device`.
        metrics: further metrics; none by default.
        on_batch: function called with the number of samples after each batch, for displays.
    """

    def __init__(
        self,
        network: nn.Sequential,
        sets: Mapping[str, Samples],
        transform: Transform | None,
        device: torch.device,
        criterion: Criterion,
        metrics: Metrics | None = None,
        on_batch: Callable[[int], None] = _ignore,
    ) -> None:
        self._network = network.to(device)
        self._sets, self._transform, self._device, self._on_batch = sets, transform, device, on_batch
        self._criterion, self._metrics = criterion, metrics or Metrics({})

    def num_samples(self, *names: str) -> int:
        """Counts the samples in the sets of these names."""
        return sum(len(self._sets[name]) for name in names if name in self._sets)

    def measure(
        self, state: State, name: str, cut: tuple[int, int, Coding, CutPrivacy] | None = None
    ) -> Evaluation | None:
        """Evaluates a network with these weights on the set `name`; None if there is no such set.

        Args:
            state: state of the whole network.
            name: name of the set.
            cut: P, T, codecs and mechanisms through which activations go; None for the uncut network.
        """
        if name not in self._sets:
            return None
        self._network.load_state_dict(state)
        how = (self._transform, self._device, self._criterion, self._metrics, self._on_batch)
        network = CodedNetwork(self._network, *cut) if cut else self._network
        return evaluate(network, self._sets[name], *how)
