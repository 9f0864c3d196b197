"""Damped Newton, the baseline of saddle-free Newton."""

from torch import Tensor

from optbench.optimizers.saddle_free_newton import SaddleFreeNewton


class DampedNewton(SaddleFreeNewton):
    """Newton's method, δ(λ) = -lr (H + λI)⁻¹ g, with the λ of ``damping_ladder`` that lowers the loss most.

    Except for the sign of the eigenvalues all is as in ``SaddleFreeNewton``: subspace, ladder, inner steps, options. Along
    directions of negative curvature larger than λ the step goes uphill, towards the saddle point. A λ for which H + λI
    cannot be inverted is left out.

    Source: the baseline in Dauphin et al. 2014 (arXiv 1406.2572), section 6.
    """

    def _denominators(self, eigenvalues: Tensor, damping: float) -> Tensor:
        return eigenvalues + damping
