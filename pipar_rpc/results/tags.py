"""Names in TensorBoard of what is not a column of results.csv, and what their steps count."""

LOSS = "train/loss_by_iteration"
THROUGHPUT = "network_by_second"  # a group: the link and the device follow
EVENTS = "devices/events"
CHANGES = "selector/changes"
CANDIDATES = "selector/candidates"
PARTITION = "data/partition"

# By how names begin; all others count epochs.
STEPS = {LOSS: "iteration", f"{THROUGHPUT}/": "second", EVENTS: "round", CHANGES: "round"}
REPEATED = ("hparam/", "_hparams_/", PARTITION, CANDIDATES)  # every part of a training writes them
