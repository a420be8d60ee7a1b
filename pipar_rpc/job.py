"""One job, from its plan to its results: its folder, the checkpoint from which it goes on, its model."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pipar_rpc.aggregation.participation import build_participation
from pipar_rpc.aggregation.rules import build_rule
from pipar_rpc.base.disk import write_whole
from pipar_rpc.base.memory import reset_peak_rss
from pipar_rpc.base.states import State
from pipar_rpc.checkpoints.best_model import BestModel, deciding_samples
from pipar_rpc.checkpoints.file import Checkpoint, CheckpointFolder
from pipar_rpc.checkpoints.replacing import refuse_job
from pipar_rpc.checkpoints.resuming import AUTO, find
from pipar_rpc.checkpoints.saving import saving
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.coordination.aggregation import Aggregator
from pipar_rpc.coordination.coordinator import Coordinator
from pipar_rpc.coordination.deployment import deployed
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.rounds import Start
from pipar_rpc.data import load_held_out, open_source
from pipar_rpc.learning import Criterion
from pipar_rpc.learning.metrics import Metrics
from pipar_rpc.models import build_model, published, read_weights
from pipar_rpc.plan.node import Node
from pipar_rpc.plan.plan import Plan
from pipar_rpc.privacy.updates import protected
from pipar_rpc.privacy_budget import make_ledger, with_noise
from pipar_rpc.results.columns import Row
from pipar_rpc.results.figures import class_counts_figure
from pipar_rpc.results.observer import observing
from pipar_rpc.results.outputs import Outputs
from pipar_rpc.results.run_files import BEST_MODEL, FACTS, MODEL, SELECTION
from pipar_rpc.results.terminal import Progress
from pipar_rpc.selector.reselection import Reselector
from pipar_rpc.selector.selection import Selection, select
from pipar_rpc.training.evaluation import Evaluator
from pipar_rpc.training_loop import TrainingLoop, is_done
from pipar_rpc.transport.rpc_group import Session

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
        plan: plan of the job.
        node: this machine.
        output_dir: folder of results.csv, models, tensorboard/ and checkpoints/; nobody else writes there.
        job: number within a multirun.
        goes_on: whether the job was begun in this folder by a process that has ended.
        group: RPC group of all ranks.
        on_begin: function called when it is certain that the job may write into its folder.
        on_saved: function called whenever a checkpoint or the model is complete.

    Raises:
        RegroupError: a lost device has come back; the job goes on when torchrun has started all ranks again.
        UserError: a device cannot do its part, for a reason the user can mend.
        PeerError: a process failed, or too few devices are left.
    """
    with ExitStack() as stack:
        checkpoint, in_place = find(plan, output_dir, goes_on)
        kept, resume = plan.checkpoints, plan.checkpoints.resume
        if not goes_on and not in_place:
            refuse_job(output_dir, resume == AUTO)
        on_begin()
        rows: list[Row] = list(checkpoint.rows) if checkpoint else []
        outputs = Outputs(output_dir, rows, checkpoint.ends if checkpoint and in_place else None)
        stack.callback(outputs.close)
        folder = CheckpointFolder(output_dir, kept.keep, resume in {None, AUTO}, on_saved, kept.most_bytes)
        if checkpoint:
            outputs.event(f"resumed from {checkpoint.where}", checkpoint.round)
        if checkpoint and not in_place and plan.checkpoints.every:
            folder.save(checkpoint)
        model = output_dir / MODEL
        if checkpoint and is_done(plan.settings, checkpoint.epoch, rows):
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
    start = checkpoint.start(job.plan.settings.time_scale) if checkpoint else Start()
    job = replace(job, plan=with_noise(job.plan, checkpoint))
    _warn(job.plan)
    selection = _select(job, checkpoint, start) if job.plan.selector.profile_iterations else None
    for notice in dict.fromkeys(job.plan.notices + (selection.plan.notices if selection else ())):
        log.info(notice)
    job = replace(job, plan=selection.plan) if selection else job
    plan, settings, outputs = job.plan, job.plan.settings, job.outputs
    network = _network(plan)
    membership, progress = _deploy(job, network, checkpoint, stack)
    membership.round = start.round
    reselector = Reselector(selection, membership, network, outputs.selected_again) if selection else None
    best, ledger = _best_model(job, checkpoint), make_ledger(plan, membership, checkpoint)
    in_turn = settings.strategy.in_turn
    aggregator = _aggregator(plan, network, checkpoint, ledger.clipped)
    model_codec = build_model_codec(plan.devices[0].model_codec, "compression.models")
    participation = build_participation(settings.participation, settings.seed, len(plan.devices))
    coordinator = Coordinator(
        *(membership, settings.aggregation_every, in_turn, settings.device_val, aggregator, model_codec),
        participation,
    )
    loop = TrainingLoop(
        number=job.number,
        first_plan=plan,
        coordinator=coordinator,
        reselector=reselector,
        evaluator=_evaluator(plan, job.node, network, progress),
        observer=stack.enter_context(observing(membership, outputs, job.output_dir, settings, start)),
        saver=stack.enter_context(saving(job.folder, coordinator, job.group, best, ledger, start.elapsed_s)),
        best=best,
        ledger=ledger,
        progress=progress,
        outputs=outputs,
        rows=job.rows,
    )
    if not checkpoint:
        loop.saver.save(start.position, network.state_dict(), plan, job.rows)
    if trained := loop.run(start.position):
        return trained
    return checkpoint.networks[0] if checkpoint and len(checkpoint.networks) == 1 else coordinator.gather()


