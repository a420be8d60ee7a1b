"""The VPN as files: WireGuard's configuration and the firewall of each machine.

The server is the hub. Devices reach each other through it, because torch RPC connects all ranks with each
other when they meet, and a board behind a router can be reached in no other way.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network

from launch.machines.keys import KeyPair

KEEPALIVE_S = 25  # so that a router between device and server keeps the way back open


def configurations(
    keys: Sequence[KeyPair], names: Sequence[str], network: IPv4Network, endpoint: str, port: int, mtu: int
) -> list[str]:
    """Configuration of each machine for wg-quick; machine i has the network's address i + 1.

    Args:
        keys: keys of the server and of the other machines.
        names: names of the machines, for comments.
        network: network inside the VPN.
        endpoint: address of the server outside it.
        port: UDP port of the server.
        mtu: largest packet inside the VPN, in bytes: 80 less than outside.
    """
    hub, *others = (f"{network[number + 1]}" for number in range(len(keys)))
    # Only what comes out of the VPN is passed on, and the firewall lets it go back into the VPN alone.
    forwarding = "PostUp = echo 1 > /proc/sys/net/ipv4/conf/%i/forwarding"
    server = _interface(keys[0], f"{hub}/{network.prefixlen}", mtu, f"ListenPort = {port}", forwarding)
    found = [server + "".join(map(_peer, names[1:], keys[1:], (f"{own}/32" for own in others)))]
    way = (f"Endpoint = {_bracketed(endpoint)}:{port}", f"PersistentKeepalive = {KEEPALIVE_S}")
    for own, address in zip(keys[1:], others, strict=True):
        interface = _interface(own, f"{address}/{network.prefixlen}", mtu)
        found.append(interface + _peer(names[0], keys[0], str(network), *way))
    return found


def _interface(keys: KeyPair, address: str, mtu: int, *more: str) -> str:
    return "\n".join(["[Interface]", f"Address = {address}", f"MTU = {mtu}", *more, _private(keys)]) + "\n"


def _private(keys: KeyPair) -> str:
    return f"PrivateKey = {keys.private}"


def _peer(name: str, keys: KeyPair, allowed: str, *more: str) -> str:
    lines = ["", f"# {name}", "[Peer]", f"PublicKey = {keys.public}", f"AllowedIPs = {allowed}", *more]
    return "\n".join(lines) + "\n"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def firewall(interface: str, network: IPv4Network, store_port: int) -> str:
    """Rules for nft that let only the VPN reach what listens: torchrun's store and RPC.

    RPC listens on the machine's address in the VPN. Linux answers to that address on all interfaces, so being
    bound to it keeps nobody out. torchrun's store listens on all addresses. What else the machine does is
    left alone, but nothing is passed on between the VPN and other networks.
    """
    return f"""\
# Read by `nft -f`: the first two lines make it the same whether or not the table is there.
table inet {interface} {{}}
delete table inet {interface}
table inet {interface} {{
    chain input {{
        type filter hook input priority filter - 10; policy accept;
        iifname {{ "lo", "{interface}" }} accept
        ip daddr {network} drop
        tcp dport {store_port} drop
    }}
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        iifname "{interface}" oifname != "{interface}" drop
        iifname != "{interface}" oifname "{interface}" drop
    }}
}}
"""
