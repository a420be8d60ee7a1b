"""The configuration keys that decide about weights: they must stay the same for a training to go on."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipar_rpc.base.nested import by_dotted_keys
from pipar_rpc.data import digest
from pipar_rpc.plan.schema import Config

SAME = (
    "strategy",
    "sfl",
    "model",
    "data",
    "partition",
    "num_devices",
    "batch_size",
    "aggregation",
    "participation",
    "compression",
    "privacy",
    "optimizer",
    "loss",
    "seed",
)
MAY_DIFFER = ("model.weights", "model.strict_weights", "partition.path", "data.max_decoded_mb")
KIND_OF_OPTIMIZER = ("optimizer.name", "optimizer._target_")  # its settings may change on the way
CONTENT = "partition.content"  # content of the file of partition=file, which counts instead of its path
OWN = ("batch_size", "data", "compression", "privacy")  # of these, each device may have its own


def deciding_keys(config: Config, own: Sequence[Config], indices: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Returns the values that decide about weights, by key.

    P, N and the optimiser's settings are not among them: they may change.

    Args:
        config: configuration of the job.
        own: configuration of each device.
        indices: content of the partition file; empty without one.
    """
    common = {
        key: value
        for key, value in flat(dataclasses.asdict(config), SAME).items()
        if not key.startswith("optimizer.") or key in KIND_OF_OPTIMIZER
    }
    if config.partition.name == "file":
        common[CONTENT] = digest(indices)
    if config.resolved_strategy.shared_half:  # nothing moves between one half and the halves of many
        common["pipeline.labels"] = config.pipeline.labels.value
        if config.pipeline.labels_stay:
            common["pipeline.tail_units"] = config.pipeline.tail_units
    shared = flat(dataclasses.asdict(config), OWN)
    for number, device in enumerate(own, start=1):
        if device is config:
            continue
        single = flat(dataclasses.asdict(device), OWN)
        differing = {key for key in single.keys() | shared.keys() if single.get(key) != shared.get(key)}
        common |= {f"devices.overrides.{number}.{key}": single.get(key) for key in sorted(differing)}
    return common


def flat(config: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Returns plain values by dotted keys, without those that may differ.

    Args:
        config: whole configuration.
        keys: names of the sections that count.
    """
    values = by_dotted_keys({name: config[name] for name in keys})
    return {
        key: json.loads(json.dumps(value, default=str))
        for key, value in values.items()
        if key not in MAY_DIFFER
    }


DEFAULTS = flat(dataclasses.asdict(Config()), (*SAME, "pipeline"))
"""Default values of these keys: they stand in for keys that an old checkpoint does not know."""