def _warn(plan: Plan) -> None:
    """Tells of recorded profiles that cannot be trusted, each once."""
    for warning in {device.speed.warning for device in plan.devices} - {None}:
        log.warning(warning)


def _select(job: _Job, checkpoint: Checkpoint | None, start: Start) -> Selection:
    """Chooses P and N, or keeps those of a checkpoint, and shows it."""
    selection = select(job.plan, job.node, start.elapsed_s)
    if checkpoint:
        selection = selection.keep(checkpoint.cuts)
    selection.write(job.output_dir / SELECTION)
    selection.write_facts(job.output_dir / FACTS)
    job.outputs.text("selector/candidates", selection.text())
    return selection


def _aggregator(
    plan: Plan,
    network: nn.Sequential,
    checkpoint: Checkpoint | None,
    on_clipped: Callable[[int, int], None],
) -> Aggregator:
    """Makes the global network by the job's rule, which goes on from what a checkpoint remembers."""
    settings, privacy = plan.settings, plan.devices[0].privacy
    in_round = settings.participation.most(len(plan.devices))
    rule = build_rule(settings.aggregation_rule, network, in_round)
    rule = protected(rule, privacy, settings.seed, network, in_round, on_clipped)
    rule.load(checkpoint.rule if checkpoint else {})
    return Aggregator(rule, checkpoint.networks[0] if checkpoint else network.state_dict())


def _best_model(job: _Job, checkpoint: Checkpoint | None) -> BestModel:
    """The best network, which a checkpoint brings into the job's folder."""
    path, spec = job.output_dir / BEST_MODEL, job.plan.devices[0].model
    return BestModel(path, spec, deciding_samples(job.plan), checkpoint.best if checkpoint else {})


def _deploy(
    job: _Job, network: nn.Sequential, checkpoint: Checkpoint | None, stack: ExitStack
) -> tuple[Membership, Progress]:
    """Puts both halves of every device in place, for as long as `stack` lasts."""
    plan, faults = job.plan, job.plan.faults
    reset_peak_rss()
    beginning = (checkpoint.beginnings, checkpoint.iteration) if checkpoint else ()
    deployment = deployed(plan.devices, job.node, network, plan.settings.strategy, *beginning)
    handles = stack.enter_context(deployment)
    progress = Progress(handles, plan.settings.epochs)
    stack.callback(progress.stop)
    counts = [handle.class_counts for handle in handles]
    classes = plan.devices[0].told_classes or ("all",)
    job.outputs.picture("data/partition", class_counts_figure(counts, classes))
    membership = Membership(handles, faults.min_devices, faults.leave, progress.refresh, job.outputs.event)
    return membership, progress


def _network(plan: Plan) -> nn.Sequential:
    """The uncut network with its first weights."""
    settings, spec = plan.settings, plan.devices[0].model
    torch.manual_seed(settings.seed)
    network = build_model(spec)
    if settings.weights is not None:
        strict = settings.strict_weights
        network.load_state_dict(read_weights(settings.weights, spec, strict), strict=strict)
    return network


def _evaluator(plan: Plan, node: Node, network: nn.Sequential, progress: Progress) -> Evaluator:
    """For validation and test samples; without those that are switched off."""
    first, settings = plan.devices[0], plan.settings
    val, test = load_held_out(open_source(first.data, node.data_root, node.download), first.data)
    wanted = {"val": settings.val or settings.device_val, "test": settings.test}
    sets = {
        name: samples for name, samples in (("val", val), ("test", test)) if wanted[name] and len(samples)
    }
    criterion, metrics = Criterion(first.learning.loss, node.device), Metrics(settings.metrics)
    return Evaluator(network, sets, first.transform, node.device, criterion, metrics, progress.evaluated)
