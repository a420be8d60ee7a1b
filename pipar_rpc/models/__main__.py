"""Lists the cut units of networks: `python -m pipar_rpc.models [names or dotted functions]`."""

import argparse
import sys

from pipar_rpc.base.command import run_command
from pipar_rpc.models import ALIASES, MODELS, build_meta, summarise, table
from pipar_rpc.models.arguments import add_arguments, spec_of


def main() -> None:
    """Prints one table per network."""
    parser = argparse.ArgumentParser(prog="python -m pipar_rpc.models", description=__doc__)
    names = f"{', '.join(MODELS)}, or the dotted name of your own function (default: all networks)"
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help=names)
    add_arguments(parser)
    args = parser.parse_args()
    sys.path.insert(0, "")  # the user's own modules
    for number, name in enumerate(args.models):
        spec = spec_of(args, ALIASES.get(name, name))
        units = summarise(build_meta(spec), spec)
        images = f"images {args.channels}x{args.image_size}x{args.image_size}"
        taken = images if spec.input is None else f"input {spec.input}"
        print(f"{chr(10) if number else ''}{name}: Q = {len(units)}, {taken}, norm {args.norm}")
        print(table(units))


if __name__ == "__main__":
    run_command(main)
