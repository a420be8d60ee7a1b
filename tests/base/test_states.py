"""Model states."""

import pytest
import torch

from pipar_rpc.base.cores import WORTH, on_cores
from pipar_rpc.base.states import copied, is_finite, num_bytes


def test_num_bytes():
    assert num_bytes({"a": torch.zeros(3, 2), "b": torch.tensor(1)}) == 24 + 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_number_that_is_not_finite_is_found_and_a_large_sum_is_none(dtype):
    most = torch.finfo(dtype).max
    state = {"a": torch.full((WORTH,), most, dtype=dtype), "b": torch.tensor(3), "c": torch.empty(0)}
    assert is_finite(state)
    for wrong in (float("nan"), float("inf"), -float("inf")):
        state["a"][WORTH // 2] = wrong
        assert not is_finite(state)
        assert not is_finite({"b": state["b"], "a": state["a"][WORTH // 2 : WORTH // 2 + 2]})


def test_a_copy_stays_as_it_is():
    state = {"a": torch.ones(WORTH), "b": torch.tensor(3)}
    copy = copied(state)
    state["a"].zero_()
    assert list(copy) == ["a", "b"]
    assert copy["a"].eq(1).all()
    assert copy["b"] == 3


def test_calls_on_several_cores_give_their_results_in_order_or_the_first_error():
    assert on_cores(lambda number: number**2, range(50)) == [number**2 for number in range(50)]

    def fail(number):
        if number in {3, 7}:
            raise ValueError(number)

    with pytest.raises(ValueError, match="3"):
        on_cores(fail, range(50))
