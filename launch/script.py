"""How the scripts of this folder end."""

import subprocess
import sys
from collections.abc import Callable

from pipar_rpc.base.errors import UserError


def run_script(name: str, main: Callable[[], int | None]) -> None:
    """Runs `main` and exits: 2 and one line if the user can mend it, 1 if a command failed, 130 on Ctrl-C."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() if error.stderr else f"ended with {error.returncode}"
        sys.exit(f"{name}: error: {' '.join(error.cmd)}: {said}")
    except KeyboardInterrupt:
        sys.exit(130)
