"""What comes back from a round of training on a device."""

from dataclasses import dataclass, field

from pipar_rpc.privacy.gradients import NOTHING, Clipped
from pipar_rpc.timing.timeline import Busy, Stage


@dataclass
class RoundReport:
    """What a device tells the server about a round.

    Attributes:
        start: first iteration, from 0 within the epoch.
        iterations: number of iterations.
        samples: number of samples processed.
        losses: mean loss of each iteration.
        loss: sum of the loss over what counts, which is the samples for most losses.
        counted: how much counted: what that sum is divided by.
        correct: number of labels that were classified correctly while training.
        classified: number of labels that are class numbers, of which these are.
        learning_rate: optimiser's rate in the last iteration.
        seconds: wall time of the round on the device.
        stages: busy time of the device's compute stages and of its uplink.
        uplink_bytes: bytes of the activations and labels that were sent.
        saved_bytes: bytes that codecs of activations and gradients saved, both ways.
        emulated_s: seconds of computing on the emulated device; 0 if its speed is not emulated.
        late_s: seconds by which real computing took longer than that.
        peak_rss_mb: largest resident memory of the process in this job, in 10^6 bytes.
        clipped: gradients of single samples on the device half, and how many of them were clipped.
        expected: size of a mini-batch where they are drawn at random, which must not tell on samples; else 0.
    """

    start: int = 0
    iterations: int = 0
    samples: int = 0
    losses: list[float] = field(default_factory=list)
    loss: float = 0.0
    counted: float = 0.0
    correct: int = 0
    classified: int = 0
    learning_rate: float = 0.0
    seconds: float = 0.0
    stages: dict[Stage, Busy] = field(default_factory=dict)
    uplink_bytes: int = 0
    saved_bytes: int = 0
    emulated_s: float = 0.0
    late_s: float = 0.0
    peak_rss_mb: float = 0.0
    clipped: Clipped = NOTHING
    expected: int = 0

    @property
    def weight(self) -> int:
        """What the round counts for when networks are averaged."""
        return self.iterations * self.expected or self.samples

    def add(self, samples: int, loss: float, correct: int, counted: float, classified: int) -> None:
        """Adds an iteration.

        Args:
            samples: size of the mini-batch.
            loss: sum of the loss over what counts.
            correct: number of labels that were classified correctly.
            counted: how much counts in it.
            classified: number of labels that are class numbers.
        """
        self.iterations += 1
        self.samples += samples
        self.losses.append(loss / counted if counted else 0.0)
        self.loss += loss
        self.counted += counted
        self.correct += correct
        self.classified += classified
