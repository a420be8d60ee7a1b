"""The table of `python -m pipar_rpc.leakage`: what the server could learn, for each way of cutting."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipar_rpc.results.csv_table import write_table
from pipar_rpc.results.runs import UNCOMPRESSED
from pipar_rpc.results.terminal import table


class Leakage(NamedTuple):
    """One row: a cut, a codec and an amount of noise.

    Attributes:
        split_point: P.
        compression: codecs of activations and gradients.
        noise: standard deviation of the noise as a multiple of `max_norm`.
        max_norm: L2 norm to which activations were clipped; None without noise.
        distance_correlation: of images and activations, 0..1.
        distance_correlation_chance: the same of activations that belong to other images.
        mse: mean squared error of reconstructions, pixels 0..1.
        mean_image_mse: the same of the mean image, for whoever sees nothing.
        ssim: structural similarity of reconstructions; 1 for equal images.
        mean_image_ssim: the same of the mean image.
        cut_label_accuracy: share of labels inferred from the gradients that return to the device, 0..1; None
            if labels are no classes.
        tail_label_accuracy: share of labels inferred from the gradients before the last units; None also if
            these begin before the cut.
        label_chance: share of the largest class.
        accuracy: the network's accuracy with activations as they cross.
        predicted_iteration_s: seconds of an iteration.
    """

    split_point: int
    compression: str
    noise: float
    max_norm: float | None
    distance_correlation: float
    distance_correlation_chance: float
    mse: float
    mean_image_mse: float
    ssim: float
    mean_image_ssim: float
    cut_label_accuracy: float | None
    tail_label_accuracy: float | None
    label_chance: float | None
    accuracy: float | None
    predicted_iteration_s: float

    @property
    def way(self) -> tuple[str, float]:
        """Codec and noise: rows that differ in P alone have the same."""
        return self.compression, self.noise


def way_name(way: tuple[str, float]) -> str:
    """Codec, if there is one, and noise as pictures show them."""
    codec, noise = way
    return f"noise {noise:g}" if codec == UNCOMPRESSED else f"{codec}, noise {noise:g}"


HEADINGS = {
    "split_point": ("P", "d"),
    "compression": ("codecs", "s"),
    "noise": ("noise", "g"),
    "max_norm": ("max norm", ".3g"),
    "distance_correlation": ("dist corr", ".3f"),
    "distance_correlation_chance": ("chance", ".3f"),
    "mse": ("MSE", ".4f"),
    "ssim": ("SSIM", ".3f"),
    "cut_label_accuracy": ("labels cut", ".3f"),
    "tail_label_accuracy": ("labels tail", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "predicted_iteration_s": ("iteration s", ".3f"),
}


def as_table(rows: Sequence[Leakage]) -> list[str]:
    """Lines of the table, with what an attacker who sees nothing would reach below it."""
    lines = [[_shown(getattr(row, name), form) for name, (_, form) in HEADINGS.items()] for row in rows]
    first = rows[0]
    nothing = f"who sees nothing: MSE {first.mean_image_mse:.4f}, SSIM {first.mean_image_ssim:.3f}"
    labels = "" if first.label_chance is None else f", labels {first.label_chance:.3f}"
    return [*table([heading for heading, _ in HEADINGS.values()], lines), f"{nothing} (mean image){labels}"]


def write_csv(rows: Sequence[Leakage], path: Path) -> None:
    """Writes all columns, six digits each."""
    write_table(path, Leakage._fields, rows)


def _shown(value: object, form: str) -> str:
    return "" if value is None else format(value, form)
