"""Lists the cut units of networks: `python -m pipar_rpc.models [names or dotted functions]`."""

import argparse
import sys

from pipar_rpc.base.errors import UserError
from pipar_rpc.models import ALIASES, MODELS, build_meta, summarise, table
from pipar_rpc.models.arguments import add_arguments, spec_of


def main() -> int:
    """Prints one table per network; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipar_rpc.models", description=__doc__)
    names = f"{', '.join(MODELS)}, or the dotted name of your own function (default: all networks)"
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help=names)
    add_arguments(parser)
    args = parser.parse_args()
    sys.path.insert(0, "")  # the user's own modules
    for number, name in enumerate(args.models):
        try:
            spec = spec_of(args, ALIASES.get(name, name))
            units = summarise(build_meta(spec), spec)
        except UserError as error:
            print(f"pipar_rpc: error: {error}", file=sys.stderr)
            return 2
        images = f"{args.channels}x{args.image_size}x{args.image_size}"
        print(f"{chr(10) if number else ''}{name}: Q = {len(units)}, images {images}, norm {args.norm}")
        print(table(units))
    return 0


if __name__ == "__main__":
    sys.exit(main())
