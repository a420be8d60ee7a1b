"""Times that cannot be true."""

from types import SimpleNamespace

from pipar_rpc.results import throughput


def test_times_that_cannot_be_true_are_told_once(caplog):
    watch = throughput.Watch(time_scale=10)
    row = {"epoch_time_s": 100.0, "server_idle_s": 92.0}
    for _ in range(2):
        watch.check(SimpleNamespace(late=[0.0, 0.2, 0.04]), row)
    slow, server = (record.getMessage() for record in caplog.records)
    assert "too slow to emulate 3 devices: computing for device2 took 20% longer" in slow
    assert "testbed.time_scale=10" in server
    assert "8% of the epoch" in server
    throughput.Watch(1).check(SimpleNamespace(late=[0.05]), {"epoch_time_s": 100.0, "server_idle_s": 50.0})
    assert len(caplog.records) == 2
