"""One job, from its plan to its results: places the halves, trains, evaluates, writes."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipar_rpc.adaptation import Adapter
from pipar_rpc.coordinator import Coordinator, EpochResult
from pipar_rpc.data import load_held_out, open_source
from pipar_rpc.deployment import deployed
from pipar_rpc.display import Progress
from pipar_rpc.evaluation import Evaluator
from pipar_rpc.figures import class_counts_figure
from pipar_rpc.memory import reset_peak_rss
from pipar_rpc.models import build_model, published, read_weights
from pipar_rpc.node import Node
from pipar_rpc.observer import observing
from pipar_rpc.peer import Peer
from pipar_rpc.plan import Plan
from pipar_rpc.rows import epoch_line, make_row
from pipar_rpc.selection import Selection, select
from pipar_rpc.sinks import CsvSink, PngSink, Row, Sink, TensorBoardSink

log = logging.getLogger(__name__)


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
    config, strategy = plan.config, plan.config.resolved_strategy
    selection = select(plan, node) if config.selector.profile_iterations else None
    for notice in dict.fromkeys(plan.notices + (selection.plan.notices if selection else ())):
        log.info(notice)
    plan = selection.plan if selection else plan
    reset_peak_rss()
    network = _network(plan)
    with ExitStack() as stack:
        sinks = _open_sinks(output_dir, stack)
        peers = stack.enter_context(deployed(plan.devices, node, network, strategy))
        progress = Progress(peers, config.epochs)
        stack.callback(progress.stop)
        evaluator = _evaluator(plan, node, network, progress)
        _show_start(sinks, plan, peers)
        adapter = _adapter(selection, peers, network, sinks, output_dir) if selection else None
        coordinator = Coordinator(
            *(peers, config.aggregation.every, strategy.in_turn, progress.refresh),
            *(config.enable_device_val, adapter),
        )
        recorded, time_scale = config.timeline, config.testbed.time_scale
        observer = stack.enter_context(
            observing(peers, sinks, output_dir, recorded.epochs, recorded.iteration, time_scale)
        )
        rows: list[Row] = []
        for epoch in range(1, config.epochs + 1):
            selection = adapter.selection if adapter else None  # it may change at the epoch's end
            plan = selection.plan if selection else plan
            observer.begin(epoch)
            progress.start(epoch)
            result = coordinator.train_epoch(epoch)
            progress.stop()
            if result.network is None and epoch == config.epochs:
                result.network = coordinator.gather()
            measured = _evaluate(plan, epoch, result, evaluator, progress)
            rows.append(make_row(plan, job, epoch, result) | measured | observer.observe(epoch, result))
            rows[-1]["predicted_iteration_s"] = selection and selection.predicted_s * time_scale
            for sink in sinks:
                sink.add(rows[-1])
            log.info(epoch_line(rows[-1], config.epochs))
            observer.warn(result, rows[-1])
        assert result.network is not None
        torch.save(published(result.network, plan.devices[0].model), output_dir / "model.pt")
    return rows


def _show_start(sinks: Sequence[Sink], plan: Plan, peers: Sequence[Peer]) -> None:
    counts = [peer.class_counts for peer in peers]
    for sink in sinks:
        sink.picture("data/partition", class_counts_figure(counts, plan.devices[0].data.classes))


def _adapter(
    selection: Selection,
    peers: Sequence[Peer],
    network: nn.Sequential,
    sinks: Sequence[Sink],
    output_dir: Path,
) -> Adapter:
    """Shows what was selected; the result selects again in the course of the training."""
    selection.write(output_dir / "selection.csv")
    for sink in sinks:
        sink.text("selector/candidates", selection.text())
    config = selection.plan.config
    return Adapter(selection, peers, network, config.epochs, config.selector.min_gain)


def _network(plan: Plan) -> nn.Sequential:
    """The uncut network with its first weights."""
    config, spec = plan.config, plan.devices[0].model
    torch.manual_seed(config.seed)
    network = build_model(spec)
    if config.model.weights is not None:
        strict = config.model.strict_weights
        network.load_state_dict(read_weights(Path(config.model.weights), spec, strict), strict=strict)
    return network


def _open_sinks(output_dir: Path, stack: ExitStack) -> list[Sink]:
    sinks: list[Sink] = [
        CsvSink(output_dir / "results.csv"),
        TensorBoardSink(output_dir / "tensorboard"),
        PngSink(output_dir),
    ]
    for sink in sinks:
        stack.callback(sink.close)
    return sinks


def _evaluator(plan: Plan, node: Node, network: nn.Sequential, progress: Progress) -> Evaluator:
    """For validation and test images; without those that are switched off."""
    first, config = plan.devices[0], plan.config
    val, test = load_held_out(open_source(first.data, node.data_root, node.download), first.data)
    wanted = {"val": config.enable_val or config.enable_device_val, "test": config.enable_test}
    sets = {
        name: images for name, images in (("val", val), ("test", test)) if wanted[name] and len(images.labels)
    }
    return Evaluator(network, sets, first.transform, node.device, progress.evaluated)


def _evaluate(
    plan: Plan, epoch: int, result: EpochResult, evaluator: Evaluator, progress: Progress
) -> dict[str, Any]:
    """The columns that are measured on held-out images; None where there is no network or no image."""
    own = result.device_networks if plan.config.enable_device_val else []
    names = [name for name in ("val", "test") if getattr(plan.config, f"enable_{name}")]
    state = result.network
    work = evaluator.num_samples(*names) * (state is not None) + evaluator.num_samples("val") * len(own)
    progress.start_evaluation(epoch, work)
    accuracies = {
        f"{name}_accuracy": evaluator.measure(state, name) if state and name in names else None
        for name in ("val", "test")
    }
    by_device = tuple(evaluator.measure(network, "val") for network in own)
    progress.stop()
    return {**accuracies, "device_val_accuracy": None if None in by_device else by_device or None}
