"""The minimum of a quadratic function over the span of a few directions."""

import torch
from torch import Tensor

# A direction is left out if its squared distance from the span of the earlier ones is below this fraction of its squared
# length, because it would add only rounding errors. Lengths are those of the quadratic form.
_NEARLY_DEPENDENT = 1e-6


def minimum_in_span(gram: Tensor, slopes: Tensor) -> tuple[list[float], float]:
    """The coefficients c that minimize ``slopes`` · c + ½ cᵀ ``gram`` c, and the minimum.

    gram: (k, k), the products dᵢᵀ Q dⱼ of k directions; slopes: (k,), the products of the gradient with them. Directions
    are processed in order: one that is 0, or nearly in the span of the earlier ones, gets the coefficient 0. So the result
    is defined even if two directions are parallel and the system is singular. NaN in the first direction's products gives
    NaN.
    """
    gram, slopes = gram.to("cpu", torch.float64), slopes.to("cpu", torch.float64)
    lengths = gram.diagonal().sqrt()
    used: list[int] = []
    factor = torch.empty(0, 0, dtype=torch.float64)
    for index in range(len(slopes)):
        if lengths[index] == 0:
            continue
        tried = [*used, index]
        cosines = gram[tried][:, tried] / torch.outer(lengths[tried], lengths[tried])
        candidate = torch.linalg.cholesky_ex(cosines)[0]
        if not used or candidate[-1, -1] ** 2 > _NEARLY_DEPENDENT:
            used, factor = tried, candidate
    coefficients = torch.zeros_like(slopes)
    if used:
        solution = torch.cholesky_solve(-(slopes[used] / lengths[used]).unsqueeze(1), factor).squeeze(1)
        coefficients[used] = solution / lengths[used]
    return coefficients.tolist(), float(coefficients @ slopes) / 2
