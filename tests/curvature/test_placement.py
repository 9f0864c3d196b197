import math

import pytest
import torch

from optbench.curvature.swapped_parameters import kept, place


def test_tensors_hold_their_own_values_again_bit_for_bit():
    tensors = [torch.tensor([0.1, -0.0, math.nan, math.inf]), torch.tensor(3), torch.full((2, 2), 1e-30)]
    before = [tensor.clone() for tensor in tensors]

    def change():
        with kept(tensors) as saved:
            for tensor in tensors:
                tensor.add_(1)
            assert tensors[1] == 4
            assert saved[1] == 3
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        change()
    for tensor, own in zip(tensors, before, strict=True):
        assert tensor.numpy().tobytes() == own.numpy().tobytes()


def test_a_change_is_seen_by_the_version_and_not_by_the_address():
    parameter = torch.nn.Parameter(torch.ones(3))
    address, version = parameter.data_ptr(), parameter._version
    place([parameter], [torch.zeros(3)])
    assert parameter.tolist() == [0, 0, 0]
    assert parameter.data_ptr() == address
    assert parameter._version > version
    assert parameter.requires_grad


@pytest.mark.parametrize(
    "values", [[torch.zeros(2)], [torch.zeros(2), torch.zeros(1)], [torch.zeros(1), torch.zeros(3)]]
)
def test_what_does_not_fit_is_refused_before_anything_is_written(values):
    tensors = [torch.ones(2), torch.ones(3)]
    with pytest.raises(ValueError, match="cannot take the place"):
        place(tensors, values)
    assert [tensor.tolist() for tensor in tensors] == [[1, 1], [1, 1, 1]]
