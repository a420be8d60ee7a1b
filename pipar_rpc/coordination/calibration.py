"""Has each emulated device know how fast its machine is."""

import logging
from collections.abc import Mapping, Sequence

from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.membership import ask
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.testbed.device_speed import MachineSpeed, calibrate_all
from pipar_rpc.training.device_loop import Device

log = logging.getLogger(__name__)


def calibrate(handles: Sequence[DeviceHandle], devices: Sequence[DeviceJob]) -> None:
    """Has each device know its machine's speed, if its own is derived from it."""

    def asked(index: int, known: Mapping[str, MachineSpeed]) -> tuple[str, MachineSpeed]:
        return ask(handles[index], Device.calibrate, known)

    told = set[str]()
    machines = calibrate_all([device.speed for device in devices], asked)
    for handle, device, found in zip(handles, devices, machines, strict=True):
        if found is None or found[0] in told:
            continue
        host, machine = found
        told.add(host)
        factor = device.speed.factor(machine)
        log.info(
            "calibration on %s: forward and backward pass of VGG5's first unit on 100 images take %.4f s "
            "there and %.2f s on the emulated %s: computing is stretched %.1f times",
            *(host, machine.reference_s, machine.reference_s * factor, handle.name, factor),
        )
