"""The plan of a run that has ended, from the config.yaml in its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipar_rpc.base.errors import UserError, first_line
from pipar_rpc.plan.load import node_of, one_line
from pipar_rpc.plan.node import Node, prepare
from pipar_rpc.plan.plan import Plan, make_plan
from pipar_rpc.plan.same_training import CONTENT
from pipar_rpc.plan.schema import Config
from pipar_rpc.privacy.spec import GAUSSIAN, PrivacySpec


@dataclass(frozen=True)
class Protection:
    """What a run's devices did to each sample's activation before it left: clipped it and added noise.

    Attributes:
        max_norm: largest L2 norm of a sample's activation; None if nothing was clipped.
        noise: standard deviation of the noise as a multiple of `max_norm`.
    """

    max_norm: float | None = None
    noise: float = 0.0


@dataclass(frozen=True)
class FinishedRun:
    """What a run was.

    Attributes:
        plan: plan of its job.
        node: this machine, as the run's `node` keys say.
        protection: what its devices did to activations.
        tail_units: number of last units that stay on the device where labels do.
    """

    plan: Plan
    node: Node
    protection: Protection
    tail_units: int


def read_finished(path: Path, overrides: Sequence[str]) -> FinishedRun:
    """Reads a configuration as a run has written it, and sets torch up as the run's server did.

    Args:
        path: the run's config.yaml.
        overrides: keys with other values, `key=value`.

    Raises:
        UserError: one line about what is wrong with the file, a key or the data.
    """
    stored = _stored(path, overrides)
    OmegaConf.update(stored, "model.weights", None)  # the run's own weights count
    if isinstance(stored.get("partition"), DictConfig):
        stored.partition.pop(CONTENT.rpartition(".")[2], None)  # it is no key of the user's
    try:
        raw = OmegaConf.merge(OmegaConf.structured(Config), stored)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {one_line(error)}") from error
    assert isinstance(raw, DictConfig)
    node = prepare(node_of(raw), None, 0)
    plan = make_plan(raw, (raw.num_devices or 1) + raw.num_servers, node.data_root, one_machine=False)
    return FinishedRun(plan, node, protection_of(plan.devices[0].privacy), int(raw.pipeline.tail_units))


def _stored(path: Path, overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        if "=" not in override.strip("="):
            raise UserError(f"{override}: must be key=value, with a key of the run's configuration")
    try:
        stored = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
    except (OSError, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from error
    assert isinstance(stored, DictConfig)
    return stored


def protection_of(privacy: PrivacySpec) -> Protection:
    """What `privacy.activations` does; nothing where it is off.

    Raises:
        UserError: it is noise of another kind.
    """
    own = privacy.activations
    if own is None:
        return Protection()
    if own.distribution != GAUSSIAN:
        raise UserError(
            f"privacy.activations.distribution={own.distribution}: only gaussian noise can be measured; "
            "privacy.activations.noise_multiplier=null leaves the run's noise out"
        )
    return Protection(own.max_norm, own.noise_multiplier)
