"""Models that travel, as `compression.models` encodes them: up to be averaged and back down, or handed on."""

from collections.abc import Collection, Iterable, Mapping
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
        self,
        names: Mapping[DeviceHandle, Iterable[str]],
        network: State,
        before: State | None,
        receivers: Collection[DeviceHandle] | None = None,
    ) -> tuple[State, dict[DeviceHandle, Future[None]]]:
        """Loads the global network into all server halves, and into device halves over their downlinks.

        Halves of devices that rest are left out, unless they are sent the network: they wake with it.

        Sends each device half when its emulated transfer has ended; the links run at the same time.

        Args:
            names: names of the tensors of each device's half.
            network: state of the whole network, as it was aggregated.
            before: the global network that was distributed before; None if there was none.
            receivers: devices whose halves are sent; None for all.

        Returns:
            The network as everyone holds it from now on, and one future per receiver.
        """
        crossing = {name: network[name] for own in names.values() for name in own}
        held = network | self._codec.decode(self._codec.encode(crossing, before), before)
        payloads: dict[tuple[int, bool], State] = {}  # devices with the same split point get the same
        transfers: dict[DeviceHandle, State] = {}
        for handle, its in names.items():
            own, knows = tuple(its), handle.holds is before
            receives = receivers is None or handle in receivers
            woken = receives and handle.wakes_with(held)
            if not (woken or handle.rests):
                handle.half.load({name: held[name] for name in held.keys() - set(own)})
            if not receives:
                continue
            key = len(own), knows
            if key not in payloads:
                source, base = (network, before) if knows else (held, None)
                payloads[key] = self._codec.encode({name: source[name] for name in own}, base)
            handle.saved_bytes += num_bytes({name: held[name] for name in own}) - num_bytes(payloads[key])
            transfers[handle] = payloads[key]
        return held, _send(transfers, held)

    def hand_out(
        self, names: Mapping[DeviceHandle, Iterable[str]], network: State
    ) -> dict[DeviceHandle, Future[None]]:
        """Loads the global network, which was distributed to others, into device halves; it goes whole.

        Args:
            names: names of the tensors of each device's half.
            network: the network as everyone else holds it.
        """
        for handle in names:
            handle.wakes_with(network)
        halves = {handle: {name: network[name] for name in own} for handle, own in names.items()}
        payloads = {handle: self._codec.encode(half, None) for handle, half in halves.items()}
        for handle, half in halves.items():
            handle.saved_bytes += num_bytes(half) - num_bytes(payloads[handle])
        return _send(payloads, network)


def _send(payloads: Mapping[DeviceHandle, State], held: State) -> dict[DeviceHandle, Future[None]]:
    """Sends networks over the emulated downlinks, all at the same time; then the devices hold `held`."""
    transfers = [(reserve_download(handle, payload), handle, payload) for handle, payload in payloads.items()]
    loaded: dict[DeviceHandle, Future[None]] = {}
    for slot, handle, payload in sorted(transfers, key=lambda transfer: transfer[0].arrival):
        handle.port.downlink.wait(slot)
        handle.holds = held
        loaded[handle] = handle.call(Device.load, payload)
    return loaded


def reserve_download(handle: DeviceHandle, *states: State) -> Slot:
    """A slot of the emulated downlink for models."""
    size = sum(map(num_bytes, states))
    handle.downloaded_bytes += size
    slot = handle.port.downlink.reserve(size)
    handle.timeline.add(Span(Stage.DOWNLOAD, NO_ITERATION, 0, slot.start, slot.end))
    return slot
