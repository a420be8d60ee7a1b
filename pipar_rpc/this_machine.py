"""What every rank does on its machine before it joins the others."""

import logging

from pipar_rpc.base.memory import keep_freed_memory
from pipar_rpc.base.ranks import World
from pipar_rpc.plan.node import Node
from pipar_rpc.plan.node import prepare as prepare_node
from pipar_rpc.plan.node_schema import NodeConfig
from pipar_rpc.transport import network_access


def prepare(config: NodeConfig, world: World) -> Node:
    """Begins the log, and takes threads, device and data root from the node's keys."""
    keep_freed_memory()
    form = f"[%(asctime)s][rank {world.rank} {world.name}][%(levelname)s] %(message)s"
    logging.basicConfig(level=logging.INFO, format=form)
    return prepare_node(config, world.device, world.local_rank)


def bind(config: NodeConfig, world: World) -> network_access.Binding:
    """Has RPC listen on one interface; returns where."""
    return network_access.bind(
        config.interface, world.one_machine, config.trusted_network, config.allow_public
    )
