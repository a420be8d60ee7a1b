"""Codecs by name and of the user's own: what is wrong is one line."""

import pytest

from pipar_rpc.base.errors import UserError
from pipar_rpc.compression.int8 import Int8
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.compression.registry import CodecSpec, build_codec
from tests.support.codecs import WithRole

KEY = "compression.activations"
OWN = "tests.support.codecs"


def build(name="custom", target=None, **args):
    return build_codec(CodecSpec(name, target, args), KEY, "activations")


def build_model(name="custom", target=None, **args):
    return build_model_codec(CodecSpec(name, target, args), "compression.models")


def test_the_default_is_none():
    assert CodecSpec() == CodecSpec("none", None, {})


def test_own_codecs_get_their_arguments_and_the_role():
    codec = build_codec(CodecSpec("custom", f"{OWN}.WithRole", {"level": 3}), KEY, "gradients")
    assert isinstance(codec, WithRole)
    assert (codec.role, codec.level) == ("gradients", 3)


def test_own_codecs_may_be_ours():
    assert isinstance(build(target="pipar_rpc.compression.int8.Int8"), Int8)


@pytest.mark.parametrize(("given", "line"), [
    ({"name": "int9"}, f"{KEY}.name=int9: must be one of none, bf16, int8, int4, topk"),
    ({"name": "topk", "ratoi": 1}, f"{KEY}.args.ratoi: no such argument of topk: did you mean ratio?"),
    ({"name": "int8", "role": "gradients"}, f"{KEY}.args.role: no such argument of int8: it has none"),
    ({"name": "topk", "ratio": 0}, f"{KEY}.args.ratio=0: must be above 0 and at most 1"),
    ({"name": "topk", "ratio": 1.1}, f"{KEY}.args.ratio=1.1: must be above 0 and at most 1"),
    ({"name": "topk", "ratio": "x"}, f"{KEY}.args.ratio=x: must be above 0 and at most 1"),
    ({"name": "topk", "ratio": True}, f"{KEY}.args.ratio=True: must be above 0 and at most 1"),
    ({"name": "topk", "random_share": -0.1}, f"{KEY}.args.random_share=-0.1: must be in 0..1"),
    ({"name": "topk", "random_share": None}, f"{KEY}.args.random_share=null: must be in 0..1"),
    ({"target": "nowhere.Codec"}, f"{KEY}._target_=nowhere.Codec: must be the dotted name of a function"),
    ({"target": f"{OWN}.WithRole", "leve": 3}, f"{KEY}._target_={OWN}.WithRole failed: TypeError:"),
    ({"target": "pathlib.Path"}, "a codec, with the methods num_bytes, encode and decode, not PosixPath"),
    ({"target": f"{OWN}.Longer"}, "uint8 of shape [num_bytes] = [480], not torch.uint8 of shape [481]"),
    ({"target": f"{OWN}.Floats"}, "is uint8 of shape [num_bytes] = [480], not torch.float32 of"),
    ({"target": f"{OWN}.Flat"}, "to torch.float32 of shape [4, 3, 5, 2], not torch.float32 of shape [120]"),
    ({"target": f"{OWN}.Centred"}, "a codec, that codes each sample independently of the others"),
    ({"target": f"{OWN}.Broken"}, f"{KEY}._target_={OWN}.Broken failed: RuntimeError: no such table"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(given, line):
    with pytest.raises(UserError) as error:
        build(**given)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("given", "line"), [
    ({"name": "topk"}, "compression.models.name=topk: must be one of none, bf16, int8"),
    ({"name": "int8", "x": 1}, "compression.models.args.x: no such argument of int8: it has none"),
    ({"target": "pathlib.Path"}, "a codec, with needs_base, num_bytes, encode and decode, not PosixPath"),
    ({"target": f"{OWN}.LongerModel"}, "whose payload has the 68 bytes of num_bytes, not 72"),
    ({"target": f"{OWN}.HalfModel"}, "that decodes to the names, shapes and types that were encoded"),
    ({"target": f"{OWN}.BaselessModel"}, "failed: TypeError: 'NoneType' object is not subscriptable"),
])  # fmt: skip
def test_what_is_wrong_with_a_codec_of_networks_is_one_line(given, line):
    with pytest.raises(UserError) as error:
        build_model(**given)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
