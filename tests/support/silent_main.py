"""The ordinary command, but that device 2 is stopped as soon as it is asked what its uplink carried."""

import os
import signal
import time

from pipar_rpc.__main__ import main
from pipar_rpc.training.instrumented import Instrumented

answer = Instrumented.drain_traffic


def drain_traffic(self: Instrumented) -> list[float]:
    if os.environ["RANK"] == "2":
        time.sleep(1)  # its answers to what it was asked before are on their way in another thread
        os.kill(os.getpid(), signal.SIGSTOP)
    return answer(self)


setattr(Instrumented, "drain_traffic", drain_traffic)  # noqa: B010 (mypy takes it for a method with two selves)

if __name__ == "__main__":
    main()
