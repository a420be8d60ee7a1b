"""Split training with codecs against a plain loop that applies the same quantisers at the cut."""

import copy

import pytest
import torch
from torch.nn import functional as F

from pipar_rpc.base.errors import LostError, UserError
from pipar_rpc.base.microbatch import split_batch
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.models import DropoutStreams, ModelSpec, Norm, build_model
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.server_half import ServerHalf
from tests.support.coding import PART
from tests.support.loops import CPU, LEARNING, OPTIMIZER, assert_close, make_batches, train_split

TOPK = CodecSpec("topk", args={"ratio": 0.2, "random_share": 0.3})
PAIRS = {
    "bf16": CodingSpec(CodecSpec("bf16"), CodecSpec("bf16")),
    "int8": CodingSpec(CodecSpec("int8"), CodecSpec("int8")),
    "int4": CodingSpec(CodecSpec("int4"), CodecSpec("int4")),
    "topk": CodingSpec(TOPK, TOPK),
    "mixed": CodingSpec(TOPK, CodecSpec("int8")),
    "gradients only": CodingSpec(gradients=CodecSpec("int4")),
}


def train_quantised(network, batches, split_point, num_micro_batches, coding):
    """A plain loop of the two halves, whose values at the cut are replaced by what a codec makes of them."""
    halves = network[:split_point], network[split_point:]
    optimizers = [torch.optim.SGD(half.parameters(), **OPTIMIZER) for half in halves]
    for iteration in range(len(batches)):
        images, labels = batches.get(1, iteration)
        for part, x, y, _ in split_batch(images, labels, num_micro_batches, 1, iteration):
            activation = halves[0](x)
            sent = coding.encode_activation(part, activation)
            decoded = coding.decode_activation(sent, CPU).clone().requires_grad_()
            (F.cross_entropy(halves[1](decoded), y) * part.weight).backward()
            payload = coding.encode_gradient(part, sent, decoded.grad)
            activation.backward(coding.decode_gradient(sent, payload, CPU))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return network.state_dict()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("codecs", PAIRS)
@pytest.mark.parametrize("split_point", [1, 3])
def test_split_training_equals_a_plain_loop_with_the_same_quantisers_for_every_n(codecs, split_point):
    torch.manual_seed(0)
    network = build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10))
    batches = make_batches(20, 8, 10, batch_size=9)  # the last batch has 2
    coding = Coding(PAIRS[codecs], seed=3, rank=1)
    reference = train_quantised(copy.deepcopy(network), batches, split_point, 1, coding)
    for num_micro_batches in (1, 2, 4, 9):
        own = copy.deepcopy(network)
        state, _, _ = train_split(own, batches, split_point, num_micro_batches, coding=coding)
        assert_close(state, reference, 1e-9)


def test_a_codec_changes_the_training():
    """The tests above would pass if nothing were quantised at all."""
    torch.manual_seed(0)
    network = build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10))
    batches = make_batches(10, 8, 10, batch_size=10)
    plain, _, _ = train_split(copy.deepcopy(network), batches, 1, 2)
    for codecs in PAIRS.values():
        coded, _, _ = train_split(copy.deepcopy(network), batches, 1, 2, coding=Coding(codecs))
        assert any(not torch.equal(plain[name], coded[name]) for name in plain)


@pytest.mark.parametrize("codecs", PAIRS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_device_that_diverges_is_noticed_through_every_codec(codecs, wrong):
    """Its server half is left as it was, and the error says what it was."""
    torch.manual_seed(0)
    layers = build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10))[1:]
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    coding = Coding(PAIRS[codecs])
    server = ServerHalf(layers, LEARNING, DropoutStreams(layers, 0, 1), coding, CPU, Timeline())
    activation = torch.randn(4, 32, 4, 4)
    activation[2, 3, 1, 1] = wrong
    sent = coding.encode_activation(PART, activation.requires_grad_())
    with pytest.raises(LostError, match="the loss is nan"):
        server.process(PART, sent, torch.arange(4), lambda result: pytest.fail("an answer"))
    assert all(torch.equal(value, before[name]) for name, value in server.state().items())


def test_gradients_that_are_not_finite_arrive_so():
    """Whatever becomes of them, the device's weights are not finite then, and its next model is refused."""
    for codecs in PAIRS.values():
        coding = Coding(codecs)
        sent = coding.encode_activation(PART, torch.randn(2, 3, 8, requires_grad=True))
        for wrong in (float("nan"), float("-inf")):
            gradient = torch.full((2, 3, 8), wrong)
            payload = coding.encode_gradient(PART, sent, gradient)
            assert not coding.decode_gradient(sent, payload, CPU).isfinite().all()


def test_a_codec_that_says_another_size_is_named():
    coding = Coding(CodingSpec(CodecSpec("custom", "tests.support.codecs.Sometimes")))
    with pytest.raises(
        UserError, match=r"compression\.activations: its encode made 33 bytes where .* says 32"
    ):
        coding.encode_activation(PART, torch.full((2, 4), 7.0))


def test_gradients_at_the_activations_places_take_their_ratio():
    other = CodecSpec("topk", args={"ratio": 0.1})
    line = r"compression\.gradients\.args\.ratio=0\.1: must be 0\.2 as of activations"
    with pytest.raises(UserError, match=line):
        Coding(CodingSpec(TOPK, other))


@pytest.mark.parametrize("codecs", [*PAIRS, "none"])
def test_what_a_unit_has_transposed_is_coded_as_its_values_are(codecs):
    """The outputs of a language model's head, for one; the gradient comes back in the same layout."""
    coding = Coding(PAIRS.get(codecs, CodingSpec()))
    values = torch.randn(1, 8, 5).transpose(1, 2)  # of one sample: reshaping it does not copy
    assert not values.is_contiguous()
    sent, same = (coding.encode_activation(PART, x.requires_grad_()) for x in (values, values.contiguous()))
    assert torch.equal(sent.payload, same.payload)
    payloads = [coding.encode_gradient(PART, sent, x.detach()) for x in (values, values.contiguous())]
    assert torch.equal(*payloads)
