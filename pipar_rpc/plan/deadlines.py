"""How long a device may keep silent before it is given up."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DeadlineSpec:
    """Seconds of silence that are allowed, on top of what is emulated.

    Attributes:
        ceiling_s: for what has not been measured yet; never more.
        factor: multiple of the longest time that was measured.
        floor_s: never less than this.
    """

    ceiling_s: float
    factor: float
    floor_s: float


@dataclass
class Deadlines:
    """What one device has taken so far, and how long to wait for it therefore.

    Attributes:
        spec: what is allowed.
        emulated_s: upper limit of the emulated transfers and computing between two signs of life.
    """

    spec: DeadlineSpec
    emulated_s: float = 0.0
    _longest: dict[str, float] = field(default_factory=dict)

    def note(self, what: str, seconds: float) -> None:
        """The device has answered to `what` after `seconds`."""
        self._longest[what] = max(seconds, self._longest.get(what, 0.0))

    @property
    def unanswered_s(self) -> float:
        """Seconds in which its process answers whatever the device does: what is emulated does not count.

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
            what: a method of the device.
            measured: the longest time it took, if it was not noted here.
        """
        own, longest = self.spec, self._longest.get(what) if measured is None else measured
        if longest is None:
            return self.longest_s
        return min(own.ceiling_s, max(own.floor_s, own.factor * longest)) + self.emulated_s
