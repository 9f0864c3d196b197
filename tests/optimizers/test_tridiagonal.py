from itertools import pairwise

import pytest
import torch

from optbench.optimizers.tridiagonal import KroneckerDifference, TridiagonalInverse, inverse_square_root

DTYPE = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=DTYPE)


def second_moments(generator, sizes, damping):
    """Of one random vector cut into ``sizes``: the damped blocks of the diagonal, and the blocks beside it."""
    rows = normal(generator, 40, sum(sizes)) @ normal(generator, sum(sizes), sum(sizes))
    parts = (rows / 40**0.5).split(list(sizes), dim=1)
    diagonal = [part.T @ part + damping * torch.eye(part.shape[1], dtype=DTYPE) for part in parts]
    beside = [one.T @ other for one, other in pairwise(parts)]
    return diagonal, beside


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def chain(generator):
    """A_i, A_{i,i+1}, G_i, G_{i,i+1} of layers of different shapes."""

    def of(count):
        inputs = second_moments(generator, (4, 3, 2, 5)[:count], 0.3)
        outputs = second_moments(generator, (2, 4, 3, 3)[:count], 0.1)
        return inputs, outputs

    return of


def solver(a, b, c=None, d=None):
    return KroneckerDifference((inverse_square_root(a), c), (inverse_square_root(b), d))


def inverse_of(inputs, outputs):
    return TridiagonalInverse(inputs[0], outputs[0], inputs[1], outputs[1])


def dense(inverse, shapes):
    """The matrix whose columns are the products with unit vectors; vec stacks the columns of each layer's matrix."""
    sizes = [rows * columns for rows, columns in shapes]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=DTYPE):
        matrices = [part.view(c, r).T for part, (r, c) in zip(unit.split(sizes), shapes, strict=True)]
        columns.append(torch.cat([product.T.reshape(-1) for product in inverse.multiply(matrices)]))
    return torch.stack(columns, dim=1)


def blocks_of(chain):
    """The blocks A_{i,j} (x) G_{i,j} with |i - j| <= 1, by (i, j)."""
    (a, a_next), (g, g_next) = chain
    blocks = {(i, i): torch.kron(a[i], g[i]) for i in range(len(a))}
    for i in range(len(a_next)):
        blocks[i, i + 1] = torch.kron(a_next[i], g_next[i])
        blocks[i + 1, i] = blocks[i, i + 1].T
    return blocks


def shapes_of(chain):
    return [(len(g), len(a)) for a, g in zip(chain[0][0], chain[1][0], strict=True)]


def test_a_kronecker_difference_is_solved(generator):
    a, b = (second_moments(generator, (size,), 0.1)[0][0] for size in (4, 3))
    c, d = 0.9 * a - 0.05 * torch.eye(4, dtype=DTYPE), 0.5 * b
    right_hand_side = normal(generator, 3, 4)
    solution = solver(a, b, c, d).solve(right_hand_side)
    torch.testing.assert_close(b @ solution @ a - d @ solution @ c, right_hand_side, rtol=1e-10, atol=1e-10)
    solution = solver(a, b).solve(right_hand_side)
    torch.testing.assert_close(b @ solution @ a, right_hand_side, rtol=1e-10, atol=1e-10)


def test_a_singular_kronecker_difference_stays_finite():
    a = torch.eye(2, dtype=DTYPE)
    solution = solver(a, a, a, a).solve(a)
    torch.testing.assert_close(solution, 1e8 * a)


def test_two_layers_are_solved_exactly(chain):
    matrices = chain(2)
    blocks = blocks_of(matrices)
    fisher = torch.cat([torch.cat([blocks[i, j] for j in range(2)], dim=1) for i in range(2)])
    found = dense(inverse_of(*matrices), shapes_of(matrices))
    torch.testing.assert_close(found, torch.linalg.inv(fisher), rtol=1e-10, atol=1e-10)


def test_the_inverse_is_tridiagonal_and_its_inverse_has_the_given_blocks(chain):
    """The two properties that define the approximation (Martens & Grosse 2015, section 4.3)."""
    matrices = chain(4)
    sizes = [rows * columns for rows, columns in shapes_of(matrices)]
    found = dense(inverse_of(*matrices), shapes_of(matrices))
    torch.testing.assert_close(found, found.T, rtol=1e-10, atol=1e-10)
    covariance = torch.linalg.inv(found)
    blocks = blocks_of(matrices)
    for i, (rows, of_inverse) in enumerate(zip(covariance.split(sizes), found.split(sizes), strict=True)):
        for j, (block, inverse_block) in enumerate(
            zip(rows.split(sizes, dim=1), of_inverse.split(sizes, dim=1), strict=True)
        ):
            if abs(i - j) <= 1:
                torch.testing.assert_close(block, blocks[i, j], rtol=1e-8, atol=1e-8)
            else:
                assert inverse_block.abs().max() < 1e-10


def test_without_correlations_it_is_block_diagonal(chain):
    (a, a_next), (g, g_next) = chain(3)
    zeros = [torch.zeros_like(matrix) for matrix in a_next], [torch.zeros_like(matrix) for matrix in g_next]
    vectors = [torch.ones(len(right), len(left), dtype=DTYPE) for left, right in zip(a, g, strict=True)]
    products = TridiagonalInverse(a, g, *zeros).multiply(vectors)
    for product, vector, left, right in zip(products, vectors, a, g, strict=True):
        torch.testing.assert_close(product, torch.linalg.inv(right) @ vector @ torch.linalg.inv(left))
