"""A rank that holds devices, or a further server: without Hydra, matplotlib and TensorBoard.

They would cost it time and memory.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace

from pipar_rpc import this_machine
from pipar_rpc.base.ranks import DEVICE, World
from pipar_rpc.plan import load as configuration
from pipar_rpc.transport import rpc_group
from pipar_rpc.transport.rendezvous import Meeting

log = logging.getLogger("pipar_rpc")

NODE = "node"  # what rank 0 keeps for the others: node keys of the configuration's files
SERVERS = "num_servers"  # and the number of server ranks and the kind of the others, which name all
KIND = "kind"


def assist(arguments: Sequence[str], world: World) -> int:
    """A rank of devices or a further server: waits for what rank 0 places here until it is dismissed."""
    config = configuration.parse_node(arguments)
    meeting = Meeting.from_environment(world.rank, config.timeout_s)
    if meeting is not None:
        config = configuration.parse_node(arguments, json.loads(meeting.expect(NODE)))
        meeting.timeout_s = config.timeout_s
    told = configuration.given(arguments, SERVERS) if meeting is None else meeting.expect(SERVERS)
    kind = DEVICE if meeting is None else meeting.expect(KIND)
    world = replace(world, num_servers=int(told or 1), kind=kind)
    local = this_machine.prepare(config, world)
    listening = this_machine.bind(config, world)
    if meeting is not None and not meeting.attend():
        log.info("the training has ended without this rank")
        return 0
    with rpc_group.join(world, local, config.timeout_s, meeting, listening) as group:
        return group.serve()
