"""A run's network and held-out images, read from its folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipar_rpc.base.errors import ConfigError, UserError, require
from pipar_rpc.base.random_streams import generator
from pipar_rpc.data import load_held_out, open_source
from pipar_rpc.leakage.decoder import SMALLEST_IMAGE
from pipar_rpc.models import build_model, read_weights
from pipar_rpc.plan.finished import FinishedRun, read_finished
from pipar_rpc.results.run_files import BEST_MODEL, CONFIG, MODEL

FEWEST = 20  # images, of which a quarter is scored


@dataclass(frozen=True)
class HeldOut:
    """Images that no device trains on.

    Attributes:
        inputs: input of the network, shape [n, C, S, S].
        pixels: the same images with pixels 0..1.
        labels: shape [n, ...].
        first_scored: number of those that the attacker learns from; the others are scored.
    """

    inputs: Tensor
    pixels: Tensor
    labels: Tensor
    first_scored: int

    @property
    def has_classes(self) -> bool:
        """Whether labels are class numbers, one for each image."""
        return self.labels.dim() == 1 and not self.labels.is_floating_point()


def read_run(folder: Path, overrides: Sequence[str]) -> FinishedRun:
    """Reads what a run was.

    Raises:
        UserError: there is no run, or its configuration or its data cannot be read here.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no run is there: no {CONFIG}")
    return read_finished(folder / CONFIG, overrides)


def read_network(folder: Path, run: FinishedRun, best: bool) -> nn.Sequential:
    """The trained network in evaluation mode, on the node's device.

    Args:
        folder: folder of the run.
        run: what it was.
        best: whether it is the best one instead of the last one.

    Raises:
        UserError: there is no such file, or it is not this network's.
    """
    path = folder / (BEST_MODEL if best else MODEL)
    if not path.is_file():
        raise UserError(f"{folder}: no trained network is there: no {path.name}")
    spec = run.plan.devices[0].model
    network = build_model(spec)
    network.load_state_dict(read_weights(path, spec, strict=True))
    return network.to(run.node.device).eval()


def read_held_out(run: FinishedRun, count: int, seed: int) -> HeldOut:
    """Up to `count` images of the data set's test split, drawn at random; three quarters to learn from.

    Args:
        run: what the run was.
        count: number of images, at least 20.
        seed: seed of the choice.

    Raises:
        UserError: the data is missing, not images, or too little of it is held out.
    """
    job, node = run.plan.devices[0], run.node
    if job.transform is None and not (job.data.input and job.data.input.is_square_image):
        raise ConfigError("data", job.data.name, f"images: there is nothing to draw in {job.data.input}")
    require(job.model.channels in {1, 3}, "data.channels", job.model.channels, "1 or 3, to be drawn")
    size = job.model.image_size
    require(size >= SMALLEST_IMAGE, "data.image_size", size, f">= {SMALLEST_IMAGE}, for SSIM")
    source = open_source(job.data, node.data_root, node.download)
    available = len(source.labels("test"))
    if available < FEWEST:
        raise UserError(f"data={job.data.name}: {available} images are held out, and {FEWEST} are needed")
    wanted = replace(job.data, val_size=0, val_from="test", test_size=min(count, available), seed=seed)
    _, samples = load_held_out(source, wanted)
    read, labels = samples.read(torch.arange(len(samples)), generator(seed, "leakage", "images"))
    inputs = job.transform.normalise(read) if job.transform else read
    first_scored = len(inputs) * 3 // 4
    return HeldOut(
        inputs.to(node.device), _pixels(read).to(node.device), labels.to(node.device), first_scored
    )


def _pixels(images: Tensor) -> Tensor:
    """Pixels 0..1: of the user's own images, whose scale is theirs, the smallest is 0 and the largest 1."""
    if images.dtype == torch.uint8:
        return images.to(torch.get_default_dtype()) / 255
    low, high = images.min(), images.max()
    return (images - low) / (high - low).clamp(min=1e-12)
