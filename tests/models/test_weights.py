"""Files of weights."""

import pytest
import torch

from pipar_rpc.base.errors import ConfigError, UserError
from pipar_rpc.models import (
    ModelSpec,
    Norm,
    build_model,
    read_weights,
)


def spec(**changes) -> ModelSpec:
    values = {"name": "vgg5", "norm": Norm.batch, "channels": 3, "image_size": 32, "num_classes": 10}
    return ModelSpec(**(values | changes))


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "weights.pt"
    other = build_model(spec(num_classes=3)).state_dict()
    torch.save(other, path)
    with pytest.raises(
        UserError, match=r"fc2.weight has shape \(3, 128\), the network's has \(10, 128\); model.str"
    ):
        read_weights(path, spec(), strict=True)
    some = read_weights(path, spec(), strict=False)
    assert some.keys() == other.keys() - {"fc2.weight", "fc2.bias"}
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"model.weights=.+: conv1.0.weight is missing"):
        read_weights(path, spec(), strict=False)
    torch.save({**build_model(spec()).state_dict(), "more": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"model.weights=.+: the network has no more"):
        read_weights(path, spec(), strict=True)


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(ConfigError, match=r"model.weights=.+/none.pt: must be an existing file"):
        read_weights(tmp_path / "none.pt", spec(), strict=True)
    path = tmp_path / "weights.pt"
    for content in (b"", b"no weights", b"PK\x03\x04", b"hello world\n", b"epoch,loss\n", b"\x80\xc8weights"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"not a state dict in torch's format"):
            read_weights(path, spec(), strict=True)
    for named in ({"epoch": 3}, {1: torch.zeros(1), "a": torch.zeros(1)}):
        torch.save(named, path)
        with pytest.raises(UserError, match="not a plain state dict"):
            read_weights(path, spec(), strict=True)
