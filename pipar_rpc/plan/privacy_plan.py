"""The privacy mechanisms of a device as plain data, after each has been found possible."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from pipar_rpc.base.errors import UserError
from pipar_rpc.learning import Criterion
from pipar_rpc.models import build_model
from pipar_rpc.models.freezing import has_batch_statistics
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.schema import Config
from pipar_rpc.privacy.account import noise_for, require_opacus
from pipar_rpc.privacy.check import check_network
from pipar_rpc.privacy.dpsgd import check_alike
from pipar_rpc.privacy.spec import GAUSSIAN, PrivacySpec

MANY = 1000  # classes: more are not looked at


def privacy_of(config: Config) -> PrivacySpec:
    """Returns the mechanisms of a device; raises UserError where an account cannot be made."""
    privacy = config.privacy.spec
    if privacy.dpsgd is not None:
        require_opacus("privacy.dpsgd")
    if privacy.activations is not None and privacy.activations.distribution == GAUSSIAN:
        require_opacus("privacy.activations")
    if privacy.updates is not None:
        require_opacus("privacy.updates")
    return privacy


def check_dpsgd(jobs: Sequence[DeviceJob], output_shape: tuple[int, ...], labels: Tensor) -> None:
    """Tries whether network and loss have gradients of single samples, if a device needs them.

    Args:
        jobs: jobs of the devices.
        output_shape: shape of the network's output for one sample.
        labels: some labels of the data set, shape [b, ...].

    Raises:
        UserError: one line that names what has none.
    """
    first = next((job for job in jobs if job.privacy.dpsgd is not None), None)
    if first is None:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, inputs = build_model(first.model), first.model.make_input(3, "cpu")
    if has_batch_statistics(network):
        mixes = "batch norm mixes the samples of a mini-batch, so that none has a gradient of its own"
        raise UserError(f"privacy.dpsgd: {mixes}: choose model.norm=group (or none)")
    check_network(network, inputs, any(job.privacy.poisson for job in jobs))
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
