"""The inventory `machines.yaml`: the server, the machines of the devices, and how they are reached."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from launch.machines.schema import File, Inventory, Keys, Machine, Ssh, Vpn
from pipar_rpc.base.errors import ConfigError, UserError, first_line, nearest, require
from pipar_rpc.plan.load import parse_node

T = TypeVar("T")

NAME = r"[a-z0-9][a-z0-9-]{0,30}"
ADDRESS = r"[A-Za-z0-9][A-Za-z0-9.:-]*"  # it becomes an argument of ssh
USER = r"[a-z_][a-z0-9_-]*"
PATH = r"/[\w.+/-]*\w[\w.+-]*"  # without what a shell or systemd would take for something else
PYTHON = r"[\w.+][\w.+-]*|/[\w./+-]+"  # `run` and ssh have other folders to begin with
INTERFACE = r"[a-z][a-z0-9]{0,12}"
PRIVATE = [IPv4Network(own) for own in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
OF_THE_PLAN = ("interface", "trusted_network", "allow_public")  # node keys that the VPN decides


def read(path: Path) -> Inventory:
    """Reads and checks an inventory.

    Raises:
        UserError: one line that names the key, or says why the file cannot be read.
    """
    file = _typed(File, "", _load(path))
    require(bool(file.devices), "devices", file.devices, "a list of at least one machine")
    places = {"server": file.server} | {f"devices[{i}]": own for i, own in enumerate(file.devices)}
    network = _network(file.vpn.subnet, len(places))
    _check_file(file)
    machines: list[Machine] = []
    for number, (where, own) in enumerate(places.items()):
        keys = _typed(Keys, f"{where}.", file.defaults, own)
        keys.name = keys.name or (f"machine{number}" if number else "server")
        if not number and "overrides" not in own:
            keys.overrides = {}  # the defaults' are settings of devices
        _check_machine(keys, where)
        machines.append(Machine(**vars(keys), number=number, vpn_address=str(network[number + 1])))
    _check_apart(machines, list(places))
    _check_reachable(machines, file, network, list(places))
    require(not machines[0].overrides, "server.overrides", "...", "left out: they are settings of devices")
    overrides = _device_overrides(machines[1:], list(places)[1:])
    return Inventory(
        path.absolute(), machines, file.vpn, file.ssh, file.store_port, file.max_restarts, overrides
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; docs/machines.md shows one") from None
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must be keys with values; docs/machines.md shows an inventory")
    return {str(key): value for key, value in raw.items()}


def _typed(kind: type[T], where: str, *parts: Mapping[str, Any]) -> T:
    """An object of a dataclass from mappings, of which later ones count more."""
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), *map(dict, parts)))
    except (ConfigAttributeError, ConfigKeyError) as error:
        group, _, name = str(error.full_key).rpartition(".")
        within = {"vpn": Vpn, "ssh": Ssh}.get(group, kind)
        hint = nearest(name, [known.name for known in fields(within)])
        raise UserError(f"{where}{error.full_key}: no such key: {hint}") from error
    except OmegaConfBaseException as error:
        key = f"{where}{error.full_key}".rstrip(".") or "the inventory"
        raise UserError(f"{key}: {first_line(error).rstrip('.')}") from error
    assert isinstance(found, kind)
    return found


def _network(subnet: str, machines: int) -> IPv4Network:
    allowed = f"a private IPv4 network with room for {machines} machines, like 10.9.0.0/24"
    try:
        network = IPv4Network(subnet)
    except ValueError as error:
        raise ConfigError("vpn.subnet", subnet, allowed) from error
    private = any(network.subnet_of(known) for known in PRIVATE)
    require(private and network.num_addresses - 2 >= machines, "vpn.subnet", subnet, allowed)
    return network


def _check_file(file: File) -> None:
    vpn, ssh = file.vpn, file.ssh
    _check_pattern(INTERFACE, "vpn.interface", vpn.interface, "up to 13 letters a-z and digits, like pipar0")
    require(1 <= vpn.port <= 65535, "vpn.port", vpn.port, "1..65535")
    require(576 <= vpn.mtu <= 8920, "vpn.mtu", vpn.mtu, "576..8920 bytes")
    if vpn.endpoint is not None:
        _check_address("vpn.endpoint", vpn.endpoint, "a host's name or address, without the port")
    for key, name in (("ssh.known_hosts", ssh.known_hosts), ("ssh.identity", ssh.identity)):
        require(name is None or Path(name).expanduser().is_file(), key, name, "an existing file")
    require(1 <= ssh.timeout_s <= 86400, "ssh.timeout_s", ssh.timeout_s, "1..86400 seconds")
    require(1024 <= file.store_port <= 65535, "store_port", file.store_port, "1024..65535")
    require(file.max_restarts >= 0, "max_restarts", file.max_restarts, ">= 0")


def _check_machine(keys: Keys, where: str) -> None:
    _check_pattern(NAME, f"{where}.name", keys.name, "up to 31 of a-z, 0-9 and -")
    _check_address(f"{where}.address", keys.address, "a host's name or address")
    _check_pattern(USER, f"{where}.user", keys.user, "the user's name on the machine")
    _check_pattern(PATH, f"{where}.folder", keys.folder, "an absolute path without spaces")
    _check_pattern(PYTHON, f"{where}.python", keys.python, "a command, or an absolute path without spaces")
    require(1 <= keys.ssh_port <= 65535, f"{where}.ssh_port", keys.ssh_port, "1..65535")
    require(keys.ranks >= 1, f"{where}.ranks", keys.ranks, ">= 1")
    for key in OF_THE_PLAN:
        if key in keys.node:
            raise ConfigError(f"{where}.node.{key}", keys.node[key], "left out: the plan sets it")
    try:
        parse_node(node_words(keys))
    except UserError as error:
        raise UserError(f"{where}.{error}") from error


def _check_pattern(pattern: str, key: str, value: str, allowed: str) -> None:
    require(re.fullmatch(pattern, value) is not None, key, value or "null", allowed)


def _check_address(key: str, value: str, allowed: str) -> None:
    _check_pattern(ADDRESS, key, value, allowed)
    if ":" in value:
        try:
            IPv6Address(value)
        except AddressValueError as error:
            raise ConfigError(key, value, allowed) from error


def _check_apart(machines: list[Machine], places: list[str]) -> None:
    """Two torchruns on one machine would take each other's ports and interface."""
    for key, hint in (("name", ""), ("address", ": several devices of one machine are its `ranks`")):
        seen: dict[str, str] = {}
        for machine, where in zip(machines, places, strict=True):
            value = str(getattr(machine, key))
            if value in seen:
                raise ConfigError(f"{where}.{key}", value, f"another one than {seen[value]} has{hint}")
            seen[value] = where


