"""The largest and the smallest eigenvalues of an operator, with their eigenvectors, from one Lanczos run."""

import torch

from optbench.curvature.lanczos import Lanczos, RitzPairs, lanczos
from optbench.curvature.operators import Operator
from optbench.errors import UserError


def extreme_eigenpairs(
    operator: Operator,
    generator: torch.Generator,
    largest: int = 1,
    smallest: int = 1,
    steps: int = 40,
    tolerance: float = 0.0,
) -> RitzPairs:
    """Ritz pairs of both ends of the spectrum (as signed numbers), by ascending value, with residuals |A x - value x|.

    The start is a normal draw from ``generator``, a CPU generator. At most ``steps`` products are taken, and fewer if every
    requested pair earlier has a residual of at most ``tolerance`` times its |value|. A Ritz value lies within the spectrum,
    so that the largest one is a lower bound of the largest eigenvalue, and an eigenvalue lies within each residual. An
    eigenvalue below 0 is proved only if |value| is larger than the residual. A multiple eigenvalue is found once. Memory:
    steps x P numbers for the basis and (largest + smallest) x P for the vectors.

    The two runs of Böttcher & Wheeler (arXiv 2208.13219), for A and for A - m I with the eigenvalue m of largest magnitude,
    have the same purpose; there the error of the second eigenvalue is a fraction of |m|. Raises UserError for fewer steps
    than pairs, and if no pair is requested.
    """
    if largest < 0 or smallest < 0 or largest + smallest < 1:
        raise UserError(
            f"largest={largest}, smallest={smallest}: accepted are numbers >= 0, at least one of them above 0"
        )
    if steps < largest + smallest:
        raise UserError(f"steps={steps}: finding {largest + smallest} eigenvalues takes at least as many steps")
    start = operator.random_vectors(1, generator, "gaussian")[0]

    def found(process: Lanczos) -> bool:
        if len(process.diagonal) < largest + smallest:
            return False
        pairs = process.ritz_values(largest, smallest)
        return bool((pairs.residuals <= tolerance * pairs.values.abs()).all())

    return lanczos(operator.product, start, steps, until=found if tolerance > 0 else None).ritz(largest, smallest)
