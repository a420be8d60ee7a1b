"""The network of a job as plain data, checked against data, weights and aggregation rule."""

from dataclasses import dataclass
from pathlib import Path

from pipar_rpc.aggregation.rules import build_rule
from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.states import num_bytes
from pipar_rpc.data import DataSpec
from pipar_rpc.models import (
    CUSTOM,
    ModelSpec,
    Norm,
    UnitSummary,
    build_meta,
    read_weights,
    smallest_batch,
    summarise,
)
from pipar_rpc.models.freezing import frozen_of, has_batch_statistics
from pipar_rpc.plan.schema import Config


@dataclass(frozen=True)
class Network:
    """What is known of the network before it has weights.

    Attributes:
        spec: the network.
        units: its cut units.
        num_bytes: bytes of parameters and buffers.
        smallest: least number of samples in a micro-batch.
        mixes_samples: whether a layer normalises with the statistics of micro-batches.
        trained_dims: numbers of dimensions that its trained parameters have.
    """

    spec: ModelSpec
    units: list[UnitSummary]
    num_bytes: int
    smallest: int
    mixes_samples: bool
    trained_dims: frozenset[int]

    @property
    def batch_statistics(self) -> bool:
        """Whether it is `model.norm` that has it do so, instead of a network of the user's."""
        return self.mixes_samples and self.spec.norm is Norm.batch and self.spec.name != CUSTOM


def check_model(config: Config, data: DataSpec, num_devices: int) -> Network:
    """Checks that the network accepts samples and weights, and the aggregation rule network and devices."""
    model, spec = config.model, _model_spec(config, data)
    network = build_meta(spec)
    units = summarise(network, spec)
    if not any(unit.trained for unit in units):
        trained = "a function whose network has something to train: no parameter requires a gradient"
        raise ConfigError("model._target_", model._target_, trained)
    build_rule(config.aggregation.rule.spec, network, config.participation.spec.most(num_devices))
    if model.weights is not None:
        read_weights(Path(model.weights), spec, model.strict_weights)
    return Network(
        spec=spec,
        units=units,
        num_bytes=num_bytes(network.state_dict()),
        smallest=smallest_batch(network, spec),
        mixes_samples=has_batch_statistics(network),
        trained_dims=frozenset(weight.dim() for weight in network.parameters() if weight.requires_grad),
    )


def _model_spec(config: Config, data: DataSpec) -> ModelSpec:
    """The network for this data; of what is no image with a class, it gets the shape as it is."""
    model, channels, image_size, given = config.model, data.channels, data.image_size, data.input
    if given is not None:
        channels, image_size = given.shape[:2] if given.is_square_image else (0, 0)
        given = None if given.is_square_image and data.has_classes else given
    sizes = (channels, image_size, data.num_classes or 0)
    return ModelSpec(
        *(model.name, model.norm, *sizes),
        target=model._target_,
        args=model.args,
        freeze=frozen_of(model.freeze),
        input=given,
    )
