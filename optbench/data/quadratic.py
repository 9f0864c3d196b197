"""Quadratic problems with a known spectrum: the curvature, the noise of the gradients, and the exact expected loss.

The loss at θ is L(θ) = ½ θᵀ H θ with H = U diag(h) Uᵀ, as a least-squares problem, so that every method of the bench can train
it: an example n has the outputs r = √h ∘ Uᵀθ, the targets ζₙ, and the loss ½ |r - ζₙ|². Its gradient is H θ - U (√h ∘ ζₙ). With
ζₙ = √(c/h) ∘ z, z standard normal, the gradients of single examples have the covariance U diag(c) Uᵀ, at every θ: the noisy
quadratic model (Zhang et al. 2019, arXiv 1907.04164). With ``multiplicative`` noise an example is a row x = U (√h ∘ z) of a
linear regression, with the target σ ε, so that the noise grows with the distance from the minimum at 0.

The number of an example and the seed of the run determine its noise: there are as many examples as a run asks for, and no two
are the same. Validation and test sets are such that their mean loss is L(θ) exactly (plus ½ σ² with multiplicative noise).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from optbench import randomness
from optbench.data.normal_rows import NormalRows
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.system import memory


@dataclass(frozen=True)
class Quadratic:
    """The facts of a quadratic problem that its model needs.

    roots: √h of every direction, (d,), float64, each eigenvalue ``replicas`` times in a row. rotation: U, (d, d), or None for the
    identity. multiplicative: True if the inputs are rows of a linear regression.
    """

    roots: Tensor
    rotation: Tensor | None
    multiplicative: bool


class NoiseStream:
    """Training examples of a quadratic problem; an epoch has ``examples`` of them, and none comes twice.

    scale: the factor of z in each direction, (d,): √(c/h) of the targets, or √h of the inputs if ``multiplicative``. level: σ.
    """

    def __init__(self, examples: int, problem: Quadratic, scale: Tensor, level: float, evaluation: Split) -> None:
        self.examples, self.problem, self.scale, self.level = examples, problem, scale, level
        self.evaluation = evaluation
        self._scale = scale  # in the type of the last batch
        self._normal = NormalRows(len(scale) + problem.multiplicative)

    def __len__(self) -> int:
        return self.examples

    def train_batch(self, first: int, count: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The inputs and targets of the examples ``first .. first + count - 1`` of the run with ``seed``, on the CPU."""
        drawn = self._normal.draw(first, count, seed, dtype)
        if self._scale.dtype != dtype:
            self._scale = self.scale.to(dtype)
        if not self.problem.multiplicative:
            return drawn.new_empty(count, 0), drawn.mul_(self._scale)
        inputs = drawn[:, :-1] * self._scale
        if self.problem.rotation is not None:
            inputs = inputs @ self.problem.rotation.to(dtype).T
        return inputs, self.level * drawn[:, -1:]


