import math
from itertools import pairwise

import pytest
import torch

from optbench.data import curves


def casteljau(control, u):
    """A point of a Bezier curve by repeated interpolation."""
    while len(control) > 1:
        control = [[(1 - u) * a + u * b for a, b in zip(p, q, strict=True)] for p, q in pairwise(control)]
    return control[0]


@pytest.mark.parametrize("degree", [2, 3])
def test_bezier(degree):
    control = torch.rand(4, degree + 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = curves.bezier(control, 11)
    expected = [[casteljau(part, sample / 10) for sample in range(11)] for part in control.tolist()]
    torch.testing.assert_close(points, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


def test_rasterize_by_hand():
    image = curves.rasterize(torch.tensor([[[3.0, 5.0], [10.25, 7.5]]]))[0, 0].tolist()
    assert image[5][3] == 255
    # 1/4 to the right of column 10, half-way between rows 7 and 8: 3/4 * 1/2 and 1/4 * 1/2 of 255.
    assert [image[7][10], image[8][10], image[7][11], image[8][11]] == [96, 96, 32, 32]
    assert sum(map(sum, image)) == 255 + 96 + 96 + 32 + 32


def test_rasterize_against_a_loop():
    points = curves.bezier(2 + 23 * torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(1)), 40)
    images = curves.rasterize(points)
    for image, line in zip(images[:, 0], points.tolist(), strict=True):
        for row in range(28):
            for column in range(28):
                intensity = max(max(0, 1 - abs(column - x)) * max(0, 1 - abs(row - y)) for x, y in line)
                assert abs(int(image[row, column]) - 255 * intensity) < 0.51


def test_samples_leave_no_gap():
    # The fastest cubic curve: the largest distance of neighbouring samples stays below a pixel.
    side = 27 - 2 * curves.MARGIN
    control = torch.tensor([[[0, 0], [side, side], [side, side], [side, side]]])
    points = curves.bezier(control, curves.SAMPLES)[0]
    assert max(math.dist(p, q) for p, q in pairwise(points.tolist())) < 0.8


@pytest.mark.parametrize("degree", [2, 3])
def test_load(degree):
    raw = curves.load("nowhere", examples=50, validation=20, degree=degree, train_limit=30)
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [30, 20, 10000]
    assert raw.spec.shape == (1, 28, 28)
    assert raw.spec.target == "none"
    assert raw.train.targets is None
    assert raw.train.inputs.dtype == torch.uint8
    lit = (raw.test.inputs > 127).flatten(1).sum(dim=1)
    assert lit.min() >= 1  # every image has a curve,
    assert lit.max() < 120  # and no more than one
    again = curves.load("nowhere", examples=50, validation=20, degree=degree)
    assert torch.equal(again.train.inputs[:30], raw.train.inputs)
    assert torch.equal(again.test.inputs, raw.test.inputs)
