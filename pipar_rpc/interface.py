"""Which network interface the RPC sockets of this process listen on."""

import ipaddress
import os
import socket

import psutil

from pipar_rpc.errors import ConfigError, UserError, nearest

KEY = "node.interface"


def bind(interface: str, one_machine: bool, allow_public: bool) -> str:
    """Makes torch RPC listen on one interface only; returns its name.

    torch RPC has no authentication, and whoever reaches its port can run code in the process. So it listens
    on the loopback interface if all ranks are on one machine, and otherwise on the interface that leads to
    the server, but not on a public address unless that is allowed.

    Args:
        interface: name of an interface, or "auto".
        one_machine: whether all ranks run on this machine.
        allow_public: whether an address that is reachable from the Internet may be used.

    Raises:
        UserError: no such interface, or a public address that is not allowed.
    """
    addresses = _ipv4_addresses()
    if interface == "auto":
        interface = _loopback(addresses) if one_machine else _towards_server(addresses)
    if interface not in addresses:
        raise ConfigError(
            KEY, interface, f"auto or an interface with an IPv4 address: {nearest(interface, addresses)}"
        )
    address = addresses[interface]
    if ipaddress.ip_address(address).is_global and not allow_public:
        raise UserError(
            f"{KEY}={interface}: {address} is a public address, and torch RPC runs code for all who connect; "
            "use a VPN or a private network, or set node.allow_public=true"
        )
    os.environ["TP_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] = interface
    return interface


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
