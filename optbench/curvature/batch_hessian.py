"""The extreme eigenvalues of mini-batch Hessians against the batch size, with three predictions for the largest.

A batch's Hessian is H_b = H + E: that of all N examples plus noise whose elements have the variance σ²/b̃, where
1/b̃ = (1/b)(N - b)/(N - 1). The top eigenvalue λ₁ then grows to λ₁' = λ₁ (1 + b*/b̃), with the critical batch b* taken from

    isotropic     b* = P σ²/λ₁², where P σ² = b̃ E‖E z‖² for z uniform on the unit sphere; because the noise is assumed equal
                  in every direction, λ₁' is the edge 2s = 2 √(P σ²/b̃) if λ₁ ≤ s
    directional   b* = W/λ₁², where W = b̃ times the variance of the part of H_b u₁ orthogonal to u₁: second-order perturbation
                  theory, assuming that the rest of the spectrum is near 0
    fitted        b* by least squares of λ₁'/λ₁ - 1 on 1/b̃, through the origin

On networks the noise is far from isotropic, so that the three predictions differ by factors of several. The model is that of
Granziol, Zohren, Roberts 2022 (arXiv 2006.09092), with the additive spiked model of ``optbench.theory``; the directional and
the fitted prediction are our own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optbench.curvature.lanczos import Product, RitzPairs, lanczos
from optbench.theory import additive_outlier, critical_batch, effective_batch, noise_radius

Array: TypeAlias = NDArray[np.float64]
MakeProduct: TypeAlias = Callable[[Tensor], Product]


@dataclass(frozen=True)
class BatchHessian:
    """The measurements and predictions of ``batch_hessian``, in float64.

    batch_sizes: (B,). top, bottom: (B, draws), the extreme Ritz values of each batch, a lower bound of its largest and an
    upper bound of its smallest eigenvalue. full_top, full_bottom: those of all examples. isotropic, directional, fitted: (B,),
    the predictions for the top. b_star_*: their critical batches, NaN if λ₁ is not positive.
    """

    batch_sizes: Array
    top: Array
    bottom: Array
    full_top: float
    full_bottom: float
    isotropic: Array
    directional: Array
    fitted: Array
    b_star_isotropic: float
    b_star_directional: float
    b_star_fitted: float


@dataclass(frozen=True)
class HessianNoise:
    """The variation of the Hessians of single examples: ``isotropic`` is P σ², ``directional`` is W."""

    isotropic: float
    directional: float


def batch_hessian(
    make_product: MakeProduct,
    examples: int,
    dimension: int,
    batch_sizes: Sequence[int],
    draws: int,
    generator: torch.Generator,
    *,
    steps: int = 30,
    vectors: int = 8,
    base_batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> BatchHessian:
    """Extremes of the Hessians of ``draws`` random batches of every size, and the predictions for the largest.

    make_product: takes int64 indices on the CPU and returns the product with the Hessian of the mean loss over those
    examples, which must be a mean over single examples: no batch norm in train mode. examples: N. dimension: P.
    generator: a CPU generator, in the same state on every rank. steps: Lanczos steps for a batch, and twice as many for all
    examples. vectors, base_batch: see ``hessian_noise``. dtype, device: of the vectors to multiply.

    The batches of one draw are nested: the first b examples of one permutation, so that curves over b are smooth. Every
    draw has its own permutation, so that the batches of one size are independent and uniform, as needed for a mean and a
    spread over draws; values at two sizes of one draw are not independent. From the largest size down, Lanczos starts near
    the extreme eigenvectors of the previous batch; the first starts near those of all examples. A batch of all N examples is
    not computed again.

    Raises ValueError for batch sizes outside 1 .. N, and for less than one draw.
    """
    sizes = [int(size) for size in batch_sizes]
    if not sizes or min(sizes) < 1 or max(sizes) > examples:
        raise ValueError(f"batch_sizes={sizes}: must be in 1 .. {examples}, the number of examples")
    if draws < 1:
        raise ValueError(f"draws={draws}: must be at least 1")

    def direction() -> Tensor:
        vector = torch.randn(dimension, dtype=torch.float64, generator=generator)
        found: Tensor = (vector / vector.norm()).to(device, dtype)
        return found

    full = _extremes(make_product(torch.arange(examples)), direction(), 2 * steps)
    noise = hessian_noise(make_product, examples, full.vectors[-1], generator, vectors, base_batch)

    top, bottom = np.empty((2, len(sizes), draws))
    for draw in range(draws):
        order, pairs = torch.randperm(examples, generator=generator), full
        for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
            if sizes[place] < examples:
                # A random direction is added, so that the start is not orthogonal to an eigenvector.
                start = pairs.vectors[0] + pairs.vectors[-1] + direction()
                pairs = _extremes(make_product(order[: sizes[place]]), start, steps)
            bottom[place, draw], top[place, draw] = float(pairs.values[0]), float(pairs.values[-1])
    full_bottom, full_top = float(full.values[0]), float(full.values[-1])
    return _with_predictions(np.array(sizes, dtype=np.float64), top, bottom, full_top, full_bottom, noise, examples)


def hessian_noise(
    make_product: MakeProduct,
    examples: int,
    top_vector: Tensor,
    generator: torch.Generator,
    vectors: int = 8,
    base_batch: int | None = None,
) -> HessianNoise:
    """P σ² from ``vectors`` directions uniform on the unit sphere, and W from ``top_vector`` u₁ (P,), of length 1.

    The examples are divided at random into batches of ``base_batch`` (by default N/64, at least 1), and the rest is not used;
    each batch multiplies all directions, so that its graph is built once. With h_i = H_i z of M batches of size b₀,
    b₀ Σ‖h_i - h̄‖²/(M - 1) · (N - 1)/N is an unbiased estimate of P σ², by the theory of sampling from a finite population; if
    the batches contain all examples, it is b̃₀ (mean ‖h_i‖² - ‖h̄‖²). For u₁ only the part of h_i orthogonal to u₁ counts.

    Raises ValueError if there would be fewer than two batches, and for less than one probe.
    """
    size = max(1, examples // 64) if base_batch is None else base_batch
    batches = examples // size if size > 0 else 0
    if batches < 2:
        raise ValueError(
            f"base_batch={size}: must be in 1 .. {examples // 2}, to have two batches of {examples} examples"
        )
    if vectors < 1:
        raise ValueError(f"vectors={vectors}: must be at least 1")
    spheres = torch.randn(vectors, len(top_vector), dtype=torch.float64, generator=generator)
    spheres /= spheres.norm(dim=1, keepdim=True)
    directions = torch.cat([spheres.to(top_vector), top_vector.unsqueeze(0)])
    order = torch.randperm(examples, generator=generator)
    # Deviations are taken from the images of the first batch, because the images are nearly equal and their squares would
    # lose digits.
    origin = total = squares = torch.empty(0)
    for number in range(batches):
        product = make_product(order[number * size : (number + 1) * size])
        images = torch.stack([product(direction) for direction in directions])
        images[-1] -= (images[-1] @ top_vector) * top_vector
        images = images.double()
        if number == 0:
            origin, total, squares = images, torch.zeros_like(images), images.new_zeros(len(images))
        total += images - origin
        squares += (images - origin).square().sum(1)
    variances = (squares - total.square().sum(1) / batches) / (batches - 1)
    of_one = variances * size * (examples - 1) / examples
    return HessianNoise(float(of_one[:-1].mean()), float(of_one[-1]))


def _extremes(product: Product, start: Tensor, steps: int) -> RitzPairs:
    """The Ritz pairs of both ends from one Lanczos run: two, or one if the space has one dimension."""
    return lanczos(product, start, steps).ritz(largest=1, smallest=1)


def _with_predictions(
    sizes: Array, top: Array, bottom: Array, full_top: float, full_bottom: float, noise: HessianNoise, examples: int
) -> BatchHessian:
    if full_top > 0:
        effective = np.asarray(effective_batch(sizes, examples))
        isotropic = np.asarray(additive_outlier(full_top, noise_radius(noise.isotropic, effective)))
        of_sphere = critical_batch(noise.isotropic, full_top)
        of_direction = critical_batch(noise.directional, full_top)
        inverse = 1 / effective
        # If all batches contain all examples, there is nothing to fit.
        squares = float(inverse @ inverse)
        fit = float(inverse @ (top.mean(1) / full_top - 1)) / squares if squares > 0 else float("nan")
        directional, fitted = (
            np.where(inverse > 0, full_top * (1 + star * inverse), full_top) for star in (of_direction, fit)
        )
    else:
        of_sphere = of_direction = fit = float("nan")
        isotropic, directional, fitted = np.full((3, len(sizes)), np.nan)
    return BatchHessian(
        sizes, top, bottom, full_top, full_bottom, isotropic, directional, fitted, of_sphere, of_direction, fit
    )
