"""The input factor of a convolution from correlations, against the patches that F.unfold lays out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench.optimizers.kronecker.correlations import correlates, input_factor
from optbench.optimizers.kronecker.layers import find_layers


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 3, 1, 4), (2, 3, 3, 1), (2, 2, 2, 2), (5, 1, 1, 1), (1, 2, 7, 3)])
def test_it_is_the_second_moment_of_the_patches(shape, ones):
    images = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    patches = F.unfold(images, 3, padding=1).transpose(1, 2).reshape(-1, 9 * shape[1])
    if ones:
        patches = F.pad(patches, (0, 1), value=1)
    torch.testing.assert_close(input_factor(images, ones), patches.T @ patches, rtol=1e-13, atol=1e-13)


def convolution(**options):
    return nn.Conv2d(4, 4, **({"kernel_size": 3, "padding": 1} | options))


@pytest.mark.parametrize(
    ("module", "holds"),
    [
        (convolution(), True),
        (convolution(padding="same"), True),
        (convolution(bias=False), True),
        (convolution(padding=0), False),
        (convolution(padding="valid"), False),
        (convolution(stride=2), False),
        (convolution(dilation=2, padding=2), False),
        (convolution(groups=2), False),
        (convolution(kernel_size=5, padding=2), False),
        (convolution(kernel_size=1, padding=0), False),
        (convolution(padding_mode="circular"), False),
        (nn.Linear(4, 4), False),
    ],
    ids=str,
)
def test_the_convolutions_that_it_holds_for(module, holds):
    [layer], _ = find_layers(nn.Sequential(module))
    assert correlates(layer, torch.zeros(8, 4, 6, 6), 8) == holds


def test_few_pixels_for_many_channels_are_laid_out_as_patches():
    [layer], _ = find_layers(nn.Sequential(convolution()))
    assert correlates(layer, torch.zeros(4, 4, 2, 2), 4)
    assert not correlates(layer, torch.zeros(3, 4, 2, 2), 3)
