"""How a command of this package ends, and how it starts torchrun."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pipar_rpc.base.errors import UserError


def run_command(main: Callable[[], int | None], name: str = "pipar_rpc") -> NoReturn:
    """Runs `main` and exits with what it returns; with 2 and one line if the user can mend it, 130 on Ctrl-C.

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
