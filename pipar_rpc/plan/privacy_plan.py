"""The privacy mechanisms of a device as plain data, after each has been found possible."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from pipar_rpc.base.errors import ConfigError, UserError, require
from pipar_rpc.learning import Criterion
from pipar_rpc.models import build_model
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.model_plan import Network
from pipar_rpc.plan.schema import Config
from pipar_rpc.privacy.account import noise_for, require_opacus
from pipar_rpc.privacy.check import check_network
from pipar_rpc.privacy.dpsgd import check_alike
from pipar_rpc.privacy.registry import SAMPLES, check_own
from pipar_rpc.privacy.spec import GAUSSIAN, PrivacySpec

MANY = 1000  # classes: more are not looked at
ON_AVERAGE = ("fedavg", "fedavgm", "fedadam", "fedyogi")  # rules that see the devices' average alone
ACTIVATIONS, NOPEEK = "privacy.activations", "privacy.nopeek.weight"


def privacy_of(config: Config, network: Network, split_point: int) -> PrivacySpec:
    """Returns the mechanisms of a device.

    Args:
        config: configuration with the device's own overrides merged in.
        network: network of the job.
        split_point: P; Q where devices hold the whole network.

    Raises:
        UserError: an account cannot be made, or a mechanism does not fit network or samples.
    """
    privacy, whole = config.privacy.spec, config.resolved_strategy.whole_network
    if privacy.dpsgd is not None:
        require_opacus("privacy.dpsgd")
    if privacy.activations is not None and privacy.activations.distribution == GAUSSIAN:
        require_opacus(ACTIVATIONS)
    if privacy.updates is not None:
        require_opacus("privacy.updates")
    if privacy.activations is not None and not whole:
        refuse_batch_norm(network, f"{ACTIVATIONS}: a sample's activation must not depend on others")
    _check_nopeek(privacy, network)
    if privacy.cut is not None:
        with torch.random.fork_rng(devices=[]):
            inputs = network.spec.make_input(SAMPLES, "cpu")
        check_own(privacy.cut, inputs, network.units[split_point - 1].output_shape, privacy.dpsgd is None)
    return privacy


def refuse_batch_norm(network: Network, why: str) -> None:
    """Raises ConfigError if a layer normalises with the statistics of micro-batches.

    Args:
        network: network of the job.
        why: mechanism that does not allow it, and the reason.
    """
    spec = network.spec
    if network.mixes_samples:
        if spec.target is None:
            raise ConfigError("model.norm", spec.norm.value, f"group or none with {why}")
        raise ConfigError("model._target_", spec.target, f"a network without batch norm with {why}")


def _check_nopeek(privacy: PrivacySpec, network: Network) -> None:
    numbers = getattr(torch, network.spec.sample.dtype).is_floating_point
    tokens = f"0 with inputs of type {network.spec.sample.dtype}, whose numbers have no distances"
    require(not privacy.nopeek or numbers, NOPEEK, privacy.nopeek, tokens)
    alone = "0 with privacy.dpsgd: through the distances, one sample could change the gradients of others"
    require(not privacy.nopeek or privacy.dpsgd is None, NOPEEK, privacy.nopeek, alone)


def check_updates(config: Config, network: Network) -> None:
    """Raises UserError if updates are to be protected where none are averaged, or in a way that is not known.

    Args:
        config: checked configuration.
        network: network of the job.
    """
    given, every = config.privacy.updates.noise_multiplier, config.aggregation.every
    if given is None:
        return
    key, rule = "privacy.updates.noise_multiplier", config.aggregation.rule.name
    never = f"null with strategy={config.strategy}, which averages nothing"
    require(not config.resolved_strategy.in_turn, key, given, never)
    require(every != 0, key, given, "null with aggregation.every=0, which averages nothing")
    setting = config.sharing.rpartition(", ")[2]
    shared = f"null with {setting}: all devices train one server half, which is no device's update"
    require(not config.resolved_strategy.shared_half, key, given, shared)
    known = f"{', '.join(ON_AVERAGE)} with privacy.updates: the others' sensitivity to a device is not known"
    require(rule in ON_AVERAGE, "aggregation.rule.name", rule, known)
    refuse_batch_norm(network, "privacy.updates: batch statistics are not part of what is clipped")


def privacy_notices(job: DeviceJob, network: Network) -> list[str]:
    """Lists what the user should know about how a device's mechanisms were understood.

    Args:
        job: job of the device.
        network: network of the job.
    """
    privacy, told = job.privacy, list[str]()
    if privacy.nopeek:
        told.append(_nopeek_notice(job, network))
    if privacy.changes_activations and job.split_point == job.num_units:
        told.append(f"{ACTIVATIONS} and privacy.cut do nothing where devices hold the whole network")
    noise = (privacy.dpsgd, privacy.activations, privacy.updates)
    if not privacy.secure_noise and any(mechanism is not None for mechanism in noise):
        seeded = "noise comes from the seed, so that results can be repeated: for research"
        told.append(f"privacy.secure_noise=false: {seeded}; true for real use")
    return told


def _nopeek_notice(job: DeviceJob, network: Network) -> str:
    if job.split_point == job.num_units:
        return f"{NOPEEK} does nothing where devices hold the whole network"
    if not any(unit.trained for unit in network.units[: job.split_point]):
        return f"{NOPEEK} does nothing: layers 1..{job.split_point} are frozen"
    size = job.batch_size // job.num_micro_batches
    if size <= 2:
        return f"{NOPEEK} does nothing with micro-batches of {size}: the distance correlation is constant"
    return f"{NOPEEK}: the distance correlation is that of micro-batches of {size} samples"


def check_dpsgd(jobs: Sequence[DeviceJob], network: Network, labels: Tensor) -> None:
    """Tries whether network and loss have gradients of single samples, if a device needs them.

    Args:
        jobs: jobs of the devices.
        network: network of the job.
        labels: some labels of the data set, shape [b, ...].

    Raises:
        UserError: one line that names what has none.
    """
    first = next((job for job in jobs if job.privacy.dpsgd is not None), None)
    if first is None:
        return
    if network.mixes_samples:
        mixes = "batch norm mixes the samples of a mini-batch, so that none has a gradient of its own"
        own = first.model.target
        remedy = f"model._target_={own} needs other layers" if own else "choose model.norm=group (or none)"
        raise UserError(f"privacy.dpsgd: {mixes}: {remedy}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made, inputs = build_model(first.model), first.model.make_input(3, "cpu")
    check_network(made, inputs, any(job.privacy.poisson for job in jobs))
    output_shape = network.units[-1].output_shape
    loss, some = first.learning.loss, _of_each_class(labels, output_shape)
    outputs = torch.linspace(-1, 1, len(some) * prod(output_shape)).sin().view(len(some), *output_shape)
    criterion = Criterion(loss)
    check_alike(loss.called, criterion, criterion.count, outputs, some)


def _of_each_class(labels: Tensor, output_shape: tuple[int, ...]) -> Tensor:
    """Labels with every class number, as classes may count differently; the labels where they are none."""
    if labels.is_floating_point() or len(output_shape) != labels.dim():
        return labels
    numbers = torch.arange(min(output_shape[0], MANY), dtype=labels.dtype)
    return numbers.view(-1, *[1] * (labels.dim() - 1)).expand(-1, *labels.shape[1:])


def with_noise(job: DeviceJob, num_samples: int, epochs: int) -> DeviceJob:
    """Finds the noise with which all epochs stay within the device's target; without one, nothing changes.

    Args:
        job: job of the device.
        num_samples: samples that it trains on.
        epochs: number of epochs of the job.

    Raises:
        UserError: no noise is enough.
    """
    spec = job.privacy.dpsgd
    if spec is None or spec.target_epsilon is None:
        return job
    rate = min(1.0, job.batch_size / num_samples)
    steps = epochs * -(-num_samples // job.batch_size)
    noise = noise_for("privacy.dpsgd.target_epsilon", spec.target_epsilon, rate, steps, spec.delta)
    return with_multiplier(job, noise)


def with_multiplier(job: DeviceJob, noise: float | None) -> DeviceJob:
    """Returns the job with this noise of DP-SGD; None for a device without it."""
    if noise is None or job.privacy.dpsgd is None:
        return job
    dpsgd = replace(job.privacy.dpsgd, noise_multiplier=noise)
    return replace(job, privacy=replace(job.privacy, dpsgd=dpsgd))
