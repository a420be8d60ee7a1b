"""How a command of this package ends, and how it starts torchrun."""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pipar_rpc.base.errors import UserError

STDOUT = 1


def run_command(main: Callable[[], int | None], name: str = "pipar_rpc") -> NoReturn:
    """Runs `main` and exits with what it returns; with 2 and one line if the user can mend it, 130 on Ctrl-C.

    When nobody reads its output any more, as behind `| head`, it ends without a word, with 141.

    Args:
        main: the command; None is 0.
        name: begins an error's line.
    """
    try:
        sys.exit(main())
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # Python tries once more at its end
        sys.exit(128 + signal.SIGPIPE)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose other end is closed, as behind `| head`."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    return bool(poll.poll(0))


def torchrun_here(num_ranks: int) -> list[str]:
    """Command line that starts so many ranks on this machine, on a port of their own; a module follows."""
    ranks = ["-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={num_ranks}"]
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    return [sys.executable, *ranks, *meeting]


def tell_torchrun(message: str) -> None:
    """Has torchrun repeat an error as the root cause in the report that it prints when a rank fails."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        with suppress(OSError):  # torchrun, whose folder this is, may be gone
            Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
