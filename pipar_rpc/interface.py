"""Which network interface the RPC sockets of this process listen on."""

import ipaddress
import os
import socket

import psutil

from pipar_rpc.errors import ConfigError, UserError, nearest

KEY = "node.interface"


NO_AUTHENTICATION = "torch RPC has no authentication and runs code for whoever connects"


def bind(interface: str, one_machine: bool, trusted_network: bool, allow_public: bool) -> str:
    """Makes torch RPC listen on one interface only; returns its name and address.

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
    addresses = _ipv4_addresses()
    if interface == "auto":
        interface = _loopback(addresses) if one_machine else _towards_server(addresses)
    if interface not in addresses:
        raise ConfigError(
            KEY, interface, f"auto or an interface with an IPv4 address: {nearest(interface, addresses)}"
        )
    address = addresses[interface]
    found = ipaddress.ip_address(address)
    if not found.is_loopback and not trusted_network:
        raise UserError(
            f"{KEY}={interface}: {address} can be reached from other machines, and {NO_AUTHENTICATION}; "
            "set node.trusted_network=true if you trust all of them (README: Security)"
        )
    if found.is_global and not allow_public:
        raise UserError(
            f"{KEY}={interface}: {address} is a public address, and {NO_AUTHENTICATION}; "
            "use a VPN or a private network, or set node.allow_public=true"
        )
    os.environ["TP_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] = interface
    return f"{interface} ({address})"


def _ipv4_addresses() -> dict[str, str]:
    return {
        name: entry.address
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET
    }


def _loopback(addresses: dict[str, str]) -> str:
    for name, address in addresses.items():
        if ipaddress.ip_address(address).is_loopback:
            return name
    raise UserError(f"{KEY}=auto: found no loopback interface; name an interface")


def _towards_server(addresses: dict[str, str]) -> str:
    """The interface whose address the kernel would send from to reach MASTER_ADDR; nothing is sent."""
    server = os.environ["MASTER_ADDR"]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((server, 9))
            own = probe.getsockname()[0]
    except OSError as error:
        raise UserError(f"{KEY}=auto: no route to the master address {server}: {error}") from error
    for name, address in addresses.items():
        if address == own:
            return name
    raise UserError(f"{KEY}=auto: no interface has the address {own} that leads to {server}; name one")
