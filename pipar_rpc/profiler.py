"""Records how fast this machine is: `python -m pipar_rpc.profiler vgg5 --output pi.yaml`.

Run it on a real device, when nothing else runs there; `testbed.profile=pi.yaml` has emulated devices take the
times that it wrote. What disturbed it is noticed, and then nothing is written.
"""

import argparse
import math
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import pipar_rpc
from pipar_rpc.base.command import run_command
from pipar_rpc.base.errors import ConfigError, UserError, first_line, require
from pipar_rpc.base.gpu import make_repeatable
from pipar_rpc.base.machine_load import OtherLoad
from pipar_rpc.base.memory import keep_freed_memory
from pipar_rpc.models import ALIASES, MODELS, ModelSpec, build_meta, smallest_batch, summarise
from pipar_rpc.models.arguments import add_arguments, spec_of
from pipar_rpc.testbed.device_profile import DeviceProfile
from pipar_rpc.testbed.unit_timer import BATCH_SIZES, time_units

LIMIT_S = 600.0  # after which nothing is measured again
MOST_OTHERS = 0.1  # share of all cores that others may take


def record(spec: ModelSpec, batch_sizes: Sequence[int], runs: int, device: torch.device) -> DeviceProfile:
    """The profile of a network on this machine: wall seconds of the runs that nothing disturbed.

    Args:
        spec: network to time.
        batch_sizes: sizes to measure.
        runs: number of runs that count, for each batch size; there is one more before them, and more of
            both where the times differ.
        device: torch device that computes.

    Raises:
        UserError: the network cannot be built, or no batch size is large enough for its batch norm.
    """
    on_meta = build_meta(spec)
    summarise(on_meta, spec)  # whether its units fit together
    smallest = smallest_batch(on_meta, spec)
    batch_sizes = [size for size in batch_sizes if size >= smallest]
    if not batch_sizes:
        raise ConfigError("--batch-sizes", 1, f">= {smallest} (batch norm in {spec.name})")
    with tqdm(total=len(batch_sizes) * (1 + runs), desc=spec.target or spec.name, leave=False) as bar:
        load = OtherLoad()
        units, steadiness = time_units(spec, batch_sizes, runs, device, on_run=bar.update, limit_s=LIMIT_S)
    return DeviceProfile(
        model=spec.name,
        norm=spec.norm,
        channels=spec.channels,
        image_size=spec.image_size,
        num_classes=spec.num_classes,
        units=units,
        target=spec.target,
        args=spec.args,
        freeze=spec.freeze if isinstance(spec.freeze, int) else list(spec.freeze),
        input_shape=None if spec.input is None else list(spec.input.shape),
        input_dtype=spec.sample.dtype,
        machine=_this_machine(device),
        spread=round(steadiness.largest, 4) if runs > 1 else None,
        disturbed=[*steadiness.reasons(), *_others(load.share())],
    )


def _others(share: float) -> list[str]:
    if share <= MOST_OTHERS:
        return []
    return [f"other processes had {share:.0%} of this machine's cores"]


def _this_machine(device: torch.device) -> dict[str, str]:
    return {
        "name": platform.node(),
        "processor": platform.processor() or platform.machine(),
        "device": str(device),
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "pipar_rpc": pipar_rpc.__version__,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipar_rpc.profiler", description=__doc__)
    parser.add_argument(
        "model", metavar="MODEL", help=f"{', '.join(MODELS)}, or a dotted function of your own"
    )
    parser.add_argument("--output", type=Path, help="the file to write (default profile_MODEL.yaml)")
    sizes = ",".join(map(str, BATCH_SIZES))
    parser.add_argument("--batch-sizes", help=f"of micro-batches (default {sizes})")
    parser.add_argument(
        "--runs", type=int, default=5, help="for each batch size, or more where they differ (default 5)"
    )
    parser.add_argument(
        "--slowdown", type=float, default=1.0, help="times in the file are so many times as long (default 1)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda:i (default cpu)")
    parser.add_argument(
        "--threads", type=int, default=1, help="of one computation, as node.threads (default 1)"
    )
    parser.add_argument(
        "--accept-disturbed", action="store_true", help="write the file though other work disturbed it"
    )
    add_arguments(parser)
    return parser.parse_args()


def _batch_sizes(text: str | None) -> list[int]:
    if text is None:
        return list(BATCH_SIZES)
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise ConfigError("--batch-sizes", text, "numbers from 1, with commas between them")
    return sorted({int(size) for size in text.split(",")})


def _device(name: str) -> torch.device:
    try:
        require(name != "meta", "--device", name, "a device that computes")
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError("--device", name, f"cpu or a GPU of this machine ({first_line(error)})") from error


def _check(args: argparse.Namespace) -> None:
    cores = os.cpu_count() or 1
    require(args.runs >= 1, "--runs", args.runs, ">= 1")
    require(0 < args.slowdown < math.inf, "--slowdown", args.slowdown, "> 0")
    require(1 <= args.threads <= cores, "--threads", args.threads, f"1..{cores}")


def _write_profile(args: argparse.Namespace) -> None:
    _check(args)
    sizes = _batch_sizes(args.batch_sizes)
    path: Path = args.output or Path(f"profile_{args.model}.yaml")
    if path.is_dir() or not os.access(path.parent, os.W_OK):  # known before minutes of measuring
        raise ConfigError("--output", path, "a file in a folder that can be written to")
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as the device does that is to take these times
    spec = spec_of(args, ALIASES.get(args.model, args.model))
    device = _device(args.device)
    if device.type == "cuda":
        make_repeatable()  # as in the training
    try:
        profile = record(spec, sizes, args.runs, device)
    except RuntimeError as error:  # out of memory
        raise UserError(f"{args.model} cannot be measured here: {first_line(error)}") from error
    if profile.disturbed and not args.accept_disturbed:
        raise UserError(_refusal(profile))
    profile.units = [unit.scaled(args.slowdown) for unit in profile.units]
    profile.machine["slowdown"] = f"{args.slowdown:g}"
    try:
        profile.write(path)
    except OSError as error:
        raise ConfigError("--output", path, f"a file that can be written ({first_line(error)})") from error
    _tell(profile, path, sizes[-1])


def _refusal(profile: DeviceProfile) -> str:
    spread = "" if profile.spread is None else f" (largest spread {profile.spread:.0%})"
    return (
        f"this machine was disturbed, so no profile was written: {'; '.join(profile.disturbed)}{spread}. "
        "Run it again when nothing else runs here, or with --accept-disturbed, or more --runs"
    )


def _tell(profile: DeviceProfile, path: Path, largest: int) -> None:
    forward = sum(unit.forward[largest] for unit in profile.units)
    backward = sum(unit.backward[largest] for unit in profile.units)
    print(
        f"{path}: {len(profile.units)} units; {largest} samples take "
        f"{forward:.3f} s forward, {backward:.3f} s backward"
        + ("" if profile.spread is None else f"; repeated runs differ by up to {profile.spread:.1%}")
    )
    for reason in profile.disturbed:
        print(f"disturbed: {reason}")


def main() -> None:
    """Records and writes."""
    sys.path.insert(0, "")  # the user's own modules
    _write_profile(_parse())


if __name__ == "__main__":
    run_command(main)
