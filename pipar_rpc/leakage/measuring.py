"""Measures all ways of cutting: each split point with each codec and each amount of noise."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from pipar_rpc.base.random_streams import generator
from pipar_rpc.compression.coding import CodingSpec
from pipar_rpc.leakage.decoder import mse, reconstruct, ssim, train_decoder
from pipar_rpc.leakage.labels import infer_labels, some_of_each
from pipar_rpc.leakage.noise import median_norm
from pipar_rpc.leakage.observation import Crossing, Observation, device_activations, observe
from pipar_rpc.leakage.trained import HeldOut
from pipar_rpc.learning import Criterion
from pipar_rpc.privacy.distance_correlation import distance_correlation
from pipar_rpc.results.leakage import Leakage


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes:
        split_points: each P, 1..Q-1.
        codings: codecs by the name that the table has for them.
        noises: amounts of noise.
        max_norm: L2 norm to which activations are clipped where noise is added; None for the median of the
            norms at each P.
        epochs: epochs of the decoder.
        known_labels: number of samples of each class whose label the attacker knows.
        tail_units: number of last units that may stay on a device.
        seed: seed of all random choices.
    """

    split_points: Sequence[int]
    codings: dict[str, CodingSpec]
    noises: Sequence[float]
    max_norm: float | None
    epochs: int
    known_labels: int
    tail_units: int
    seed: int


def measured(
    network: nn.Sequential,
    images: HeldOut,
    criterion: Criterion,
    asked: Asked,
    seconds: Callable[[str, int], float],
) -> Iterator[tuple[Leakage, Tensor]]:
    """Yields a row and the reconstructions of the scored images, [n, C, S, S], for each way of cutting.

    Args:
        network: the trained network, in evaluation mode.
        images: held-out images.
        criterion: training loss.
        asked: what is to be measured.
        seconds: function from the name of a codec and P to the seconds of an iteration.
    """
    bench = _Bench(images, criterion, asked)
    for point in asked.split_points:
        clear = device_activations(network, point, images.inputs)
        max_norm = asked.max_norm or median_norm(clear[: images.first_scored])
        for (label, coding), noise in product(asked.codings.items(), asked.noises):
            crossing = Crossing(point, coding, max_norm, noise)
            seen = observe(
                *(network, clear, images.labels, crossing, criterion), asked.tail_units, asked.seed
            )
            yield bench.row(seen, crossing, label, seconds(label, point))


class _Bench:
    """The images with what is found without seeing anything; arguments as of `measured`."""

    def __init__(self, images: HeldOut, criterion: Criterion, asked: Asked) -> None:
        self._asked, self._first = asked, images.first_scored
        self._learned, self._scored = images.pixels[: self._first], images.pixels[self._first :]
        mean_image = self._learned.mean(dim=0).expand_as(self._scored)
        self._mean_image = mse(self._scored, mean_image), ssim(self._scored, mean_image)
        rng = generator(asked.seed, "leakage", "shuffled")
        self._others = self._scored[torch.randperm(len(self._scored), generator=rng)]
        self._labels = _Labels(images, asked.known_labels, criterion)

    def row(
        self, seen: Observation, crossing: Crossing, label: str, iteration_s: float
    ) -> tuple[Leakage, Tensor]:
        """A row of the table, and reconstructions of the scored images."""
        learned, own = seen.activations[: self._first], seen.activations[self._first :]
        decoder = train_decoder(learned, self._learned, self._asked.epochs, self._asked.seed)
        found = reconstruct(decoder, own)
        row = Leakage(
            split_point=crossing.split_point,
            compression=label,
            noise=crossing.noise,
            max_norm=crossing.max_norm if crossing.noise else None,
            distance_correlation=_dependence(self._scored, own),
            distance_correlation_chance=_dependence(self._others, own),
            mse=mse(self._scored, found),
            mean_image_mse=self._mean_image[0],
            ssim=ssim(self._scored, found),
            mean_image_ssim=self._mean_image[1],
            cut_label_accuracy=self._labels.inferred(seen.cut_gradients),
            tail_label_accuracy=self._labels.inferred(seen.tail_gradients),
            label_chance=self._labels.chance,
            accuracy=self._labels.classified(seen),
            predicted_iteration_s=iteration_s,
        )
        return row, found


def _dependence(images: Tensor, activations: Tensor) -> float:
    """The distance correlation in double precision, which loses fewer digits."""
    return float(distance_correlation(images.double(), activations.double()))


@dataclass(frozen=True)
class _Labels:
    """Accuracies on the scored images.

    Attributes:
        images: held-out images.
        count: number of samples of each class whose label the attacker knows.
        criterion: training loss.
    """

    images: HeldOut
    count: int
    criterion: Criterion

    @property
    def chance(self) -> float | None:
        """The share of the largest class."""
        if not self.images.has_classes:
            return None
        scored = self.images.labels[self.images.first_scored :]
        return float(torch.bincount(scored).max()) / len(scored)

    def inferred(self, gradients: Tensor | None) -> float | None:
        """The share of labels that gradients tell."""
        if gradients is None or not self.images.has_classes:
            return None
        first, labels = self.images.first_scored, self.images.labels
        known = some_of_each(labels[:first], self.count)
        found = infer_labels(gradients[known], labels[known], gradients[first:])
        return float((found == labels[first:]).double().mean())

    def classified(self, seen: Observation) -> float | None:
        """The network's accuracy."""
        outputs = seen.outputs[self.images.first_scored :]
        labels = self.images.labels[self.images.first_scored :]
        count = self.criterion.num_classified(labels)
        return self.criterion.num_correct(outputs, labels) / count if count else None
