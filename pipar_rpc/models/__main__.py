"""Lists the cut units of networks: `python -m pipar_rpc.models [names or dotted functions]`."""

import argparse
import sys

from pipar_rpc.errors import UserError
from pipar_rpc.models import ALIASES, CUSTOM, MODELS, ModelSpec, Norm, build_meta, summarise, table


def main() -> int:
    """Prints one table per network; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipar_rpc.models", description=__doc__)
    names = f"{', '.join(MODELS)}, or the dotted name of your own function (default: all networks)"
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help=names)
    parser.add_argument("--channels", type=int, default=3, help="of the images (default 3)")
    parser.add_argument("--image-size", type=int, default=32, help="height and width (default 32)")
    parser.add_argument("--num-classes", type=int, default=10, help="(default 10)")
    parser.add_argument("--norm", choices=[norm.value for norm in Norm], default="batch")
    args = parser.parse_args()
    sys.path.insert(0, "")  # the user's own modules
    for number, name in enumerate(args.models):
        own = "." in name
        called, target = (CUSTOM, name) if own else (ALIASES.get(name, name), None)
        spec = ModelSpec(called, Norm(args.norm), args.channels, args.image_size, args.num_classes, target)
        try:
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
