"""The networks, each a sequence of cut units: unit q may end the device half for any q in 1..Q.

A network is an `nn.Sequential` of its units, so slicing cuts it: `network[:P]` is the device half and
`network[P:]` the server half. Slices keep the units' names, so the two state dicts together are the state
dict of the uncut network.

`python -m pipar_rpc.models` lists the units of each network.
"""

from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.models.cut import build_device_layers, device_layers, server_layers
from pipar_rpc.models.dropout import DropoutStreams, seed_dropout
from pipar_rpc.models.norm import Norm
from pipar_rpc.models.registry import (
    ALIASES,
    MODELS,
    build_meta,
    build_model,
    published,
    read_weights,
)
from pipar_rpc.models.spec import ModelSpec
from pipar_rpc.models.summary import (
    UnitSummary,
    held_bytes,
    output_shape,
    smallest_batch,
    summarise,
    table,
)

__all__ = [
    "ALIASES",
    "CUSTOM",
    "MODELS",
    "DropoutStreams",
    "ModelSpec",
    "Norm",
    "UnitSummary",
    "build_device_layers",
    "build_meta",
    "build_model",
    "device_layers",
    "held_bytes",
    "output_shape",
    "published",
    "read_weights",
    "seed_dropout",
    "server_layers",
    "smallest_batch",
    "summarise",
    "table",
]
