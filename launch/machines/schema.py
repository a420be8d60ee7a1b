"""The keys of an inventory, their types and defaults, and the inventory once it has been checked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Vpn:
    """The keys of `vpn`."""

    subnet: str = "10.9.0.0/24"
    port: int = 51820  # UDP, of the server
    endpoint: str | None = None  # the server as the devices reach it; None: server.address
    interface: str = "pipar0"
    mtu: int = 1420


@dataclass
class Ssh:
    """The keys of `ssh`."""

    known_hosts: str | None = None  # file; None: the user's
    identity: str | None = None  # file of a private key; None: as ssh finds it
    timeout_s: float = 60.0  # longest step on a machine


@dataclass
class Keys:
    """The keys of one machine; `defaults` may hold them for all."""

    name: str = ""
    address: str = ""
    user: str = ""
    ssh_port: int = 22
    local: bool = False  # the machine on which launch.machines is run: without ssh
    python: str = "python3"
    folder: str = ""
    ranks: int = 1  # of torchrun: devices, or server ranks on the server
    node: dict[str, Any] = field(default_factory=dict)
    overrides: Any = None


@dataclass
class File:
    """The whole file."""

    server: dict[str, Any] = field(default_factory=dict)
    devices: list[dict[str, Any]] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    vpn: Vpn = field(default_factory=Vpn)
    ssh: Ssh = field(default_factory=Ssh)
    store_port: int = 29500
    max_restarts: int = 10


@dataclass
class Machine(Keys):
    """A checked machine and its place.

    Attributes:
        number: torchrun's node rank, 0 on the server.
        vpn_address: address in the VPN.
    """

    number: int = 0
    vpn_address: str = ""

    @property
    def plan(self) -> str:
        """Folder on the machine that its part of the plan is copied to."""
        return f"{self.folder}/plan"

    @property
    def state(self) -> str:
        """Folder on the machine for the log and the state of its ranks."""
        return f"{self.folder}/state"


@dataclass(frozen=True)
class Inventory:
    """A checked inventory; the server is the first of the machines.

    Attributes:
        path: file that it was read from.
        store_port: TCP port of torchrun's store on the server.
        max_restarts: number of times that each torchrun starts its ranks again.
        overrides: words of pipar_rpc's command line with the settings of single devices.
    """

    path: Path
    machines: list[Machine]
    vpn: Vpn
    ssh: Ssh
    store_port: int
    max_restarts: int
    overrides: list[str]

    @property
    def server(self) -> Machine:
        """The machine of rank 0."""
        return self.machines[0]

    @property
    def plan(self) -> Path:
        """Folder of the plan, beside the inventory."""
        return self.path.with_name(f"{self.path.stem}_plan")

    @property
    def logs(self) -> Path:
        """Folder for the machines' logs, which `down` fetches."""
        return self.path.with_name(f"{self.path.stem}_logs")
