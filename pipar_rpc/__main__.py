"""The command: `torchrun --nproc-per-node=5 -m pipar_rpc [Hydra overrides]`.

Rank 0 is the server: it alone runs Hydra and drives. The other ranks are devices: they join the group, take
what rank 0 places on them, and read only the `node.` keys of the command line, and on one machine those that
rank 0 found in the configuration's files. Started without torchrun, the command checks the configuration and
then starts torchrun on this machine, with one process per device.

Exit codes: 0 done, 1 failed, 2 the configuration or the data need mending, 75 a device has come back and
torchrun is to start all ranks again, 130 interrupted.
"""

import os
import signal
import sys


def _interrupted(*_: object) -> None:
    os.write(2, b"pipar_rpc: interrupted\n")
    os._exit(130)


if __name__ == "__main__":  # what is imported takes seconds, and may swallow a KeyboardInterrupt
    signal.signal(signal.SIGINT, _interrupted)

import traceback
from collections.abc import Sequence

import pipar_rpc
from pipar_rpc import command_line, device_rank
from pipar_rpc.base.command import tell_torchrun
from pipar_rpc.base.errors import PeerError, UserError
from pipar_rpc.base.ranks import World
from pipar_rpc.base.threads import end_with


def main() -> None:
    """Runs the command and exits with its code, even if nobody can be told how it ended."""
    code, message = _outcome()
    told = False
    try:
        if message:
            tell_torchrun(message)
            print(f"pipar_rpc: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        told = True
    finally:  # after an error, threads may still wait inside torch RPC; Python itself flushes once more
        if code or not told:
            os._exit(code)
    sys.exit(0)


def command() -> None:
    """The installed command `pipar_rpc`, which finds networks in the current folder as `python -m` does."""
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    main()


def _outcome() -> tuple[int, str]:
    """The exit code, and the last line of the process."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _run(sys.argv[1:]), ""
    except UserError as error:
        return 2, f"error: {error}"
    except PeerError as error:
        return 1, f"error: {error}"
    except KeyboardInterrupt as error:
        return 130, str(error) or "interrupted"
    except Exception:
        return 1, traceback.format_exc()


def _run(arguments: Sequence[str]) -> int:
    world = World.from_environment() if "RANK" in os.environ else None
    if world is None or world.rank == 0:
        return _run_server(arguments, world)
    if _informs(arguments):
        return 0
    _end_with_torchrun(world)
    return device_rank.assist(arguments, world)


def _run_server(arguments: Sequence[str], world: World | None) -> int:
    from pipar_rpc import hydra_compose, server_rank  # here, because no device needs what they import

    sys.argv[1:] = arguments = hydra_compose.normalise(arguments)
    if command_line.only_informs(arguments):
        return server_rank.inform(arguments)
    if world is None:
        return server_rank.start_torchrun(arguments)
    _end_with_torchrun(world)
    return server_rank.serve(arguments, world)


def _informs(arguments: Sequence[str]) -> bool:
    """Whether nothing is run, as a device sees it; only flags, which are Hydra's, can say so."""
    if command_line.plainly_runs(arguments):
        return False
    from pipar_rpc import hydra_compose  # for flags that are shortened

    return command_line.only_informs(hydra_compose.normalise(arguments))


def _end_with_torchrun(world: World) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        why = f"torchrun, process {pipar_rpc.PARENT}, is gone; what was saved stays"
        end_with(pipar_rpc.PARENT, f"pipar_rpc: error: rank {world.rank} ends: {why}")


if __name__ == "__main__":
    main()
