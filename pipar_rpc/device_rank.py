"""A rank that is a device: without Hydra, matplotlib and TensorBoard, which would cost it time and memory."""

import json
import logging
from collections.abc import Sequence

from pipar_rpc import this_machine
from pipar_rpc.base.ranks import World
from pipar_rpc.plan import load as configuration
from pipar_rpc.transport import rpc_group
from pipar_rpc.transport.rendezvous import Meeting

log = logging.getLogger("pipar_rpc")

NODE = "node"  # what the server keeps for the devices: node keys of the configuration's files


def assist(arguments: Sequence[str], world: World) -> int:
    """A device rank: waits for what rank 0 places here until it is dismissed."""
    config = configuration.parse_node(arguments)
    meeting = Meeting.from_environment(world.rank, config.timeout_s)
    if meeting is not None:
        config = configuration.parse_node(arguments, json.loads(meeting.expect(NODE)))
        meeting.timeout_s = config.timeout_s
    local = this_machine.prepare(config, world)
    listening = this_machine.bind(config, world)
    if meeting is not None and not meeting.attend():
        log.info("the training has ended without this device")
        return 0
    with rpc_group.join(world.rank, world.size, local, config.timeout_s, meeting, listening) as group:
        return group.serve()
