"""When a training has nothing left to do."""

from types import SimpleNamespace

import pytest

from pipar_rpc.aggregation.participation import ParticipationSpec
from pipar_rpc.results.rows import targets_line
from pipar_rpc.training_loop import TrainingLoop, has_reached, is_done

BOTH = {"val_accuracy": 0.5, "test_accuracy": 0.75}


@pytest.mark.parametrize(
    ("row", "targets", "reached"),
    [
        ({"val_accuracy": 1.0, "test_accuracy": 1.0}, {}, False),
        ({"val_accuracy": 0.5, "test_accuracy": 0.75}, BOTH, True),
        ({"val_accuracy": 1.0, "test_accuracy": 0.7}, BOTH, False),
        ({"val_accuracy": None, "test_accuracy": 1.0}, BOTH, False),
        ({"test_accuracy": 0.0}, {"test_accuracy": 0.5}, False),
        ({"test_accuracy": 0.5}, {"test_accuracy": 0.5}, True),
    ],
)
def test_all_accuracies_that_are_given_must_be_reached_in_one_epoch(row, targets, reached):
    assert has_reached(row, targets) is reached


def test_a_job_is_done_after_its_epochs_or_with_the_first_that_has_reached_them():
    rows = [{"test_accuracy": value} for value in (0.5, 0.75, 0.25)]
    for until, last in (({}, 5), ({"test_accuracy": 0.75}, 2), ({"test_accuracy": 0.9}, 5)):
        settings = SimpleNamespace(epochs=5, until=until)
        done = [is_done(settings, epoch, rows[: epoch - 1]) for epoch in range(1, 7)]
        assert done == [epoch > last for epoch in range(1, 7)]


def test_what_was_reached_is_told_as_the_keys_say_it():
    assert targets_line(BOTH) == "until.val_accuracy=0.5 reached, until.test_accuracy=0.75 reached"


def test_the_share_that_takes_part_is_of_those_that_could_be_chosen():
    """Of four devices one is lost and another has nothing left; of the user's policy nothing is known."""
    handles = [SimpleNamespace(iterations=count) for count in (4, 4, 2)]
    loop = SimpleNamespace(
        first_plan=SimpleNamespace(settings=SimpleNamespace(participation=ParticipationSpec(0.5))),
        coordinator=SimpleNamespace(membership=SimpleNamespace(handles=handles)),
    )

    def share(start, trained):
        done = SimpleNamespace(round=SimpleNamespace(start=start), uploads=dict.fromkeys(range(trained)))
        return TrainingLoop._participation(loop, done)

    assert (share(0, 2), share(2, 1), share(2, 2), share(4, 1)) == (2 / 3, 1 / 2, 1.0, 1 / 3)
    assert share(0, 4) == 1.0  # more were there when it began
    loop.first_plan.settings.participation = ParticipationSpec(target="mine.Policy")
    assert share(0, 1) == 1.0
