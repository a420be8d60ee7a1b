"""DeadlineSpec that allow for what is emulated."""

from tests.support.configuration import plan


def test_deadlines_allow_for_the_emulated_transfers():
    deadlines = [job.timeout_s for job in plan("fault.timeout_s=10", "num_devices=1").devices]
    activation_s = 3_276_800 * 8 * (1 / 10e6 + 1 / 25e6)
    assert deadlines[0] > 10 + activation_s
