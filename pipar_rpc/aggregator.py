"""Models that travel: up to be averaged and back down, or from one device to the next."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from pipar_rpc.fedavg import State, num_bytes, weighted_average
from pipar_rpc.link import Slot
from pipar_rpc.peer import Peer
from pipar_rpc.timeline import NO_ITERATION, Span, Stage, Timeline


def join(peers: Sequence[Peer], device_states: Sequence[State]) -> list[State]:
    """The whole network M^k of each device, its two halves joined by name: split points may differ.

    The tensors of the server halves are the live ones.

    Args:
        peers: the devices.
        device_states: the device halves, as uploaded.
    """
    return [state | peer.half.state() for peer, state in zip(peers, device_states, strict=True)]


def average(networks: Sequence[State], samples: Sequence[int], timeline: Timeline) -> State:
    """The global network M = sum_k |D_k| / |D| * M^k.

    Args:
        networks: of the devices.
        samples: samples that each device processed since the last aggregation.
        timeline: receives the span of the computation.
    """
    with timeline.measure(Stage.AGGREGATE, NO_ITERATION):
        return weighted_average(networks, samples)


def hand_over(peer: Peer, state: State) -> Future[Any]:
    """Loads a device half that another device has trained, over the emulated downlink."""
    peer.port.downlink.wait(reserve_download(peer, state))
    return peer.remote.call("load", state, timeout_s=peer.timeout_s)


def reserve_download(peer: Peer, *states: State) -> Slot:
    """A slot of the emulated downlink for models."""
    slot = peer.port.downlink.reserve(sum(map(num_bytes, states)))
    peer.timeline.add(Span(Stage.DOWNLOAD, NO_ITERATION, 0, slot.start, slot.end))
    return slot


def distribute(peers: Sequence[Peer], device_states: Sequence[State], network: State) -> list[Future[Any]]:
    """Loads the global network into all server halves, and into all device halves over their downlinks.

    Sends each device half when its emulated transfer has ended; the links run at the same time.

    Args:
        peers: the devices.
        device_states: the device halves, for their keys.
        network: state of the whole network.

    Returns:
        One future per device, in the order of `peers`.
    """
    transfers = []
    for index, (peer, uploaded) in enumerate(zip(peers, device_states, strict=True)):
        peer.half.load({key: network[key] for key in network.keys() - uploaded.keys()})
        half = {key: network[key] for key in uploaded}
        transfers.append((reserve_download(peer, half), index, half))
    loaded: dict[int, Future[Any]] = {}
    for slot, index, half in sorted(transfers, key=lambda transfer: transfer[0].arrival):
        peers[index].port.downlink.wait(slot)
        loaded[index] = peers[index].remote.call("load", half, timeout_s=peers[index].timeout_s)
    return [loaded[index] for index in range(len(peers))]
