"""Names in TensorBoard for what is not a column of results.csv, and what the steps of all names count."""

LOSS = "train/loss_by_iteration"
THROUGHPUT = "network_by_second"  # a group: link and device follow in the name
EVENTS = "devices/events"
CHANGES = "selector/changes"
CANDIDATES = "selector/candidates"
PARTITION = "data/partition"
CONFUSION = "test/confusion"

# What steps count, by the beginnings of names; all others count epochs.
STEPS = {LOSS: "iteration", f"{THROUGHPUT}/": "second", EVENTS: "round", CHANGES: "round"}
REPEATED = ("hparam/", "_hparams_/", PARTITION, CANDIDATES)  # every start of a training writes them
