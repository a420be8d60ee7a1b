"""The key that says where devices are, its type and allowed values: `placement`."""

from dataclasses import dataclass

from pipar_rpc.base.errors import require

EACH = "placement.devices_per_rank"


@dataclass
class PlacementConfig:
    """How many devices each rank behind the servers holds."""

    devices_per_rank: list[int] | None = None

    def __post_init__(self) -> None:
        each = self.devices_per_rank
        counts = each is None or (sum(each) > 0 and min(each) >= 0)
        require(counts, EACH, each, "numbers of devices, not all 0, or null for evenly many")
