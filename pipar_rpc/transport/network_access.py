"""Chooses the network interface on which this process's RPC sockets listen, and checks that they do."""

import ipaddress
import os
import socket
from dataclasses import dataclass

import psutil

from pipar_rpc.base.errors import ConfigError, UserError, nearest

KEY = "node.interface"
NO_AUTHENTICATION = "torch RPC has no authentication and runs code for whoever connects"


@dataclass(frozen=True)
class Binding:
    """Where RPC listens: the name of an interface, and its address.

    Of an interface with several addresses TensorPipe and Gloo take the first that getifaddrs lists (on Linux
    an IPv4 address if there is one), and psutil keeps that order. So this is the only address that could be
    bound, and that must be allowed; whether it was bound, the sockets tell (`verify`).
    """

    interface: str
    address: str

    def __str__(self) -> str:
        return f"{self.interface} ({self.address})"

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine can connect."""
        return ipaddress.ip_address(self.address).is_loopback


def bind(interface: str, one_machine: bool, trusted_network: bool, allow_public: bool) -> Binding:
    """Makes torch RPC listen on one interface only; returns that interface and its address.

    torch RPC has no authentication, and whoever reaches its port can run code in the process. So it listens
    on the loopback interface if all ranks are on one machine, and otherwise on the interface that leads to
    the server, but only if the user says that the network is trusted.

    Args:
        interface: name of an interface, or "auto".
        one_machine: whether all ranks run on this machine.
        trusted_network: whether an address that other machines can reach may be used.
        allow_public: whether it may even be reachable from the Internet.

    Raises:
        UserError: no such interface, or an address that is not allowed.
    """
    addresses = _addresses()
    if interface == "auto":
        interface = _loopback(addresses) if one_machine else _towards_server(addresses)
    if interface not in addresses:
        raise ConfigError(
            KEY, interface, f"auto or an interface with an IP address: {nearest(interface, addresses)}"
        )
    binding = Binding(interface, addresses[interface][0])
    _require_allowed(binding, trusted_network, allow_public)
    os.environ["TP_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] = interface
    return binding


def _require_allowed(binding: Binding, trusted_network: bool, allow_public: bool) -> None:
    what = f"{KEY}={binding.interface}: {binding.address}, on which torch RPC would listen,"
    address = ipaddress.ip_address(binding.address)
    if not address.is_loopback and not trusted_network:
        raise UserError(
            f"{what} can be reached from other machines, and {NO_AUTHENTICATION}; "
            "set node.trusted_network=true if you trust all of them (docs/security.md)"
        )
    if address.version == 6 and address.is_link_local:  # tried: torch sends its own interface's number along
        raise UserError(
            f"{what} is an IPv6 link-local address, which other machines cannot connect to: "
            "give the interface another address"
        )
    if address.is_global and not allow_public:
        raise UserError(
            f"{what} is a public address, and {NO_AUTHENTICATION}; "
            "use a VPN or a private network, or set node.allow_public=true"
        )


def verify(binding: Binding) -> None:
    """Checks this process's listening sockets, once it has joined the others.

    They may listen on loopback and on the address that was allowed; and, on all addresses, the store in
    which the ranks meet, if it is this process's and not torchrun's.

    Raises:
        UserError: somebody else could connect.
    """
    allowed, store = ipaddress.ip_address(binding.address), int(os.environ["MASTER_PORT"])
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN:
            continue
        address = ipaddress.ip_address(connection.laddr.ip)
        is_store = address.is_unspecified and connection.laddr.port == store
        if not (address.is_loopback or address == allowed or is_store):
            raise UserError(
                f"{KEY}={binding.interface}: this process listens on {address}, port {connection.laddr.port},"
                f" instead of {allowed}, and {NO_AUTHENTICATION}; name an interface with one address"
            )


def who_can_connect(binding: Binding) -> str:
    """Says who can reach the open ports, as a line for the log of rank 0."""
    who = "every user of this machine" if binding.is_loopback else "every machine and user that reaches it"
    return (
        f"RPC listens on {binding}, torchrun's store on all addresses, port {os.environ['MASTER_PORT']}: "
        f"{who} can connect and run code here; docs/security.md says how to shut them out"
    )


def _addresses() -> dict[str, list[str]]:
    """Lists the IP addresses of each interface that has any, in the order of getifaddrs, without zones."""
    families = (socket.AF_INET, socket.AF_INET6)
    by_interface = {
        name: [entry.address.partition("%")[0] for entry in entries if entry.family in families]
        for name, entries in psutil.net_if_addrs().items()
    }
    return {name: addresses for name, addresses in by_interface.items() if addresses}


def _loopback(addresses: dict[str, list[str]]) -> str:
    for name in addresses:
        if Binding(name, addresses[name][0]).is_loopback:
            return name
    raise UserError(f"{KEY}=auto: no interface has a loopback address as its first; name an interface")


def _towards_server(addresses: dict[str, list[str]]) -> str:
    """Finds the interface from whose address the kernel would send to MASTER_ADDR."""
    server = os.environ["MASTER_ADDR"]
    try:
        sending = _sending_address(server)
    except OSError as error:
        raise UserError(f"{KEY}=auto: no route to the master address {server}: {error}") from error
    for name, of_interface in addresses.items():
        if sending in of_interface:
            return name
    raise UserError(f"{KEY}=auto: no interface has the address {sending} that leads to {server}; name one")


def _sending_address(server: str) -> str:
    """Finds this machine's address towards a host, over IPv4 if there is a route; sends nothing."""
    problem = OSError("it has no address")
    for family, kind, _, _, where in sorted(socket.getaddrinfo(server, 9, type=socket.SOCK_DGRAM)):
        try:
            with socket.socket(family, kind) as probe:
                probe.connect(where)
                return str(probe.getsockname()[0]).partition("%")[0]
        except OSError as error:
            problem = error
    raise problem
