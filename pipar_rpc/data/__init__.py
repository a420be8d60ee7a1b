"""Data sets: what each process loads, and the mini-batches that a device trains on."""

from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.data.batches import Batches, Transform
from pipar_rpc.data.held_out import split_held_out
from pipar_rpc.data.partition import PARTITIONS, digest, partition, read_indices
from pipar_rpc.data.registry import (
    PUBLISHED,
    SOURCES,
    describe,
    load_held_out,
    load_train_part,
    open_source,
    some_labels,
)
from pipar_rpc.data.roots import overlapping, whereabouts
from pipar_rpc.data.samples import Images, Samples
from pipar_rpc.data.spec import (
    OWN,
    DataSpec,
    DataSummary,
    MissingDataError,
    Partition,
    Source,
    Split,
)

__all__ = [
    "CUSTOM",
    "OWN",
    "PARTITIONS",
    "PUBLISHED",
    "SOURCES",
    "Batches",
    "DataSpec",
    "DataSummary",
    "Images",
    "MissingDataError",
    "Partition",
    "Samples",
    "Source",
    "Split",
    "Transform",
    "describe",
    "digest",
    "load_held_out",
    "load_train_part",
    "open_source",
    "overlapping",
    "partition",
    "read_indices",
    "some_labels",
    "split_held_out",
    "whereabouts",
]
