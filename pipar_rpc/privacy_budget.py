"""A job's privacy budget: the account of what has been spent."""

from pipar_rpc.checkpoints.file import Checkpoint
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.plan.plan import Plan
from pipar_rpc.privacy.ledger import Account, Ledger


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
