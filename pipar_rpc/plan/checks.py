"""Checks of a configuration against the network and the ranks; errors are one line."""

from pipar_rpc.base.dotted import TARGET, resolved
from pipar_rpc.base.errors import ConfigError, UserError, require
from pipar_rpc.data import OWN
from pipar_rpc.plan.node_schema import DEVICE, NodeConfig
from pipar_rpc.plan.placement import check_placement, number_of_devices
from pipar_rpc.plan.schema import Config
from pipar_rpc.plan.strategies import Method


def check_split_point(split_point: int, num_units: int, model: str, labels_stay: int = 0) -> None:
    """Raises ConfigError if the network has no such split point, or not as many last units for the device.

    Args:
        split_point: P.
        num_units: Q.
        model: name of the network.
        labels_stay: number of last units that stay on the device with the labels; 0 if the labels cross.
    """
    has = f"{model} has {num_units} cut units"
    require(labels_stay < num_units, "pipeline.tail_units", labels_stay, f"1..{num_units - 1} ({has})")
    if labels_stay and num_units - labels_stay < split_point != num_units:
        kept = f"the last {labels_stay} with pipeline.labels=device"
        most = f"1..{num_units - labels_stay}, or {num_units} for the whole network on the device"
        raise ConfigError("pipeline.split_point", split_point, f"{most} ({has}, {kept})")
    require(split_point <= num_units, "pipeline.split_point", split_point, f"1..{num_units} ({has})")


def check_selector(config: Config, num_units: int) -> None:
    """Raises ConfigError if the selector may choose a split point that the network does not have."""
    points, stay = config.selector.split_points, config.pipeline.labels_stay
    if points is None:
        return
    if any(num_units - stay < point < num_units for point in points):
        both = f"split points of 1..{num_units - stay} or {num_units} with pipeline.labels=device"
        raise ConfigError("selector.split_points", points, f"{both} ({config.model.name})")
    most = num_units - (config.selector.method is Method.paper)
    if max(points) > num_units or min(points) > most:
        raise ConfigError("selector.split_points", points, f"split points of 1..{most} ({config.model.name})")


def resolved_num_devices(config: Config, world_size: int) -> int:
    """Returns K: as configured, or one device for each rank that is not a server.

    Raises:
        ConfigError: there is no rank for the devices, not the ranks that `placement` names, or there are more
            servers than devices.
    """
    servers, wanted = config.num_servers, config.num_devices
    available = world_size - servers
    started = f"torchrun started {world_size} rank{'s' if world_size > 1 else ''}"
    if available < 1 and servers == 1:
        raise UserError(f"{started}: at least 2 are needed, --nproc-per-node=1+num_devices")
    if available < 1:
        number = wanted or servers
        need = f"num_servers={servers} and num_devices={number} need {servers + number}"
        raise ConfigError("num_servers", servers, f"below the number of ranks ({started}, {need})")
    number = number_of_devices(config, available)
    others = "one is the server" if servers == 1 else f"{servers} are servers (num_servers={servers})"
    check_placement(config.placement.devices_per_rank, number, available, f"{started}, and {others}")
    if servers > number:
        each = f"1..{number}, the number of devices ({started}): each server rank holds halves"
        raise ConfigError("num_servers", servers, each)
    return number


def check_fault(config: Config, num_devices: int) -> None:
    """Raises UserError if `fault` asks for more devices than there are, or names one that does not exist."""
    least = config.fault.min_devices
    if least > num_devices:
        raise ConfigError("fault.min_devices", least, f"1..{num_devices}, the number of devices")
    unknown = sorted(config.fault.leave.keys() - set(map(str, range(1, num_devices + 1))))
    if unknown:
        raise UserError(f"fault.leave.{unknown[0]}: devices are numbered 1..{num_devices}")


def check_own_order(config: Config) -> None:
    """Raises ConfigError if there is no class of the name that `server.order._target_` has."""
    target = config.server.order.choice.target
    if target is not None:
        resolved(f"server.order.{TARGET}", target)


def check_roots(config: Config, num_devices: int, one_machine: bool) -> None:
    """Raises ConfigError if devices with data of their own would read the same folder."""
    root = config.node.data_root
    if config.partition.name == OWN and one_machine and num_devices > 1 and DEVICE not in root:
        each = f"another folder for each device, with {DEVICE} in its name (partition=own)"
        raise ConfigError("node.data_root", root, f"{each}: device1 and device2 would read the same")


def check_threads(node: NodeConfig, emulated: bool) -> None:
    """Raises ConfigError if devices whose speed is emulated compute on several threads."""
    if emulated and node.threads != 1:
        raise ConfigError("node.threads", node.threads, "1 for emulated speed, which times one thread")


def check_numbers(config: Config, num_devices: int) -> None:
    """Raises UserError for settings of a device that there is not."""
    unknown = sorted(config.devices.overrides.keys() - set(map(str, range(1, num_devices + 1))))
    if unknown:
        raise UserError(f"devices.overrides.{unknown[0]}: devices are numbered 1..{num_devices}")
