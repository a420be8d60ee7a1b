"""What launch.gpu compares, on the CPU."""

import pytest
import torch

from launch.gpu import difference
from launch.gpu_halves import compare
from tests.support.commands import run_here
from tests.support.loops import CPU


@pytest.mark.skipif(bool(torch.cuda.device_count()), reason="needs a machine without a GPU")
def test_without_a_gpu_there_is_one_line():
    done = run_here("launch.gpu")
    assert (done.code, done.out) == (2, "")
    assert done.err == "launch.gpu: error: there is no GPU here that torch can use\n"


def test_the_plain_loop_does_what_the_halves_do():
    found = compare("vgg5", 2, batch_size=6, num_micro_batches=3, iterations=1, device=CPU)
    assert [difference(*both) for both in zip(found.plain, found.halves, strict=True)] == [0, 0]
    assert difference(found.plain[0], found.plain[1]) > 0.01
    assert min(found.plain_s, found.halves_s) > 0
    assert (found.allocated, found.reserved) == (0, 0)


def test_a_difference_is_a_part_of_the_largest_weight():
    one = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor(3)}
    assert difference(one, {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor(3)}) == 0.25
    lost = {"a": torch.tensor([float("nan"), -4.0]), "b": torch.tensor(3)}
    assert difference(one, lost) != difference(one, lost)
