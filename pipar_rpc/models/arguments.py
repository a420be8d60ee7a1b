"""Command line arguments that name a network and its images."""

import argparse
import re

import yaml

from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.base.errors import ConfigError, require
from pipar_rpc.base.network_input import FLOAT, NetworkInput
from pipar_rpc.models.freezing import Frozen, frozen_of
from pipar_rpc.models.norm import Norm
from pipar_rpc.models.spec import ModelSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `spec_of` needs besides the network's name."""
    parser.add_argument("--channels", type=int, default=3, help="of the images (default 3)")
    parser.add_argument("--image-size", type=int, default=32, help="height and width (default 32)")
    parser.add_argument("--num-classes", type=int, default=10, help="(default 10)")
    help_input = "of one sample, for networks whose input is no image: 64:int64 for tokens, 13 for floats"
    parser.add_argument("--input", metavar="SHAPE[:DTYPE]", help=help_input)
    help_arg = "keyword argument of your own function, as model.args.NAME=VALUE; may be repeated"
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help=help_arg)
    help_freeze = (
        "what does not train, as model.freeze: a number of first units, or a list '[conv1, fc1.1.bias]'"
    )
    parser.add_argument("--freeze", default="[]", metavar="N|LIST", help=help_freeze)
    parser.add_argument("--norm", choices=[norm.value for norm in Norm], default="batch")


def spec_of(args: argparse.Namespace, name: str) -> ModelSpec:
    """The network called `name`, or the one that the function with that dotted name builds."""
    called, target = (CUSTOM, name) if "." in name else (name, None)
    images = (args.channels, args.image_size, args.num_classes)
    for key, value in zip(("--channels", "--image-size", "--num-classes"), images, strict=True):
        require(value >= 1, key, value, ">= 1")
    require(target is not None or not args.arg, "--arg", args.arg, "absent but for a function of your own")
    given = None if args.input is None else _input(args.input)
    channels, image_size, num_classes = images if given is None else (0, 0, args.num_classes)
    pairs = [pair.partition("=") for pair in args.arg]
    keywords = {key: yaml.safe_load(value) for key, _, value in pairs}
    sizes = {"channels": channels, "image_size": image_size, "num_classes": num_classes}
    frozen = _frozen(args.freeze)
    return ModelSpec(
        called, Norm(args.norm), **sizes, target=target, args=keywords, freeze=frozen, input=given
    )


def _frozen(text: str) -> Frozen:
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError:  # an unquoted *
        given = text
    return frozen_of(given, "--freeze")


def _input(text: str) -> NetworkInput:
    found = re.fullmatch(r"([1-9]\d*(?:x[1-9]\d*)*)(?::(float|uint8|int32|int64))?", text)
    if found is None:
        sizes = "sizes with x between them, with :int64, :int32 or :uint8 after them for integers"
        raise ConfigError("--input", text, sizes)
    return NetworkInput(tuple(map(int, found[1].split("x"))), found[2] or FLOAT)
