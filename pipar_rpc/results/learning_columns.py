"""The columns of results.csv about what is minimised and how, and what it gives on held-out samples."""

from functools import partial

from pipar_rpc.results.column import Column

CONFIGURED = "name from the configuration"
HELD_OUT = (("val", "validation"), ("test", "test"))
_name = partial(Column, hparam="setting", figure=False)

LEARNING = (
    *(_name(what, CONFIGURED) for what in ("optimizer", "schedule", "loss")),
    Column("learning_rate", "rate of the last iteration", "", "train/learning_rate", devices="mean"),
    *(
        Column(f"{name}_loss", f"mean loss of the global network on {long} samples", "", f"{name}/loss")
        for name, long in HELD_OUT
    ),
    Column(
        "coded_test_accuracy",
        "`test_accuracy` with activations coded or noised at the cut, as in training; empty where they cross "
        "as they are, or where devices differ in cut, codecs or mechanisms",
        "0..1",
        "accuracy/test_coded",
        digits=4,
    ),
    Column("devices_trained", "devices that trained in it", tag="devices/trained", devices="sum"),
    *(
        Column(
            f"{name}_metrics",
            f"`metrics.*` of {long} samples: `name=value;...`",
            "",
            f"{name}/metric",
            figure=False,
        )
        for name, long in HELD_OUT
    ),
)
