"""How long a device may keep silent before it is given up."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DeadlineSpec:
    """Seconds of silence that are allowed, in addition to the emulated time.

    Attributes:
        ceiling_s: longest silence in any case; it holds for what has not been measured yet.
        factor: multiple of the longest time that was measured.
        floor_s: least silence that is allowed in any case.
    """

    ceiling_s: float
    factor: float
    floor_s: float


@dataclass
class Deadlines:
    """The times that one device has taken so far, and how long to wait for it therefore.

    Attributes:
        spec: limits of silence.
        emulated_s: longest emulated transfers and computing between two signs of life, in seconds.
    """

    spec: DeadlineSpec
    emulated_s: float = 0.0
    _longest: dict[str, float] = field(default_factory=dict)

    def note(self, what: str, seconds: float) -> None:
        """Notes that the device has answered to `what` after `seconds`."""
        self._longest[what] = max(seconds, self._longest.get(what, 0.0))

    @property
    def unanswered_s(self) -> float:
        """Seconds in which the device's process answers, whatever it does: emulated time does not count.

        A question queues behind models on a real line, so this follows from the longest time of any method.
        """
        return self.limit_s("anything", max(self._longest.values(), default=None)) - self.emulated_s

    @property
    def longest_s(self) -> float:
        """Seconds to wait for what has not been measured."""
        return self.spec.ceiling_s + self.emulated_s

    def limit_s(self, what: str, measured: float | None = None) -> float:
        """Seconds to wait for `what`.

        Args:
            what: name of a method of the device.
            measured: longest time that it took, in seconds, if it was not noted here.
        """
        spec, longest = self.spec, self._longest.get(what) if measured is None else measured
        if longest is None:
            return self.longest_s
        return min(spec.ceiling_s, max(spec.floor_s, spec.factor * longest)) + self.emulated_s
