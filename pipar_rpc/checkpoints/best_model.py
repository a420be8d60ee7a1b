"""The best network of a training so far: in a file beside the last one, and in the checkpoints."""

import logging
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


def deciding_column(plan: Plan) -> str | None:
    """Names the accuracy that decides which network is the best: on validation samples if they are evaluated.

    Returns:
        A column of results.csv; None if nothing is evaluated.
    """
    if plan.settings.val and plan.devices[0].data.val_size:
        return "val_accuracy"
    return "test_accuracy" if plan.settings.test else None


class BestModel:
    """The network of the epoch with the highest accuracy; of equal ones the first.

    It is in the checkpoints too: the file may be of an epoch that comes after the checkpoint from which a
    killed training goes on, and need not become the best once more.

    Args:
        path: place of the file, which is replaced, never removed.
        spec: network, for the names under which tensors are published.
        column: accuracy that decides, a column of results.csv; None if there is no best network.
        state: best network that a checkpoint holds; empty without one.

    Attributes:
        state: best network so far; empty if there is none yet.
    """

    def __init__(self, path: Path, spec: ModelSpec, column: str | None, state: State) -> None:
        self._path, self._spec, self._column, self.state = path, spec, column, state
        if state:
            self._write()

    def consider(self, rows: Sequence[Row], network: State | None) -> None:
        """Keeps a network, and writes it, if it is the best so far; if that fails, the log says so.

        Args:
            rows: rows of all epochs so far; the last one is that of the network.
            network: global network as it was evaluated; None if it was not.
        """
        *earlier, now = [row.get(self._column or "") for row in rows]
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
