"""Tells each emulated device how fast its machine is."""

import logging
from collections.abc import Mapping, Sequence

from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.membership import ask
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.testbed.device_speed import MachineSpeed, calibrate_all
from pipar_rpc.training.device_loop import Device

log = logging.getLogger(__name__)


def calibrate(handles: Sequence[DeviceHandle], devices: Sequence[DeviceJob]) -> None:
    """Tells each device its machine's speed if its own is derived from that; logs it once per machine."""

    def ask_device(index: int, known: Mapping[str, MachineSpeed]) -> tuple[str, MachineSpeed]:
        return ask(handles[index], Device.calibrate, known)

    logged = set[str]()
    machines = calibrate_all([device.speed for device in devices], ask_device)
    for handle, device, named_speed in zip(handles, devices, machines, strict=True):
        if named_speed is None or named_speed[0] in logged:
            continue
        host, machine = named_speed
        logged.add(host)
        factor = device.speed.factor(machine)
        log.info(
            "calibration on %s: forward and backward pass of VGG5's first unit on 100 images take %.4f s "
            "there and %.2f s on the emulated %s: computing is stretched %.1f times",
            *(host, machine.reference_s, machine.reference_s * factor, handle.name, factor),
        )
