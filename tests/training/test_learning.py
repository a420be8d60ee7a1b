"""Any loss, optimiser and schedule on two halves equals the same in a plain loop, for every cut and any N."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from pipar_rpc.learning import LearningSpec, LossSpec, OptimizerSpec, ScheduleSpec
from pipar_rpc.models import ModelSpec, Norm, build_model
from tests.support.loops import assert_close, make_batches, train_split

pytestmark = pytest.mark.usefixtures("double_precision")

EPOCHS, SPLIT = 2, 2
WEIGHTS = [0.5, 3.0, 1.0, 2.0]
ADAMW = OptimizerSpec("adamw", lr=0.003, weight_decay=0.1, momentum=0)
SGD = OptimizerSpec(lr=0.05, weight_decay=0.01)


def network():
    torch.manual_seed(0)
    return build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=4))


def batches():
    """24 samples: two batches of 10 and one of 4."""
    return make_batches(24, image_size=8, num_classes=4, batch_size=10)


def train_plain(make_optimizer, loss, make_schedule=None, by_epoch=True, before_step=lambda halves: None):
    """One network in one loop; the optimiser sees it whole."""
    whole, data = network(), batches()
    optimizer = make_optimizer(whole)
    schedule = make_schedule(optimizer) if make_schedule else None
    for epoch in range(1, EPOCHS + 1):
        for iteration in range(len(data)):
            images, labels = data.get(epoch, iteration)
            optimizer.zero_grad()
            loss(whole(images), labels).backward()
            before_step((whole[:SPLIT], whole[SPLIT:]))
            optimizer.step()
            if schedule and not by_epoch:
                schedule.step()
        if schedule and by_epoch:
            schedule.step()
    return whole.state_dict()


def check(learning, plain, split_points=(SPLIT,), numbers=(1, 3, 10)):
    for point in split_points:
        for number in numbers:
            state, _, _ = train_split(network(), batches(), point, number, learning=learning, epochs=EPOCHS)
            assert_close(state, plain, tolerance=1e-9)


def adamw(whole):
    return torch.optim.AdamW(whole.parameters(), lr=0.003, weight_decay=0.1)


def test_adamw_with_cosine_and_label_smoothing():
    learning = LearningSpec(
        ADAMW,
        ScheduleSpec("cosine", args={"T_max": 5, "eta_min": 1e-4}, by_epoch=False),
        LossSpec(args={"label_smoothing": 0.1}),
    )
    cosine = partial(lr_scheduler.CosineAnnealingLR, T_max=5, eta_min=1e-4)
    plain = train_plain(adamw, nn.CrossEntropyLoss(label_smoothing=0.1), cosine, by_epoch=False)
    check(learning, plain, split_points=(1, 3, 5))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_and_ignored_labels_count_over_the_whole_mini_batch(smoothing):
    """Weighted by samples instead, micro-batches give something else."""
    loss = nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), ignore_index=2, label_smoothing=smoothing)
    plain = train_plain(adamw, loss)
    args = {"weight": WEIGHTS, "ignore_index": 2, "label_smoothing": smoothing}
    check(LearningSpec(ADAMW, loss=LossSpec(args=args)), plain)


def test_micro_batches_in_which_nothing_counts_contribute_nothing():
    """All labels but one class are ignored, so that most micro-batches of one sample are empty."""

    class OneClass(nn.Module):
        def forward(self, outputs, labels):
            kept = torch.where(labels == 1, labels, -100)
            return nn.functional.cross_entropy(outputs, kept)

        @staticmethod
        def count(labels):
            return int((labels == 1).sum())

    plain = train_plain(adamw, OneClass())
    globals()["OneClass"] = OneClass
    custom = LossSpec("custom", f"{__name__}:OneClass")
    check(LearningSpec(ADAMW, loss=custom), plain)


def test_weights_alone_decay():
    def two_groups(whole):
        decaying = [weight for weight in whole.parameters() if weight.dim() >= 2]
        others = [weight for weight in whole.parameters() if weight.dim() < 2]
        groups = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.5)

    optimizer = OptimizerSpec(lr=0.05, weight_decay=0.5, decay_all=False)
    schedule = ScheduleSpec("exponential", args={"gamma": 0.5})
    plain = train_plain(two_groups, nn.CrossEntropyLoss(), partial(lr_scheduler.ExponentialLR, gamma=0.5))
    check(LearningSpec(optimizer, schedule), plain)


def sgd(whole):
    return torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)


def test_gradients_are_clipped_in_each_half():
    def clip(halves):
        for half in halves:
            nn.utils.clip_grad_value_(half.parameters(), 0.02)
            nn.utils.clip_grad_norm_(half.parameters(), 0.1)

    optimizer = OptimizerSpec(lr=0.05, weight_decay=0.01, clip_norm=0.1, clip_value=0.02)
    plain = train_plain(sgd, nn.CrossEntropyLoss(), before_step=clip)
    check(LearningSpec(optimizer), plain)
    unclipped = train_plain(sgd, nn.CrossEntropyLoss())
    assert not torch.allclose(plain["conv1.0.weight"], unclipped["conv1.0.weight"], atol=1e-4)


def test_fedprox_pulls_towards_the_network_that_was_handed_out():
    origin = copy.deepcopy(network())

    def pull(halves):
        first = dict(origin.named_parameters())
        for half in halves:
            for name, weight in half.named_parameters():
                weight.grad += 0.7 * (weight.detach() - first[name].detach())

    plain = train_plain(sgd, nn.CrossEntropyLoss(), before_step=pull)
    check(LearningSpec(OptimizerSpec(lr=0.05, weight_decay=0.01, proximal_mu=0.7)), plain)
    free = train_plain(sgd, nn.CrossEntropyLoss())
    assert not torch.allclose(plain["conv1.0.weight"], free["conv1.0.weight"], atol=1e-4)
