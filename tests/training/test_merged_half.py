"""One server half for all devices' samples at once: a plain loop over the same samples, to rounding."""

import copy
import itertools
from types import NoneType

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import LostError, UserError
from pipar_rpc.base.microbatch import Part, split_batch
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.learning import LearningSpec, OptimizerSpec
from pipar_rpc.learning.loss import LossSpec
from pipar_rpc.models import CUSTOM, ModelSpec, Norm, build_model, device_layers, server_layers
from pipar_rpc.timing.timeline import Stage
from pipar_rpc.training.merged_half import Merging
from tests.support.coding import coded
from tests.support.loops import OPTIMIZER, assert_close, train_split
from tests.support.merged import CLASSES, Job, server_halves, train_merged, train_plain

pytestmark = pytest.mark.usefixtures("double_precision")

# Last batches of 3, 2 and 7 samples; 3, 4 and 1 iterations: devices drop out of later merged batches.
UNEQUAL = ((23, 10), (14, 4), (7, 7))


def make(norm=Norm.group) -> nn.Sequential:
    torch.manual_seed(0)
    return build_model(ModelSpec("vgg5", norm, channels=3, image_size=8, num_classes=CLASSES))


def dropping() -> nn.Sequential:
    torch.manual_seed(0)
    target = "tests.support.own_network.dropping"
    return build_model(ModelSpec(CUSTOM, Norm.batch, 3, 8, CLASSES, target=target))


