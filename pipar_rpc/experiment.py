"""One job, from its plan to its results: places the halves, trains, evaluates, writes."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipar_rpc.adaptation import Adapter
from pipar_rpc.checkpoint import Checkpoint, CheckpointFolder
from pipar_rpc.coordinator import Coordinator
from pipar_rpc.data import load_held_out, open_source
from pipar_rpc.deployment import deployed
from pipar_rpc.display import Progress
from pipar_rpc.epoch_result import EpochResult
from pipar_rpc.evaluation import Evaluator
from pipar_rpc.fedavg import State
from pipar_rpc.figures import class_counts_figure
from pipar_rpc.memory import reset_peak_rss
from pipar_rpc.models import build_model, published, read_weights
from pipar_rpc.node import Node
from pipar_rpc.observer import observing
from pipar_rpc.outputs import Outputs
from pipar_rpc.plan import Plan
from pipar_rpc.replacing import MODEL, refuse_job
from pipar_rpc.resuming import AUTO, find
from pipar_rpc.roster import Roster
from pipar_rpc.rows import epoch_line, make_row
from pipar_rpc.saving import Saver
from pipar_rpc.selection import Selection, select
from pipar_rpc.session import Session
from pipar_rpc.sinks import Row
from pipar_rpc.storage import write_whole

log = logging.getLogger(__name__)


def run(
    plan: Plan,
    node: Node,
    output_dir: Path,
    job: int,
    goes_on: bool,
    group: Session,
    on_begin: Callable[[], None],
    on_saved: Callable[[], None],
) -> list[Row]:
    """Runs a job and returns its rows, one per epoch.

    Args:
        plan: what to do.
        node: this machine.
        output_dir: where results.csv, model.pt, tensorboard/ and checkpoints/ go; nobody else writes there.
        job: number within a multirun.
        goes_on: whether the job was begun in this folder by a process that has ended.
        group: of all ranks.
        on_begin: called when it is certain that the job may write into its folder.
        on_saved: called whenever a checkpoint or the model is complete.

    Raises:
        RegroupError: a lost device has come back; the job goes on when torchrun has started all ranks again.
        UserError: a device cannot do its part, for a reason the user can mend.
        PeerError: a process failed, or too few devices are left.
    """
    with ExitStack() as stack:
        checkpoint, in_place = find(plan, output_dir, goes_on)
        resume, kept = plan.config.resume, plan.config.checkpoint
        if not goes_on and not in_place:
            refuse_job(output_dir, resume == AUTO)
        on_begin()
        rows: list[Row] = list(checkpoint.rows) if checkpoint else []
        outputs = Outputs(output_dir, checkpoint, in_place)
        stack.callback(outputs.close)
        folder = CheckpointFolder(output_dir, kept.keep, resume in {None, AUTO}, on_saved)
        if checkpoint:
            outputs.event(f"resumed from {checkpoint.where}", checkpoint.round)
        if checkpoint and not in_place and kept.every:
            folder.save(checkpoint)
        model = output_dir / MODEL
        if checkpoint and checkpoint.epoch > plan.config.epochs:
            log.info("nothing is left to train")
            if in_place and _is_last(model, folder):
                on_saved()
                return rows
        network = _train(_Job(plan, node, output_dir, job, outputs, rows, group, folder), checkpoint, stack)
        state = published(network, plan.devices[0].model)
        write_whole(model, lambda file: torch.save(state, file))
        on_saved()
    return rows


def _is_last(model: Path, folder: CheckpointFolder) -> bool:
    """Whether a model is there, and not from before the training went on with more epochs."""
    last = folder.files()[0].stat().st_mtime_ns
    return model.exists() and model.stat().st_mtime_ns >= last


@dataclass(frozen=True)
class _Job:
    """What `run` is about; see there."""

    plan: Plan
    node: Node
    output_dir: Path
    number: int
    outputs: Outputs
    rows: list[Row]
    group: Session
    folder: CheckpointFolder


def _train(job: _Job, checkpoint: Checkpoint | None, stack: ExitStack) -> State:
    """Trains to the end, from the beginning or from a checkpoint; returns the global network."""
    selection = _select(job, checkpoint) if job.plan.config.selector.profile_iterations else None
    for notice in dict.fromkeys(job.plan.notices + (selection.plan.notices if selection else ())):
        log.info(notice)
    job = replace(job, plan=selection.plan) if selection else job
    plan, config, outputs = job.plan, job.plan.config, job.outputs
    network = _network(plan)
    roster, progress = _deploy(job, network, checkpoint, stack)
    adapter = _adapter(job, selection, roster, network) if selection else None
    strategy, every = config.resolved_strategy, config.aggregation.every
    coordinator = Coordinator(roster, every, strategy.in_turn, config.enable_device_val, adapter)
    recorded, time_scale = config.timeline, config.testbed.time_scale
    elapsed_s = _elapsed_s(plan, checkpoint)
    evaluator = _evaluator(plan, job.node, network, progress)
    first, start = (checkpoint.epoch, checkpoint.iteration) if checkpoint else (1, 0)
    done = checkpoint.num_iterations if checkpoint else 0
    timeline = (recorded.epochs, recorded.iteration, time_scale, first, done, elapsed_s)
    observer = stack.enter_context(observing(roster, outputs, job.output_dir, *timeline))
    saver = _saver(job, coordinator, roster, adapter, elapsed_s)
    if not checkpoint:
        saver.save(first, start, network.state_dict())
    result = None
    for epoch in range(first, config.epochs + 1):
        selection = adapter.selection if adapter else None  # it may change at the epoch's end
        plan = selection.plan if selection else plan
        observer.begin(epoch)
        progress.start(epoch)
        result = coordinator.train_epoch(epoch, start if epoch == first else 0, saver.after_round)
        progress.stop()
        if result is None:
            continue
        averaged = result.network
        if averaged is None and epoch == config.epochs:
            result.network = coordinator.gather()
        measured = _evaluate(plan, epoch, result, evaluator, progress)
        row = make_row(plan, job.number, epoch, result) | measured | observer.observe(epoch, result)
        if selection:
            row |= selection.link_mbps | {"predicted_iteration_s": selection.predicted_s * time_scale}
        job.rows.append(row)
        saver.after_round(epoch + 1, 0, averaged, last=epoch == config.epochs)
        outputs.add(row)
        log.info(epoch_line(row, config.epochs))
        observer.warn(result, row)
    if result and result.network:
        return result.network
    return checkpoint.networks[0] if checkpoint and len(checkpoint.networks) == 1 else coordinator.gather()


def _select(job: _Job, checkpoint: Checkpoint | None) -> Selection:
    """Chooses P and N, or keeps those of a checkpoint, and shows it."""
    selection = select(job.plan, job.node, _elapsed_s(job.plan, checkpoint))
    if checkpoint:
        selection = selection.keep(checkpoint.cuts)
    selection.write(job.output_dir / "selection.csv")
    job.outputs.text("selector/candidates", selection.text())
    return selection


def _elapsed_s(plan: Plan, checkpoint: Checkpoint | None) -> float:
    """Real seconds that were trained before."""
    return checkpoint.elapsed_s / plan.config.testbed.time_scale if checkpoint else 0.0


def _adapter(job: _Job, selection: Selection, roster: Roster, network: nn.Sequential) -> Adapter:
    """What selects again in the course of the training."""
    config = selection.plan.config
    return Adapter(
        selection, roster, network, config.epochs, config.selector.min_gain, job.outputs.selected_again
    )


def _deploy(
    job: _Job, network: nn.Sequential, checkpoint: Checkpoint | None, stack: ExitStack
) -> tuple[Roster, Progress]:
    """Puts both halves of every device in place, for as long as `stack` lasts."""
    plan, config = job.plan, job.plan.config
    reset_peak_rss()
    deployment = deployed(plan.devices, job.node, network, config.resolved_strategy, checkpoint)
    peers = stack.enter_context(deployment)
    progress = Progress(peers, config.epochs)
    stack.callback(progress.stop)
    counts = [peer.class_counts for peer in peers]
    job.outputs.picture("data/partition", class_counts_figure(counts, plan.devices[0].data.classes))
    leave = {f"device{number}": leaves for number, leaves in config.fault.leave.items()}
    roster = Roster(peers, config.fault.min_devices, leave, progress.refresh, job.outputs.event)
    roster.round = checkpoint.round if checkpoint else 0
    return roster, progress


def _saver(
    job: _Job, coordinator: Coordinator, roster: Roster, adapter: Adapter | None, elapsed_s: float
) -> Saver:
    def plan() -> Plan:
        return adapter.selection.plan if adapter else job.plan

    every = job.plan.config.checkpoint.every
    return Saver(job.folder, every, coordinator, roster, plan, job.rows, job.group, elapsed_s)


def _network(plan: Plan) -> nn.Sequential:
    """The uncut network with its first weights."""
    config, spec = plan.config, plan.devices[0].model
    torch.manual_seed(config.seed)
    network = build_model(spec)
    if config.model.weights is not None:
        strict = config.model.strict_weights
        network.load_state_dict(read_weights(Path(config.model.weights), spec, strict), strict=strict)
    return network


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
    by_device = tuple(evaluator.measure(network, "val") if network else None for network in own)
    progress.stop()
    measured = any(value is not None for value in by_device)
    return {**accuracies, "device_val_accuracy": by_device if measured else None}
