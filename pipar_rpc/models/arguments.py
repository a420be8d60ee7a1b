"""Command line arguments that name a network and its images."""

import argparse

from pipar_rpc.models.norm import Norm
from pipar_rpc.models.spec import CUSTOM, ModelSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `spec_of` needs besides the network's name."""
    parser.add_argument("--channels", type=int, default=3, help="of the images (default 3)")
    parser.add_argument("--image-size", type=int, default=32, help="height and width (default 32)")
    parser.add_argument("--num-classes", type=int, default=10, help="(default 10)")
    parser.add_argument("--norm", choices=[norm.value for norm in Norm], default="batch")


def spec_of(args: argparse.Namespace, name: str) -> ModelSpec:
    """The network called `name`, or the one that the function with that dotted name builds."""
    called, target = (CUSTOM, name) if "." in name else (name, None)
    return ModelSpec(called, Norm(args.norm), args.channels, args.image_size, args.num_classes, target)
