"""How a command of this package ends."""

import sys
from collections.abc import Callable
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
