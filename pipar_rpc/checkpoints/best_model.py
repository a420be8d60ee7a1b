"""The best network of a training so far: in a file beside the last one, and in the checkpoints."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from pipar_rpc.base.disk import write_whole
from pipar_rpc.base.errors import first_line
from pipar_rpc.base.states import State
from pipar_rpc.models import ModelSpec, published
from pipar_rpc.plan.plan import Plan
from pipar_rpc.results.columns import Row

log = logging.getLogger(__name__)


def deciding_samples(plan: Plan) -> str | None:
    """Names the samples that decide which network is the best: those of validation if they are evaluated.

    Returns:
        "val" or "test", as the columns of results.csv begin; None if nothing is evaluated.
    """
    if plan.settings.val and plan.devices[0].data.val_size:
        return "val"
    return "test" if plan.settings.test else None


def _merit(row: Row, samples: str | None) -> float | None:
    """What is larger for a better network: its accuracy, or where there are no classes its loss, negative."""
    accuracy, loss = row.get(f"{samples}_accuracy"), row.get(f"{samples}_loss")
    if accuracy is not None or loss is None or not math.isfinite(loss):
        return accuracy
    return -float(loss)


class BestModel:
    """The network of the epoch with the highest accuracy, or where there are no classes with the lowest loss.

    Of equal ones it is the first.

    It is in the checkpoints too: the file may be of an epoch that comes after the checkpoint from which a
    killed training goes on, and need not become the best once more.

    Args:
        path: place of the file, which is replaced, never removed.
        spec: network, for the names under which tensors are published.
        samples: samples that decide, "val" or "test"; None if there is no best network.
        state: best network that a checkpoint holds; empty without one.

    Attributes:
        state: best network so far; empty if there is none yet.
    """

    def __init__(self, path: Path, spec: ModelSpec, samples: str | None, state: State) -> None:
        self._path, self._spec, self._samples, self.state = path, spec, samples, state
        if state:
            self._write()

    def consider(self, rows: Sequence[Row], network: State | None) -> None:
        """Keeps a network, and writes it, if it is the best so far; if that fails, the log says so.

        Args:
            rows: rows of all epochs so far; the last one is that of the network.
            network: global network as it was evaluated; None if it was not.
        """
        *earlier, now = [_merit(row, self._samples) for row in rows]
        if network is None or now is None or any(other is not None and other >= now for other in earlier):
            return
        self.state = {key: tensor.detach().to("cpu", copy=True) for key, tensor in network.items()}
        self._write()

    def _write(self) -> None:
        state = published(self.state, self._spec)
        try:
            write_whole(self._path, lambda file: torch.save(state, file))
        except OSError as error:
            log.warning("%s could not be written: %s", self._path, first_line(error))
