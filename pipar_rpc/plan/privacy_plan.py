"""The privacy mechanisms of a device as plain data, after each has been found possible."""

from pipar_rpc.plan.schema import Config
from pipar_rpc.privacy.account import require_opacus
from pipar_rpc.privacy.spec import GAUSSIAN, PrivacySpec


def privacy_of(config: Config) -> PrivacySpec:
    """Returns the mechanisms of a device; raises UserError where an account cannot be made."""
    privacy = config.privacy.spec
    if privacy.dpsgd is not None:
        require_opacus("privacy.dpsgd")
    if privacy.activations is not None and privacy.activations.distribution == GAUSSIAN:
        require_opacus("privacy.activations")
    if privacy.updates is not None:
        require_opacus("privacy.updates")
    return privacy
