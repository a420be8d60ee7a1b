"""A job's privacy budget: the noise that keeps it, and the account of what has been spent."""

import logging

from pipar_rpc.checkpoints.file import Checkpoint
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.plan.plan import Plan
from pipar_rpc.privacy.ledger import Account, Ledger
from pipar_rpc.selector.profiling import count_samples

log = logging.getLogger(__name__)


def with_noise(plan: Plan, checkpoint: Checkpoint | None) -> Plan:
    """Keeps the noise of a checkpoint, or finds it where devices have a target epsilon instead."""
    if not plan.lacks_noise:
        return plan
    if checkpoint and checkpoint.noise:
        return plan.keep_noise(checkpoint.noise)
    plan = plan.with_noise(count_samples(plan.devices))
    found = ", ".join("-" if own is None else f"{own:.4g}" for own in plan.noise)
    log.info("privacy.dpsgd.target_epsilon: noise multipliers of the devices: %s", found)
    return plan


def make_ledger(plan: Plan, membership: Membership, checkpoint: Checkpoint | None) -> Ledger:
    """The account of what the devices' data is exposed to, which a checkpoint has begun."""
    ledger = Ledger(
        [
            Account(
                privacy=device.privacy,
                sample_rate=min(1.0, device.batch_size / max(1, handle.num_samples)),
                iterations=max(1, handle.iterations),
            )
            for device, handle in zip(plan.devices, membership.everyone, strict=True)
        ]
    )
    ledger.load(checkpoint.exposed if checkpoint else [])
    return ledger
