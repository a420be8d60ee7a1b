"""Data sets: what each process loads, and the mini-batches that a device trains on."""

from pipar_rpc.data.batches import Batches, Transform
from pipar_rpc.data.held_out import split_held_out
from pipar_rpc.data.partition import OWN, PARTITIONS, digest, partition, read_indices
from pipar_rpc.data.registry import PUBLISHED, SOURCES, load_held_out, load_train_part, open_source
from pipar_rpc.data.roots import overlapping, whereabouts
from pipar_rpc.data.spec import DataSpec, DataSummary, Images, MissingDataError, Partition, Source

__all__ = [
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
    "Source",
    "Transform",
    "digest",
    "load_held_out",
    "load_train_part",
    "open_source",
    "overlapping",
    "partition",
    "read_indices",
    "split_held_out",
    "whereabouts",
]
