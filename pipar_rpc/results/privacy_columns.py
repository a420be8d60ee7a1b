"""The columns of results.csv about what privacy mechanisms have given away so far."""

from functools import partial

from pipar_rpc.results.column import Column

_epsilon = partial(Column, devices="each", digits=3)
SINCE = "since the training began, at the delta of the configuration; empty without the mechanism"

PRIVACY = (
    Column(
        "clipped_share",
        "share of the gradients of single samples that `privacy.dpsgd` clipped, each half's by itself, "
        "over all devices; empty without it",
        "0..1",
        "privacy/clipped_share",
        digits=4,
    ),
    _epsilon("epsilon_dpsgd", f"epsilon of the model towards a sample {SINCE}", tag="privacy/epsilon_dpsgd"),
    _epsilon(
        "epsilon_activations",
        f"epsilon of a sample's activations towards the server {SINCE}",
        tag="privacy/epsilon_activations",
    ),
    _epsilon(
        "epsilon_updates", f"epsilon of the model towards a device {SINCE}", tag="privacy/epsilon_updates"
    ),
    Column(
        "updates_clipped",
        "share of the devices' updates that `privacy.updates` clipped; empty without it",
        "0..1",
        "privacy/updates_clipped",
        digits=4,
    ),
    Column(
        "privacy",
        "privacy mechanisms that are on, and `labels` where these stay on the device; `none`, or a single "
        "value if all have the same",
        devices="each",
        hparam="setting",
        figure=False,
    ),
)
