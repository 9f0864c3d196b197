"""FLOPs of operations that torch's counter does not know, or counts wrongly: leading terms of m x n and n x n matrices.

    Cholesky factor         n³/3            inverse from it         2n³/3           solution from it, k columns     2n²k
    inverse                 2n³             LU factors              2n³/3           linear system, k columns        2n³/3 + 2n²k
    triangular system       n²k             QR with thin Q          4mn² - 4n³/3    symmetric eigenvalues, vectors  9n³
    singular values and vectors             4m²n + 8mn² + 9n³

Sources: Golub & Van Loan 2013, "Matrix computations", 4th edition, sections 3.1, 3.2, 4.2, 5.2, 8.3 and 8.6; for the Cholesky
factor and the inverses also appendix C of Blackford & Dongarra 1999, "Installation guide for LAPACK" (LAPACK working note 41).

The backward pass of a convolution: torch's formula ignores groups in the gradient of the kernel, which it overestimates by
their number. Both gradients take the operations of the forward pass. Products of a matrix with a vector (2mn), and
products that are added in place, which torch leaves out.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import conv_flop_count

Shape = Sequence[int]
aten = torch.ops.aten


def _of_square(leading: Callable[[int], int]) -> Callable[..., int]:
    """A formula of the size n of a batch of square matrices, the first argument."""

    def flops(matrices: Shape, *arguments: Any, **keywords: Any) -> int:
        return prod(matrices[:-2]) * leading(matrices[-1])

    return flops


def _of_system(leading: Callable[[int, int], int], matrix: int, right: int) -> Callable[..., int]:
    """A formula of n and k, for the places of the matrix and of the right-hand sides (n, k), or (n), among the arguments."""

    def flops(*arguments: Any, **keywords: Any) -> int:
        size = arguments[matrix][-1]
        return leading(size, prod(arguments[right]) // size)

    return flops


def _qr(matrices: Shape, *arguments: Any, **keywords: Any) -> int:
    large, small = sorted(matrices[-2:], reverse=True)
    return prod(matrices[:-2]) * (4 * large * small**2 - 4 * small**3 // 3)


def _svd(matrices: Shape, *arguments: Any, **keywords: Any) -> int:
    large, small = sorted(matrices[-2:], reverse=True)
    return prod(matrices[:-2]) * (4 * large**2 * small + 8 * large * small**2 + 9 * small**3)


def _matrix_vector(matrix: Shape, *arguments: Any, **keywords: Any) -> int:
    return 2 * prod(matrix)


def _added_matrix_vector(added: Shape, matrix: Shape, *arguments: Any, **keywords: Any) -> int:
    return 2 * prod(matrix)


def _added_product(added: Shape, first: Shape, second: Shape, *arguments: Any, **keywords: Any) -> int:
    return 2 * prod(first) * second[-1]


def _convolution_backward(
    grad_output: list[int],
    inputs: list[int],
    kernel: list[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    output_mask: Sequence[bool],
    **keywords: Any,
) -> int:
    gradients = sum(map(bool, output_mask[:2]))
    return gradients * int(conv_flop_count(inputs, kernel, grad_output, transposed))


# For `FlopCounterMode(custom_mapping=...)`: the counter passes shapes in place of tensors.
FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mv: _matrix_vector,
    aten.addmv: _added_matrix_vector,
    aten.addmv_: _added_matrix_vector,
    aten.addmm_: _added_product,
    aten.baddbmm_: _added_product,
    aten.addbmm: _added_product,
    aten.convolution_backward: _convolution_backward,
    aten.linalg_cholesky_ex: _of_square(lambda n: n**3 // 3),
    aten.cholesky: _of_square(lambda n: n**3 // 3),
    aten.cholesky_inverse: _of_square(lambda n: 2 * n**3 // 3),
    aten.cholesky_solve: _of_system(lambda n, k: 2 * n**2 * k, matrix=1, right=0),
    aten.linalg_inv_ex: _of_square(lambda n: 2 * n**3),
    aten.linalg_lu_factor_ex: _of_square(lambda n: 2 * n**3 // 3),
    aten._linalg_solve_ex: _of_system(lambda n, k: 2 * n**3 // 3 + 2 * n**2 * k, matrix=0, right=1),
    aten.linalg_solve_triangular: _of_system(lambda n, k: n**2 * k, matrix=0, right=1),
    aten._linalg_eigh: _of_square(lambda n: 9 * n**3),
    aten.linalg_qr: _qr,
    aten._linalg_svd: _svd,
}
