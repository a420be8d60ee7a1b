"""Work that has to wait."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest


def begun(work: Callable[..., Any], *args: Any) -> Future[Any]:
    """What comes of `work`, which runs on a thread of its own and has got to where it waits."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    with pytest.raises(TimeoutError):
        future.result(0.3)
    return future
