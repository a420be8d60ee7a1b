"""What comes back from a round of training on a device."""

from dataclasses import dataclass, field

from pipar_rpc.timing.timeline import Busy, Stage


@dataclass
class RoundReport:
    """What a device tells the server about a round.

    Attributes:
        iterations: number of iterations.
        samples: number of samples processed.
        losses: mean loss of each iteration.
        loss: sum of the loss over the samples.
        correct: number of samples classified correctly while training.
        seconds: wall time of the round on the device.
        stages: busy time of the device's compute stages and of its uplink.
        uplink_bytes: bytes of the activations and labels that were sent.
        saved_bytes: bytes that codecs of activations and gradients saved, both ways.
        emulated_s: seconds of computing on the emulated device; 0 if its speed is not emulated.
        late_s: seconds by which real computing took longer than that.
        peak_rss_mb: largest resident memory of the process in this job, in 10^6 bytes.
    """

    iterations: int = 0
    samples: int = 0
    losses: list[float] = field(default_factory=list)
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    stages: dict[Stage, Busy] = field(default_factory=dict)
    uplink_bytes: int = 0
    saved_bytes: int = 0
    emulated_s: float = 0.0
    late_s: float = 0.0
    peak_rss_mb: float = 0.0

    def add(self, samples: int, loss: float, correct: int) -> None:
        """Adds an iteration.

        Args:
            samples: size of the mini-batch.
            loss: sum of the loss over these samples.
            correct: number of them that were classified correctly.
        """
        self.iterations += 1
        self.samples += samples
        self.losses.append(loss / samples)
        self.loss += loss
        self.correct += correct