def load(
    data_dir: str,
    spectrum: str = "power_law",
    dimension: int = 100,
    eigenvalues: Sequence[float] | None = None,
    exponent: float = 1.0,
    condition: float = 100.0,
    outliers: int = 10,
    outlier_size: float = 10.0,
    replicas: int = 1,
    noise: str = "h",
    noise_level: float = 1.0,
    rotation_seed: int | None = None,
    generation_seed: int = 0,
    examples: int = 1000,
) -> RawData:
    """The problem with the eigenvalues of `eigenvalues_of`, each with ``replicas`` directions, which do not interact.

    noise: the covariance c of the gradients of single examples, times ``noise_level`` squared: "none" (0), "h" (h, as for a
    well-specified likelihood), "h_squared" (h², as if the minimum of each example were drawn), "constant" (1), or
    "multiplicative", where ``noise_level`` is σ. rotation_seed: of a random rotation U, uniform over all (Haar); None for
    U = 1. ``data_dir`` is not used.

    Raises UserError for a spectrum that cannot be made.
    """
    generator = randomness.generator(generation_seed, "eigenvalues")
    own = eigenvalues_of(
        spectrum, dimension, eigenvalues, exponent, condition, outliers, outlier_size, generator
    ).repeat_interleave(replicas)
    width, multiplicative = len(own), noise == "multiplicative"
    if rotation_seed is not None or multiplicative:
        memory.require(8 * width * width, f"dataset=quadratic, matrices of {width:,} x {width:,}")
    rotation = None if rotation_seed is None else haar_rotation(width, randomness.generator(rotation_seed, "rotation"))
    problem = Quadratic(own.sqrt(), rotation, multiplicative)
    if multiplicative:
        # One example for each direction u: x = √(d h) u, so that the mean of ½ (xᵀθ)² is ½ θᵀ H θ.
        axes = torch.eye(width, dtype=torch.float64) if rotation is None else rotation.T
        exact = Split((width * own).sqrt()[:, None] * axes, torch.zeros(width, 1, dtype=torch.float64))
        scale = problem.roots
    else:
        exact = Split(torch.zeros(1, 0, dtype=torch.float64), torch.zeros(1, width, dtype=torch.float64))
        covariance = {"none": 0 * own, "h": own, "h_squared": own**2, "constant": torch.ones_like(own)}[noise]
        scale = noise_level * (covariance / own).sqrt()
    stream = NoiseStream(examples, problem, scale, noise_level, exact)
    spec = DataSpec(
        "noise", tuple(exact.inputs.shape[1:]), 1 if multiplicative else width, target="real", problem=problem
    )
    return RawData(Split(stream, None), exact, exact, spec)


def eigenvalues_of(
    spectrum: str,
    dimension: int,
    eigenvalues: Sequence[float] | None,
    exponent: float,
    condition: float,
    outliers: int,
    outlier_size: float,
    generator: Generator,
) -> Tensor:
    """The eigenvalues h of a spectrum, float64, (dimension,), or as many as are listed.

    "list": ``eigenvalues``. "power_law": h_i = i^-exponent. "geometric": from 1 down to 1 / ``condition`` with equal ratios.
    "bulk": ``outliers`` eigenvalues at ``outlier_size``, and the others at equal distances in (0, 1]. "deep": as the deep
    quadratic problem of DeepOBS (Schneider, Balles & Hennig 2019, arXiv 1903.05499, after Chaudhari et al. 2017): nine tenths
    uniform on (0, 1) and one tenth on (30, 60), drawn from ``generator``.

    Raises UserError for "list" without eigenvalues, and for more outliers than directions.
    """
    if spectrum == "list":
        if not eigenvalues:
            raise UserError("dataset.eigenvalues=null: must be given with dataset.spectrum=list: numbers > 0")
        return torch.tensor(list(eigenvalues), dtype=torch.float64)
    number = torch.arange(1, dimension + 1, dtype=torch.float64)
    if spectrum == "power_law":
        return number**-exponent
    if spectrum == "geometric":
        return condition ** (-(number - 1) / max(dimension - 1, 1))
    if spectrum == "deep":
        drawn = torch.rand(dimension, dtype=torch.float64, generator=generator)
        large = number > dimension - dimension // 10
        return torch.where(large, 30 + 30 * drawn, drawn.clamp(min=torch.finfo(torch.float64).eps))
    if outliers > dimension:
        raise UserError(
            f"dataset.outliers={outliers}: more than dataset.dimension={dimension}; accepted: 0 to {dimension}"
        )
    bulk = torch.arange(dimension - outliers, 0, -1, dtype=torch.float64) / max(dimension - outliers, 1)
    return torch.cat([torch.full((outliers,), outlier_size, dtype=torch.float64), bulk])


def haar_rotation(width: int, generator: Generator) -> Tensor:
    """An orthogonal matrix (width, width), uniform over all, float64.

    From the QR decomposition of a normal matrix with the signs of R's diagonal moved into Q, without which the result would not
    be uniform (Mezzadri 2007, Notices of the AMS 54).
    """
    factors = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
    rotation: Tensor = factors.Q * factors.R.diagonal().sign()
    return rotation
