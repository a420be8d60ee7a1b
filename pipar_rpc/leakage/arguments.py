"""The command line of `python -m pipar_rpc.leakage`."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pipar_rpc.base.errors import ConfigError, nearest, require
from pipar_rpc.compression.coding import CodingSpec
from pipar_rpc.compression.registry import CODECS, CodecSpec
from pipar_rpc.leakage.measuring import Asked
from pipar_rpc.leakage.trained import FEWEST
from pipar_rpc.plan.finished import FinishedRun

T = TypeVar("T")


def parse(description: str | None) -> argparse.Namespace:
    """Reads the command line; what is out of range by itself is refused.

    Raises:
        ConfigError: a value is out of range.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pipar_rpc.leakage",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a run that has ended")
    replaced = "keys of its configuration with other values, e.g. node.data_root=... network.uplink_mbps=10"
    add("overrides", nargs="*", metavar="KEY=VALUE", help=replaced)
    add("--split-points", metavar="P,...", help="(default: all below Q)")
    add("--compression", metavar="NAME,...", help=f"{', '.join(CODECS)} (default: the run's codecs)")
    add("--noise", metavar="F,...", help="multiples of the clipping norm (default: 0, and the run's)")
    norm = "L2 norm to which activations are clipped where noise is added (default: the run's, or the median)"
    add("--max-norm", type=float, metavar="C", help=norm)
    add("--num-images", type=int, default=2000, help="held-out images, of which a quarter is scored (2000)")
    add("--epochs", type=int, default=10, help="of each decoder (default 10)")
    add("--known-labels", type=int, default=1, help="of each class, known to the attacker (default 1)")
    add("--best", action="store_true", help="model_best.pt instead of model.pt")
    add("--seed", type=int, help="(default: the run's)")
    add("--output", type=Path, help="folder for table and pictures (default: the run's)")
    args = parser.parse_intermixed_args()
    require(args.num_images >= FEWEST, "--num-images", args.num_images, f">= {FEWEST}")
    for name in ("epochs", "known_labels"):
        require(getattr(args, name) >= 1, f"--{name.replace('_', '-')}", getattr(args, name), ">= 1")
    limit = args.max_norm
    require(limit is None or 0 < limit < math.inf, "--max-norm", limit, "> 0")
    require(args.seed is None or args.seed >= 0, "--seed", args.seed, ">= 0")
    return args


def asked(args: argparse.Namespace, run: FinishedRun) -> Asked:
    """What is to be measured of a run.

    Raises:
        ConfigError: the network has no such split point, there is no such codec, or noise is no number >= 0.
    """
    num_units, own = len(run.plan.network.units), run.protection
    points = _listed("--split-points", args.split_points, int, f"numbers of 1..{num_units - 1}")
    for point in points or ():
        below = f"1..{num_units - 1} (P = {num_units} sends nothing but models)"
        require(1 <= point < num_units, "--split-points", point, below)
    noises = _listed("--noise", args.noise, float, "numbers >= 0")
    for noise in noises or ():
        require(0 <= noise < math.inf, "--noise", f"{noise:g}", ">= 0")
    return Asked(
        split_points=points or list(range(1, num_units)),
        codings=_codings(args.compression, run),
        noises=noises or sorted({0.0, own.noise}),
        max_norm=own.max_norm if args.max_norm is None else args.max_norm,
        epochs=args.epochs,
        known_labels=args.known_labels,
        tail_units=run.tail_units,
        seed=run.plan.settings.seed if args.seed is None else args.seed,
    )


def _codings(given: str | None, run: FinishedRun) -> dict[str, CodingSpec]:
    """Codecs by name; those that the run has too have the run's arguments."""
    own = run.plan.devices[0].coding
    labels = [own.activations.label, own.gradients.label]
    if given is None:
        return {"/".join(dict.fromkeys(labels)): own}
    found = {}
    for name in _listed("--compression", given, str, "names of codecs") or ():
        if name not in CODECS:
            raise ConfigError("--compression", name, f"a known codec: {nearest(name, CODECS)}")
        same = own.activations.name == own.gradients.name == name
        spec = own if same else CodingSpec(CodecSpec(name), CodecSpec(name))
        found[spec.activations.label] = spec
    return found


def _listed(key: str, text: str | None, kind: Callable[[str], T], allowed: str) -> Sequence[T] | None:
    """Values with commas between them, each once; None if there are none."""
    if text is None:
        return None
    try:
        return list(dict.fromkeys(kind(word.strip()) for word in text.split(",")))
    except ValueError as error:
        raise ConfigError(key, text, f"{allowed}, with commas between them") from error
