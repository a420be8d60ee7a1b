"""One job, from its plan to its results: places the halves, trains, evaluates, writes."""

import copy
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipar_rpc.actor import place
from pipar_rpc.coordinator import Coordinator, EpochResult
from pipar_rpc.data import Images, load_held_out, open_source
from pipar_rpc.display import Progress
from pipar_rpc.errors import ConfigError, PeerError
from pipar_rpc.evaluation import accuracy
from pipar_rpc.fedavg import State
from pipar_rpc.link import Link
from pipar_rpc.memory import peak_rss_mb, reset_peak_rss
from pipar_rpc.models import build_model
from pipar_rpc.node import Node
from pipar_rpc.peer import Peer
from pipar_rpc.placement import DeviceJob, build_device
from pipar_rpc.plan import Plan
from pipar_rpc.port import Port
from pipar_rpc.server import ServerHalf
from pipar_rpc.sinks import CsvSink, Row, Sink, TensorBoardSink
from pipar_rpc.timeline import Timeline

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 30.0


def run(plan: Plan, node: Node, output_dir: Path, job: int) -> list[Row]:
    """Runs a job and returns its rows, one per epoch.

    Args:
        plan: what to do.
        node: this machine.
        output_dir: where results.csv, model.pt and tensorboard/ go.
        job: number within a multirun.

    Raises:
        UserError: a device cannot do its part, for a reason the user can mend.
        PeerError: a process failed or did not answer in time.
    """
    reset_peak_rss()
    config = plan.config
    for notice in plan.notices:
        log.info(notice)
    torch.manual_seed(config.seed)
    network = build_model(plan.devices[0].model)
    with ExitStack() as stack:
        sinks: list[Sink] = [CsvSink(output_dir / "results.csv"), TensorBoardSink(output_dir / "tensorboard")]
        for sink in sinks:
            stack.callback(sink.close)
        peers = stack.enter_context(_placed(plan, node, network))
        evaluate = _Evaluator(plan, node, network)
        progress = Progress(peers, config.epochs)
        stack.callback(progress.stop)
        coordinator = Coordinator(peers, config.aggregation.every, progress.refresh)
        rows = []
        for epoch in range(1, config.epochs + 1):
            progress.start(epoch)
            result = coordinator.train_epoch(epoch)
            progress.stop()
            state = result.network
            if state is None and epoch == config.epochs:
                state = coordinator.gather()
            rows.append(_row(plan, job, epoch, result) | evaluate(state))
            for sink in sinks:
                sink.add(rows[-1])
            log.info(_epoch_line(rows[-1], config.epochs))
        torch.save(state, output_dir / "model.pt")
    return rows


@contextmanager
def _placed(plan: Plan, node: Node, network: nn.Sequential) -> Iterator[list[Peer]]:
    """Both halves of every device, in place and with their data loaded; removed at the end."""
    with ExitStack() as stack:
        peers = [_place(device, node, network, stack) for device in plan.devices]
        try:
            for peer, device in zip(peers, plan.devices, strict=True):
                peer.num_samples = _loaded(peer.remote.call("num_samples"), peer)
                if device.batch_size > peer.num_samples:
                    allowed = f"1..{peer.num_samples} ({peer.name} has {peer.num_samples} samples)"
                    raise ConfigError("batch_size", device.batch_size, allowed)
                peer.iterations = -(-peer.num_samples // device.batch_size)
            yield peers
        finally:
            for peer in peers:
                peer.port.stop("the job has ended")
            closing = [peer.remote.close(CLOSE_TIMEOUT_S) for peer in peers]
            for peer, closed in zip(peers, closing, strict=True):
                if error := closed.exception():
                    log.warning("%s could not be cleaned up: %s", peer.name, error)


def _loaded(num_samples: Future[int], peer: Peer) -> int:
    try:
        return num_samples.result(peer.timeout_s)
    except TimeoutError:
        peer.remote.abandon()
        waited = f"the server waited {peer.timeout_s:.0f} s for {peer.name} to load its data"
        raise PeerError(waited) from None


def _place(device: DeviceJob, node: Node, network: nn.Sequential, stack: ExitStack) -> Peer:
    timeline = Timeline()
    layers = copy.deepcopy(network[device.split_point :])
    half = ServerHalf(layers, device.optimizer, node.device, timeline)
    port = Port(device.name, half.process, Link(device.downlink_mbps, device.latency_s), timeline)
    stack.callback(port.close)
    state = copy.deepcopy(network[: device.split_point].state_dict())
    remote = place(device.name, build_device, device, state, port.reference())
    emulated = device.uplink_mbps is not None and device.downlink_mbps is not None
    links_timed = emulated or device.split_point == len(network)
    return Peer(device.name, remote, port, half, timeline, device.timeout_s, links_timed)


class _Evaluator:
    """Accuracy on validation and test images; empty for what is switched off."""

    def __init__(self, plan: Plan, node: Node, network: nn.Sequential) -> None:
        first = plan.devices[0]
        source = open_source(first.data, node.data_root, node.download)
        val, test = load_held_out(source, first.data)
        self._sets: dict[str, Images | None] = {
            "val_accuracy": val if plan.config.enable_val and len(val.labels) else None,
            "test_accuracy": test if plan.config.enable_test else None,
        }
        self._network = copy.deepcopy(network).to(node.device)
        self._transform, self._device = first.transform, node.device

    def __call__(self, state: State | None) -> dict[str, float | None]:
        """Loads the global network and measures it; None where there is no global network."""
        if state is None:
            return dict.fromkeys(self._sets)
        self._network.load_state_dict(state)
        return {
            name: accuracy(self._network, images, self._transform, self._device) if images else None
            for name, images in self._sets.items()
        }


def _row(plan: Plan, job: int, epoch: int, result: EpochResult) -> Row:
    config, devices = plan.config, plan.devices
    metrics = dataclasses.asdict(result.metrics)
    return {
        "job": job,
        "epoch": epoch,
        "strategy": config.strategy,
        "model": config.model.name,
        "data": config.data.name,
        "network": config.network.name,
        "num_devices": len(devices),
        "split_point": _joined([device.split_point for device in devices]),
        "num_micro_batches": _joined([device.num_micro_batches for device in devices]),
        "batch_size": _joined([device.batch_size for device in devices]),
        "seed": config.seed,
        **metrics,
        "train_loss": result.train_loss,
        "train_accuracy": result.train_accuracy,
        "server_peak_rss_mb": peak_rss_mb(),
        "device_peak_rss_mb": result.device_peak_rss_mb,
        "devices_alive": len(devices),
    }


def _joined(values: Sequence[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else tuple(values)


def _epoch_line(row: Row, epochs: int) -> str:
    accuracies = ", ".join(
        f"{name} {row[f'{name}_accuracy']:.4f}"
        for name in ("train", "val", "test")
        if row[f"{name}_accuracy"] is not None
    )
    return (
        f"epoch {row['epoch']}/{epochs}: {row['epoch_time_s']:.2f} s, loss {row['train_loss']:.4f}, "
        f"accuracy {accuracies}, "
        f"idle server {row['server_idle_s']:.2f} s devices {row['device_idle_s']:.2f} s, "
        f"{row['uplink_mbps']:.2f} Mbit/s up {row['downlink_mbps']:.2f} down"
    )
