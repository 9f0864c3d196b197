"""Phase retrieval: find a vector from the squares of its products with random vectors."""

import torch
from torch import Tensor

from optbench import randomness
from optbench.data.problems.problem import Problem, examples_of
from optbench.data.raw import RawData
from optbench.errors import UserError


class PhaseRetrieval(Problem):
    """f(z) = 1/(4m) Σᵢ ((aᵢᵀz)² - (aᵢᵀx)²)² with m vectors aᵢ ~ N(0, I) and a unit vector x; f = 0 at ±x.

    rows: (m, d), the aᵢ. None stands for the mean over all a, whose other stationary points are known:

        f(z) = ¼ (3 ‖z‖⁴ + 3 ‖x‖⁴ - 2 ‖z‖² ‖x‖² - 4 (zᵀx)²),

    with Hessian eigenvalues (6, 2, ..., 2) at ±x, (-3, -1, ..., -1) at the maximum 0, and (-2, 0, ..., 0, 2) at the saddle points
    z ⟂ x with ‖z‖² = ⅓, where f = ⅔. ``saddles`` holds one of these, and none for a sum over rows.

    Source: Candès, Li & Soltanolkotabi 2015, "Phase retrieval via Wirtinger flow" (arXiv 1407.1065), for real vectors; Sun, Qu &
    Wright 2018, "A geometric analysis of phase retrieval" (arXiv 1602.06664).
    """

    rows: Tensor | None
    hidden: Tensor

    def __init__(self, hidden: Tensor, rows: Tensor | None, start: Tensor) -> None:
        super().__init__(start, torch.stack([hidden, -hidden]), saddles=_saddle(hidden) if rows is None else None)
        self.register_buffer("hidden", hidden, persistent=False)
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (d,)."""
        value: Tensor
        if self.rows is not None:
            errors = (self.rows @ weights) ** 2 - (self.rows @ self.hidden) ** 2
            value = (errors**2).mean() / 4
        else:
            own, size, along = weights @ weights, self.hidden @ self.hidden, weights @ self.hidden
            value = (3 * own**2 + 3 * size**2 - 2 * own * size - 4 * along**2) / 4
        return value

    def distance(self, weights: Tensor) -> Tensor:
        """min ‖z ∓ x‖, the distance from the nearest minimum, 0-d."""
        found: Tensor = (weights - self.minimizers.to(weights)).norm(dim=1).min()
        return found


def _saddle(hidden: Tensor) -> Tensor | None:
    """A saddle point of the mean over all a, (1, d): orthogonal to x, of the length √⅓; in one dimension there is none."""
    if len(hidden) == 1:
        return None
    place = int(hidden.abs().argmin())
    unit = torch.zeros_like(hidden)
    unit[place] = 1
    other = unit - hidden[place] * hidden
    found: Tensor = other / other.norm() / 3**0.5
    return found[None]


def spectral_start(rows: Tensor, squares: Tensor) -> Tensor:
    """The leading eigenvector of 1/m Σᵢ yᵢ aᵢ aᵢᵀ with the length √(1/m Σᵢ yᵢ), (d,), its largest entry positive.

    rows: (m, d), the aᵢ; squares: (m,), the yᵢ = (aᵢᵀx)². In the mean over all a the matrix is ‖x‖² I + 2 x xᵀ.
    """
    vector = torch.linalg.eigh((rows.T * squares) @ rows / len(rows)).eigenvectors[:, -1]
    found: Tensor = vector * vector[vector.abs().argmax()].sign() * squares.mean().sqrt()
    return found


def load(
    data_dir: str,
    dimension: int = 10,
    measurements: int | None = 100,
    start: str = "random",
    generation_seed: int = 0,
    noise: float = 0.0,
    examples: int = 1000,
) -> RawData:
    """The problem with ``measurements`` vectors a, None for the mean over all, and ``noise`` in its gradients.

    start: "random", uniform on the unit sphere, or "spectral". ``data_dir`` is not used. Raises UserError for a spectral start
    without measurements.
    """
    generator = randomness.generator(generation_seed, "phase retrieval")

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    hidden, random = (each / each.norm() for each in drawn(2, dimension))
    rows = None if measurements is None else drawn(measurements, dimension)
    if start == "random":
        return examples_of(PhaseRetrieval(hidden, rows, random), noise, examples)
    if rows is None:
        raise UserError(
            "dataset.start=spectral: is a minimizer with dataset.measurements=null; accepted: random, or a number of measurements"
        )
    return examples_of(PhaseRetrieval(hidden, rows, spectral_start(rows, (rows @ hidden) ** 2)), noise, examples)
