"""The input factor of a 3 x 3 convolution from correlations of its input images, without laying out their patches.

The factor is made of blocks, one for each pair of places i, j in {-1, 0, 1}^2 under the kernel. With images x (channels, H, W)
that are 0 outside, and sums over the images and over the locations p of the outputs, which are those of the inputs,

    block(i, j) = sum_p x[p + i] x[p + j]^T = sum_q x[q] x[q + j - i]^T,   q = p + i.

But for the range of q, it depends on the shift d = j - i only: of the 81 blocks, 25 differ, and as that of -d is the transpose of
that of d, 15 correlations S(d) make them all. They are what a convolution's backward pass computes for its weights. The range
of q lacks the image's first row for i = (1, .), the last one for (-1, .), and columns likewise. The missing terms are 0 but
where the row (or the column) of i and j is the same, so that the correlations of the first and last rows and columns, each with
itself, correct the sum; corners were then taken away twice, and are added again.

In multiplications this is 15 C^2 for each pixel, in place of 40.5 C^2 for half of the symmetric product of the patches, and no
patches, which are 9 times as large as the images, pass through memory. Source of the factor: Grosse & Martens 2016 (arXiv
1602.01407); the identity is the autocorrelation form of their Omega without their assumption of spatial homogeneity.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optbench.optimizers.kronecker.layers import Layer

_PLACES = (-1, 0, 1)


# With fewer pixels in all images for each channel, putting the blocks together takes longer than the patches do.
_PIXELS = 4


def correlates(layer: Layer, images: Tensor, examples: int) -> bool:
    """True if `input_factor` of ``images`` holds for ``layer`` and is the faster way.

    It holds for 3 x 3 convolutions of stride 1 whose outputs are as large as their inputs.
    """
    module = layer.module
    return (
        isinstance(module, nn.Conv2d)
        and len(images) == examples
        and examples * images[0, 0].numel() >= _PIXELS * images.shape[1]
        and layer.groups == 1
        and tuple(module.kernel_size) == (3, 3)
        and tuple(module.stride) == tuple(module.dilation) == (1, 1)
        and module.padding in ((1, 1), "same")
        and module.padding_mode == "zeros"
    )


def input_factor(images: Tensor, ones: bool) -> Tensor:
    """The sum over images (examples, channels, rows, columns) and locations of a a^T, (size, size).

    a is the patch under the kernel in the order (channel, row, column) of the weight, with a 1 at its end for ``ones``.
    """
    channels = images.shape[1]
    edges = {-1: -1, 1: 0}  # the row or column that is missing for this place
    whole = _correlations(images, (2, 2))
    rows = {place: _correlations(images[:, :, [at]], (0, 2)) for place, at in edges.items()}
    columns = {place: _correlations(images[:, :, :, [at]], (2, 0)) for place, at in edges.items()}
    corners = {
        (row, column): (corner := images[:, :, edges[row], edges[column]]).T @ corner
        for row in edges
        for column in edges
    }
    size = 9 * channels
    factor = images.new_empty(size + ones, size + ones)
    # The features of a patch are in the order (channel, row, column) of the weight.
    by_place = factor[:size, :size].unflatten(1, (channels, 3, 3)).unflatten(0, (channels, 3, 3))
    blocks = images.new_empty(3, 3, channels, channels)
    for row, column in itertools.product(_PLACES, repeat=2):
        for other_row, other_column in itertools.product(_PLACES, repeat=2):
            down, right = other_row - row, other_column - column
            block = blocks[other_row + 1, other_column + 1]
            block.copy_(_at(whole, down, right))
            if row == other_row != 0:
                block -= _at(rows[row], 0, right)
            if column == other_column != 0:
                block -= _at(columns[column], down, 0)
                if row == other_row != 0:
                    block += corners[row, column]
        by_place[:, row + 1, column + 1].copy_(blocks.permute(2, 3, 0, 1))
    if ones:
        factor[-1, :-1] = factor[:-1, -1] = _patch_sums(images, edges)
        factor[-1, -1] = images.shape[0] * images.shape[2] * images.shape[3]
    return factor


def _correlations(images: Tensor, reach: tuple[int, int]) -> Tensor:
    """sum_q x[c, q] x[c', q + d] for shifts d = (down, right) with 0 <= down <= reach[0] and |right| <= reach[1].

    Shape (down, right, c, c'); right = 0 is in the middle.
    """
    down, right = reach
    channels = images.shape[1]
    shifted = F.pad(images, (right, right, 0, down))
    weight = images.new_empty(channels, channels, down + 1, 2 * right + 1)
    _, found, _ = torch.ops.aten.convolution_backward(
        images, shifted, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )
    correlations: Tensor = found.permute(2, 3, 0, 1).contiguous()
    return correlations


def _at(correlations: Tensor, down: int, right: int) -> Tensor:
    middle = correlations.shape[1] // 2
    if down < 0:
        return correlations[-down, middle - right].T
    return correlations[down, middle + right]


def _patch_sums(images: Tensor, edges: dict[int, int]) -> Tensor:
    """The sum of the patches over images and locations, (9 channels,)."""
    sums = images.sum(0)
    found = images.new_empty(len(sums), 3, 3)
    for row, column in itertools.product(_PLACES, repeat=2):
        total = sums.sum((1, 2))
        if row:
            total = total - sums[:, edges[row]].sum(1)
        if column:
            total = total - sums[:, :, edges[column]].sum(1)
        if row and column:
            total = total + sums[:, edges[row], edges[column]]
        found[:, row + 1, column + 1] = total
    return found.flatten()
