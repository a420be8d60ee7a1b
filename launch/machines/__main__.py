"""From one machine to real ones: a server and its devices, encrypted and closed to others.

    python -m launch.machines machines.yaml plan
    python -m launch.machines machines.yaml check
    python -m launch.machines machines.yaml up
    python -m launch.machines machines.yaml run data=cifar10 epochs=10
    python -m launch.machines machines.yaml logs
    python -m launch.machines machines.yaml stop
    python -m launch.machines machines.yaml down

`plan` writes a folder for each machine of the inventory, beside it. `check` looks at the machines. `up` opens
the VPN, `run` trains until the end or Ctrl-C, `logs` shows a training that runs, `stop` ends one
whose `run` is lost, `down` takes all away again.
docs/machines.md shows an inventory.
"""

import argparse
import sys
from pathlib import Path

from launch.script import run_script
from pipar_rpc.base.errors import UserError

COMMANDS = ("plan", "check", "up", "run", "logs", "stop", "down")


def main() -> int:
    """Runs one of the commands; returns its exit code."""
    # Here, because it takes a second, in which Ctrl-C is to end us without a traceback.
    from launch.machines import plan
    from launch.machines.check import check
    from launch.machines.deploy import down, up
    from launch.machines.inventory import read
    from launch.machines.training import logs, stop, train

    arguments, settings = _parse()
    inventory = read(arguments.inventory)
    if settings and arguments.command != "run":
        raise UserError(f"{settings[0]}: settings of pipar_rpc belong to `run`")
    if arguments.command == "plan":
        print(f"{plan.write(inventory)}: one folder for each machine; its README.md says how to go on")
        return 0
    if arguments.command == "run":
        return train(inventory, settings)
    if arguments.command in {"check", "logs"}:
        return {"check": check, "logs": logs}[arguments.command](inventory)
    {"up": up, "stop": stop, "down": down}[arguments.command](inventory)
    return 0


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m launch.machines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inventory", type=Path, help="file with the machines, such as machines.yaml")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("settings", nargs="*", default=[], help="of `run`: Hydra overrides and flags")
    words = sys.argv[1:]
    return parser.parse_args(words[:2]), [word for word in words[2:] if word != "--"]


if __name__ == "__main__":
    run_script("launch.machines", main)
