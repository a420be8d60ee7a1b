"""Models that travel, as `compression.models` encodes them: up to be averaged and back down, or handed on."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future

from pipar_rpc.base.states import State, num_bytes
from pipar_rpc.compression.models import ModelCodec
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.testbed.link import Slot
from pipar_rpc.timing.timeline import NO_ITERATION, Span, Stage
from pipar_rpc.training.device_loop import Device


class ModelTransfer:
    """Decodes device halves that come up, and sends those that go down.

    A codec may encode the change since a network that both ends hold. On the server this is
    `DeviceHandle.holds`, the network that a device was given last; a device that does not hold the last
    global network gets the new one whole. What the devices decode is the global network from then on, for the
    server halves, checkpoints and evaluation too, so that all of them hold the same one.

    Args:
        codec: the codec, equal to the devices'.
    """

    def __init__(self, codec: ModelCodec) -> None:
        self._codec = codec

    def received(self, handle: DeviceHandle, payload: State) -> State:
        """The device half that a device has uploaded."""
        state = self._codec.decode(payload, handle.holds)
        handle.saved_bytes += num_bytes(state) - num_bytes(payload)
        return state

    def hand_over(self, handle: DeviceHandle, state: State) -> Future[None]:
        """Loads a device half that another device has trained, over the emulated downlink.

        It goes whole: the device holds none of the networks in between.
        """
        payload = self._codec.encode(state, None)
        handle.port.downlink.wait(reserve_download(handle, payload))
        handle.holds = self._codec.decode(payload, None)
        handle.saved_bytes += num_bytes(state) - num_bytes(payload)
        return handle.call(Device.load, payload)

    def distribute(
        self, names: Mapping[DeviceHandle, Iterable[str]], network: State, before: State | None
    ) -> tuple[State, dict[DeviceHandle, Future[None]]]:
        """Loads the global network into all server halves, and into all device halves over their downlinks.

        Sends each device half when its emulated transfer has ended; the links run at the same time.

        Args:
            names: names of the tensors of each device's half.
            network: state of the whole network, as it was aggregated.
            before: the global network that was distributed before; None if there was none.

        Returns:
            The network as everyone holds it from now on, and one future per device.
        """
        crossing = {name: network[name] for own in names.values() for name in own}
        held = network | self._codec.decode(self._codec.encode(crossing, before), before)
        payloads: dict[tuple[int, bool], State] = {}  # devices with the same split point get the same
        transfers = []
        for handle, its in names.items():
            own, knows = tuple(its), handle.holds is before
            key = len(own), knows
            if key not in payloads:
                source, base = (network, before) if knows else (held, None)
                payloads[key] = self._codec.encode({name: source[name] for name in own}, base)
            handle.saved_bytes += num_bytes({name: held[name] for name in own}) - num_bytes(payloads[key])
            handle.half.load({name: held[name] for name in held.keys() - set(own)})
            transfers.append((reserve_download(handle, payloads[key]), handle, payloads[key]))
        loaded: dict[DeviceHandle, Future[None]] = {}
        for slot, handle, payload in sorted(transfers, key=lambda transfer: transfer[0].arrival):
            handle.port.downlink.wait(slot)
            handle.holds = held
            loaded[handle] = handle.call(Device.load, payload)
        return held, loaded


def reserve_download(handle: DeviceHandle, *states: State) -> Slot:
    """A slot of the emulated downlink for models."""
    size = sum(map(num_bytes, states))
    handle.downloaded_bytes += size
    slot = handle.port.downlink.reserve(size)
    handle.timeline.add(Span(Stage.DOWNLOAD, NO_ITERATION, 0, slot.start, slot.end))
    return slot
