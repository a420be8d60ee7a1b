"""The configuration of accuracies at which a job ends before its last epoch."""

import dataclasses
from dataclasses import dataclass

from pipar_rpc.base.errors import require


@dataclass
class UntilConfig:
    """Accuracies on held-out samples: a job ends after the first epoch that has all that are given."""

    val_accuracy: float | None = None
    test_accuracy: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            share = "above 0 and at most 1, or null"
            require(value is None or 0 < value <= 1, f"until.{name}", value, share)

    @property
    def targets(self) -> dict[str, float]:
        """The accuracies that are given, 0..1, by column of results.csv."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def check(self, enable_val: bool, enable_test: bool, val_size: int, aggregation_every: int) -> None:
        """Raises ConfigError for an accuracy that no epoch, or only the last one, would have.

        Args:
            enable_val: value of that key.
            enable_test: value of that key.
            val_size: number of validation samples; there is always a test sample.
            aggregation_every: value of `aggregation.every`.
        """
        unmeasured = {
            "enable_val=false, which measures none": ("val_accuracy", not enable_val),
            "data.val_size=0, which leaves no validation samples": ("val_accuracy", val_size == 0),
            "enable_test=false, which measures none": ("test_accuracy", not enable_test),
        }
        for reason, (name, missing) in unmeasured.items():
            value = getattr(self, name)
            require(value is None or not missing, f"until.{name}", value, f"null with {reason}")
        for name, value in self.targets.items():
            never = "null with aggregation.every=0, where only the last epoch has an averaged network"
            require(aggregation_every != 0, f"until.{name}", value, never)