def assert_all_close(found, expected):
    for state, reference in zip(found, expected, strict=True):
        assert_close(state, reference, 1e-9)


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 3, 3), (2, 5, 3)], ids=str)
@pytest.mark.parametrize("split_point", [1, 3])
def test_it_is_a_plain_loop_over_the_samples_of_all_devices(counts, split_point):
    """With group norm, where what a device gets is the gradient of its own mean loss."""
    job = Job(UNEQUAL, counts, split_point)
    network = make()
    assert_all_close(train_merged(network, job), train_plain(network, job))


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 3, 3)], ids=str)
def test_batch_norm_sees_the_merged_micro_batches(counts):
    job = Job(UNEQUAL, counts)
    network = make(Norm.batch)
    found = train_merged(network, job)
    assert_all_close(found, train_plain(network, job, mixes=True))
    apart, (name, *_) = train_plain(network, job), server_layers(network, job.split_point).state_dict()
    assert not torch.allclose(found[0][name], apart[0][name], atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_dropout_masks_are_those_of_each_device_s_own_micro_batches(count):
    job = Job(UNEQUAL, (count,) * 3, split_point=1)
    network = dropping()
    assert_all_close(train_merged(network, job), train_plain(network, job))


def test_devices_that_rest_are_not_in_the_merged_batches_of_the_round():
    job = Job(UNEQUAL, (3, 2, 1), rests=[{1}, {0, 2}, set(), {2}])
    network = make()
    assert_all_close(train_merged(network, job), train_plain(network, job))


def test_what_counts_is_what_the_loss_divides_by():
    """Class weights, and labels that are ignored: also of all samples of a micro-batch."""
    loss = LossSpec(args={"weight": [0.5, 2.0, 1.0, 3.0], "ignore_index": 1})
    learning = LearningSpec(OptimizerSpec(**OPTIMIZER), loss=loss)
    job = Job(UNEQUAL, (4, 4, 4), learning=learning, rests=[set()])
    labels = [own.get(1, iteration)[1] for own in job.batches() for iteration in range(len(own))]
    parts = [micro for own in labels for micro in split_batch(own, own, 4, 1, 0)]
    assert any(bool((micro.labels == 1).all()) for micro in parts)
    assert not any(bool((own == 1).all()) for own in labels)
    network = make()
    assert_all_close(train_merged(network, job), train_plain(network, job))


@pytest.mark.parametrize("norm", [Norm.group, Norm.batch])
def test_with_one_device_it_is_that_device_s_own_half_bit_for_bit(norm):
    job, network = Job(((23, 10),), (3,), rests=[set()]), make(norm)
    (own,) = job.batches()
    state, _, _ = train_split(copy.deepcopy(network), own, job.split_point, 3)
    assert_close(train_merged(network, job)[0], state, 0)


def test_each_device_has_its_own_codecs():
    """In the first iteration it gets what it would get of a half of its own."""
    specs = [CodingSpec(CodecSpec("int8"), CodecSpec("int4")), CodingSpec(), CodingSpec(CodecSpec("bf16"))]
    codings = [Coding(spec, 0, index) for index, spec in enumerate(specs)]
    job = Job(((10, 10), (4, 4), (7, 7)), (2, 2, 2), codings=codings, rests=[set()])
    network = make()
    states = train_merged(network, job)
    for index, (spec, own) in enumerate(zip(specs, job.batches(), strict=True)):
        alone, _, _ = train_split(copy.deepcopy(network), own, 2, 2, coding=Coding(spec, 0, index))
        names = device_layers(network, 2).state_dict()
        found, expected = ({name: state[name] for name in names} for state in (states[index], alone))
        assert_close(found, expected, 1e-9)


class Answers:
    """Halves of two devices, and the futures of what they have handed in."""

    def __init__(self, *layers):
        self.merging = Merging()
        job = Job(((4, 4), (4, 4)), (1, 1))
        self.halves = server_halves(copy.deepcopy(nn.Sequential(*layers)), job, self.merging)
        self.futures = []

    def hand_in(self, index, activation, n=1, count=1, iteration=0):
        part, replies = Part(1, iteration, n, count, 1 / count, whole=4.0), []
        sent, labels = coded(activation.clone().requires_grad_()), torch.arange(len(activation)) % 2
        done = self.halves[index].process(part, sent, labels, replies.append)
        self.futures.append(done)
        return replies

    def state(self):
        return copy.deepcopy(self.halves[0].state())


def with_statistics():
    torch.manual_seed(0)
    return nn.BatchNorm1d(4), nn.Linear(4, 2)


def steep():
    """Adds the numbers of a sample up."""
    layer = nn.Linear(4, 2)
    nn.init.ones_(layer.weight)
    return layer


@pytest.mark.parametrize(
    ("layers", "number", "reason"),
    [(with_statistics(), torch.inf, "the activation"), ((steep(),), 1e308, "the loss")],
    ids=["activation", "loss"],
)
def test_a_device_that_diverges_is_refused_and_the_batch_is_that_of_the_others(layers, number, reason):
    layers = [layer.double() for layer in layers]
    both, alone, good = Answers(*layers), Answers(*layers), torch.randn(4, 4)
    replies, none = both.hand_in(0, good), both.hand_in(1, torch.full((4, 4), number))
    both.merging.compute(True)
    expected = alone.hand_in(0, good)
    alone.merging.compute(True)
    assert torch.equal(replies[0].gradient, expected[0].gradient)
    assert replies[0].loss == expected[0].loss
    assert not none
    assert both.futures[0].exception(0) is None
    with pytest.raises(LostError, match=f"{reason} is not finite in epoch 1, iteration 0, micro-batch 1/1"):
        both.futures[1].result(0)
    assert_close(both.state(), alone.state(), 0)


@pytest.mark.parametrize("more", [0, 1], ids=["same N", "another N"])
def test_what_is_in_everybody_s_statistics_ends_the_job(more):
    """A finite activation whose square is not: who it was cannot be told, whoever is the last to send."""
    answers = Answers(*with_statistics())
    before = answers.state()
    for index, number in enumerate((1.0, 1e200)):
        answers.hand_in(index, torch.randn(4, 4) * number, n=1, count=1 + index * more)
    answers.merging.compute(not more)
    if more:
        answers.hand_in(1, torch.randn(4, 4), n=2, count=2)
        answers.merging.compute(True)
    answers.hand_in(0, torch.randn(4, 4), iteration=1)
    answers.merging.compute(True)
    errors = [own.exception(0) for own in answers.futures]
    assert [type(error) for error in errors] == [NoneType if more else UserError] * 2 + [UserError] * (
        1 + more
    )
    assert "micro-batch 1/1: a smaller optimizer.lr may help; the half is that of all devices" in str(
        errors[-1]
    )
    assert_close(answers.state(), before, 0)


def test_an_update_that_fails_when_nobody_is_left_in_it_fails_whoever_comes_next():
    answers = Answers(*with_statistics())
    answers.hand_in(0, torch.randn(4, 4) * 1e200, n=1, count=2)
    answers.merging.compute(False)
    answers.merging.compute(True)  # device 1 has left
    answers.hand_in(1, torch.randn(4, 4), iteration=1)
    answers.merging.compute(True)
    assert isinstance(answers.futures[1].exception(0), UserError)


@pytest.mark.parametrize("follows", [True, False], ids=["another follows", "nothing follows"])
def test_a_device_that_leaves_within_a_mini_batch_leaves_the_batch_with_what_follows(follows):
    """The half is updated all the same, and goes on."""
    answers, good = Answers(*with_statistics()), torch.randn(4, 4)
    states = [answers.state()]
    for index in (0, 1):
        answers.hand_in(index, good, n=1, count=2)
    answers.merging.compute(False)
    replies = answers.hand_in(0, good, n=2, count=2) if follows else [None]
    answers.merging.compute(True)
    states.append(answers.state())
    answers.hand_in(0, good, iteration=1)
    answers.merging.compute(True)
    states.append(answers.state())
    assert len(replies) == 1
    for one, other in itertools.pairwise(state["1.weight"] for state in states):
        assert not torch.equal(one, other)
    assert all(done.exception(0) is None for done in answers.futures)


def test_a_mini_batch_whose_devices_are_all_gone_leaves_no_trace():
    """As if the round in which they were lost had not been: the others go on with the network before it."""
    layers, good = with_statistics(), torch.randn(4, 4)
    gone, never = Answers(*layers), Answers(*layers)
    before = gone.state()
    gone.hand_in(0, good, n=1, count=2)
    gone.merging.compute(False)
    gone.hand_in(0, good, n=2, count=2)
    for own in (gone, never):
        own.halves[1].load(before)
        own.hand_in(1, 2 * good)
        own.merging.compute(True)
    assert_close(gone.state(), never.state(), 0)
    assert not torch.equal(gone.state()["1.weight"], before["1.weight"])


def test_an_error_in_what_they_share_is_told_to_all():
    answers = Answers(nn.Linear(3, 2))
    for index in (0, 1):
        answers.hand_in(index, torch.randn(4, 4))
    answers.merging.compute(True)
    assert all("shapes cannot be multiplied" in str(own.exception(0)) for own in answers.futures)


def test_the_same_span_is_in_the_timeline_of_each_device():
    answers = Answers(*with_statistics())
    for index in (0, 1):
        answers.hand_in(index, torch.randn(4, 4))
    answers.merging.compute(True)
    one, other = (half._timeline.drain() for half in answers.halves)
    assert one == other
    assert [span.stage for span in one] == [Stage.SERVER_FORWARD, Stage.SERVER_BACKWARD, Stage.UPDATE]
