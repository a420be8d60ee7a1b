"""What the server could learn from what it sees: python -m pipar_rpc.leakage RUN [KEY=VALUE ...]

Cuts a run's trained network at each split point P, sends held-out images through the device half, and
measures on what crosses: its distance correlation with the images, how well a decoder reconstructs the
images, and how many labels the gradients tell. Beside it stands the predicted time of an iteration. Writes
leakage.csv, leakage.png and reconstructions.png into the run's folder. docs/privacy.md says what it does not
show.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipar_rpc.base.command import run_command
from pipar_rpc.base.errors import ConfigError, first_line
from pipar_rpc.leakage.arguments import asked, parse
from pipar_rpc.leakage.iteration_time import IterationTimes
from pipar_rpc.leakage.measuring import Asked, measured
from pipar_rpc.leakage.trained import HeldOut, read_held_out, read_network, read_run
from pipar_rpc.learning import Criterion
from pipar_rpc.plan.finished import FinishedRun
from pipar_rpc.results.leakage import Leakage, as_table, way_name, write_csv
from pipar_rpc.results.leakage_figures import leakage_figure, reconstructions_figure
from pipar_rpc.results.run_files import CONFIG, LEAKAGE, LEAKAGE_PICTURE, RECONSTRUCTIONS

SHOWN = 8  # images in the picture


def main() -> None:
    """Reads the run, measures, and writes."""
    sys.path.insert(0, "")  # the user's own modules
    began, args = time.monotonic(), parse(__doc__)
    with _threads():
        run = read_run(args.run, args.overrides)
        wanted, network = asked(args, run), read_network(args.run, run, args.best)
        images = read_held_out(run, args.num_images, wanted.seed)
        output = _output(args)
        times = IterationTimes(args.run, output, run, _config(args))
        seconds = {label: times.seconds(coding, label) for label, coding in wanted.codings.items()}
        criterion = Criterion(run.plan.devices[0].learning.loss, run.node.device)
        rows, found = list[Leakage](), list[tuple[Leakage, Tensor]]()
        for row, pictures in measured(
            network, images, criterion, wanted, lambda label, point: seconds[label][point]
        ):
            _progress(len(rows) + 1, wanted, row, began)
            rows.append(row)
            found.append((row, pictures[:SHOWN]))
    write_csv(rows, output / LEAKAGE)
    title = f"{run.plan.labels.model}, {run.plan.labels.data}"
    leakage_figure(rows, title).savefig(output / LEAKAGE_PICTURE, dpi=110)
    _draw(images, found).savefig(output / RECONSTRUCTIONS, dpi=110)
    print(*as_table(rows), f"iteration: {times.origin}", *_about(args, run, images), sep="\n")
    print(*(output / name for name in (LEAKAGE, LEAKAGE_PICTURE, RECONSTRUCTIONS)), sep="\n")


@contextmanager
def _threads() -> Iterator[None]:
    """Leaves torch's number of threads as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _output(args: argparse.Namespace) -> Path:
    folder: Path = args.output or args.run
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "--output", folder, f"a folder that can be written to ({first_line(error)})"
        ) from error
    return folder


def _config(args: argparse.Namespace) -> str:
    return "\n".join([(args.run / CONFIG).read_text(), *sorted(args.overrides)])


def _progress(number: int, wanted: Asked, row: Leakage, began: float) -> None:
    total = len(wanted.split_points) * len(wanted.codings) * len(wanted.noises)
    what = f"P = {row.split_point}, {way_name(row.way)}"
    print(f"{number}/{total} {what}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def _about(args: argparse.Namespace, run: FinishedRun, images: HeldOut) -> list[str]:
    scored = len(images.pixels) - images.first_scored
    return [
        f"{images.first_scored} held-out images to learn from, {scored} scored; {args.epochs} epochs",
        f"labels: {args.known_labels} known of each class, tail: last {run.tail_units} unit(s)",
    ]


def _draw(images: HeldOut, found: list[tuple[Leakage, Tensor]]) -> Any:
    def drawable(pixels: Tensor) -> Any:
        return pixels.cpu().float().permute(0, 2, 3, 1).numpy()

    first = images.pixels[images.first_scored :][:SHOWN]
    return reconstructions_figure(drawable(first), [(row, drawable(own)) for row, own in found])


if __name__ == "__main__":
    run_command(main)