def _check_reachable(machines: list[Machine], file: File, network: IPv4Network, places: list[str]) -> None:
    """The firewall must not shut out ssh, nor the VPN itself."""
    outside = [(f"{where}.address", machine.address) for machine, where in zip(machines, places, strict=True)]
    for key, address in [*outside, ("vpn.endpoint", file.vpn.endpoint or "")]:
        with suppress(AddressValueError):  # names are looked up on the machines, by network.sh
            apart = IPv4Address(address) not in network
            require(apart, "vpn.subnet", file.vpn.subnet, f"a network that {key}={address} is not in")
    for machine, where in zip(machines, places, strict=True):
        apart = machine.ssh_port != file.store_port
        require(apart, "store_port", file.store_port, f"another port than {where}.ssh_port")


def node_words(keys: Keys) -> list[str]:
    """The machine's `node.` settings as words of pipar_rpc's command line."""
    return [f"node.{key}={_text(value)}" for key, value in keys.node.items()]


def _device_overrides(machines: list[Machine], places: list[str]) -> list[str]:
    """The settings of single devices, which have consecutive numbers, machine by machine."""
    words, device = [], 0
    for machine, where in zip(machines, places, strict=True):
        given = machine.overrides
        own = given if isinstance(given, list) else [given] * machine.ranks
        fits = len(own) == machine.ranks and all(isinstance(each or {}, dict) for each in own)
        allowed = f"settings for all devices of the machine, or a list of {machine.ranks}, one for each"
        require(fits, f"{where}.overrides", given, allowed)
        for settings in own:
            device += 1
            words += [f"devices.overrides.{device}.{word}" for word in _flat(settings or {})]
    return words


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) else [f"{name}={_text(value)}"]
    return found


def _text(value: Any) -> str:
    """A value as Hydra and OmegaConf read it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)
