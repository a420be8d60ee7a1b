"""The rate of a step, from its number alone."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from pipar_rpc.base.errors import UserError
from pipar_rpc.learning import OptimizerSpec, ScheduleSpec
from pipar_rpc.learning.schedule import Schedule

SGD = OptimizerSpec(lr=0.4)
TORCH = "torch.optim.lr_scheduler"


def rates(spec, count, optimizer=SGD):
    schedule = Schedule(spec, optimizer)
    return [schedule.at(epoch=step + 1, step=step)[0]["lr"] for step in range(count)]


def torchs(make, count, lr=0.4):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler, found = make(optimizer), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_named_schedules_are_torchs():
    for name, make, args in (
        ("cosine", lr_scheduler.CosineAnnealingLR, {"T_max": 6}),
        ("step", lr_scheduler.StepLR, {"step_size": 2}),
        ("multistep", lr_scheduler.MultiStepLR, {"milestones": [1, 4], "gamma": 0.5}),
        ("exponential", lr_scheduler.ExponentialLR, {"gamma": 0.9}),
    ):
        assert rates(ScheduleSpec(name, args=args), 7) == torchs(lambda o, m=make, a=args: m(o, **a), 7)


def test_a_schedule_of_schedules_as_hydras_users_write_it():
    args = {
        "schedulers": [
            {"_target_": f"{TORCH}.ConstantLR", "factor": 0.5, "total_iters": 2},
            {"_target_": f"{TORCH}.ExponentialLR", "gamma": 0.9},
        ],
        "milestones": [2],
    }

    def plain(optimizer):
        parts = [
            lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2),
            lr_scheduler.ExponentialLR(optimizer, gamma=0.9),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])

    assert rates(ScheduleSpec("custom", f"{TORCH}.SequentialLR", args), 6) == torchs(plain, 6)


def test_other_options_are_scheduled_too():
    """OneCycleLR turns the momentum as well, and begins below the optimiser's own rate."""
    spec = ScheduleSpec("custom", f"{TORCH}.OneCycleLR", {"max_lr": 1.0, "total_steps": 8}, by_epoch=False)
    schedule = Schedule(spec, SGD)
    found = [schedule.at(1, step)[0] for step in (0, 2, 7)]
    assert found[0]["lr"] < found[1]["lr"] > found[2]["lr"]
    assert found[0]["momentum"] > found[1]["momentum"] < found[2]["momentum"]


def test_warm_up_rises_in_equal_steps_and_the_schedule_begins_after_it():
    spec = ScheduleSpec("exponential", args={"gamma": 0.5}, warmup=3)
    assert rates(spec, 6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.2, 0.1])
    assert rates(ScheduleSpec(warmup=1), 3) == pytest.approx([0.2, 0.4, 0.4])


def test_it_may_be_asked_in_any_order():
    spec = ScheduleSpec("exponential", args={"gamma": 0.5}, by_epoch=False)
    schedule = Schedule(spec, SGD)
    assert [schedule.at(9, step)[0]["lr"] for step in (3, 0, 2)] == pytest.approx([0.05, 0.4, 0.1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ScheduleSpec("cosine", args={"T_mx": 1}), "schedule.args.T_mx: no such argument of cosine"),
        (ScheduleSpec("cosine"), "schedule.args of cosine: "),
        (ScheduleSpec("custom", f"{TORCH}.Nope"), f"schedule._target_={TORCH}.Nope: must be the dotted name"),
        (ScheduleSpec("custom", "builtins.dict"), "must be the class of an LRScheduler"),
        (
            ScheduleSpec("custom", f"{TORCH}.ReduceLROnPlateau"),
            "must be the class of an LRScheduler that needs no measurement",
        ),
    ],
)
def test_wrong_schedules_give_one_line(spec, message):
    with pytest.raises(UserError) as caught:
        Schedule(spec, SGD)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
