"""Where a training is: epochs, their iterations, and the rounds into which aggregation cuts them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """The iteration that comes next.

    Attributes:
        epoch: number of the epoch, from 1; larger than the job's epochs at the end of the training.
        iteration: number of the iteration within the epoch, from 0.
    """

    epoch: int = 1
    iteration: int = 0


@dataclass(frozen=True)
class Start:
    """Where a training begins, and what came before.

    Attributes:
        position: the first iteration.
        round: number of rounds that were trained before.
        num_iterations: number of iterations that were trained before, on the device with the most.
        elapsed_s: real seconds that these took.
    """

    position: Position = Position()
    round: int = 0
    num_iterations: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Round:
    """The iterations of an epoch that are trained before the next aggregation.

    Attributes:
        epoch: number of the epoch, from 1.
        start: first iteration, from 0.
        stop: iteration after the last one; devices with fewer samples may end earlier.
        ends_epoch: whether no device has more iterations; a lost device may end the epoch earlier.
    """

    epoch: int
    start: int
    stop: int
    ends_epoch: bool

    @property
    def next(self) -> Position:
        """The iteration that follows."""
        return Position(self.epoch + 1, 0) if self.ends_epoch else Position(self.epoch, self.stop)
