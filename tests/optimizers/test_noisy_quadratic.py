"""The linear methods on the noisy quadratic model, where theory is exact (Zhang et al. 2019, arXiv 1907.04164).

L(θ) = ½ Σ hᵢθᵢ², gradients with noise of variance σᵢ² = hᵢ / 4, E θᵢ² = 1 at the start. The second moments after 40 steps
follow from S' = ASAᵀ + σ²bbᵀ for the state z = (θ, v), z' = Az + bξ; see the matrices below. 20,000 replicas are trained at once.
"""

import numpy as np
import pytest
import torch
from built import build

from optbench import config

CURVATURE = np.array([1.0, 0.3, 0.05])
VARIANCE = CURVATURE / 4
REPLICAS, STEPS = 20_000, 40

# Golden values of E θ² after 40 steps, computed by hand from the recursion for the first three eigenvalues.
CASES = {
    "sgd": (0.5, 0.0, (0.083333, 0.067570, 0.186878)),
    "momentum": (0.3, 0.9, (0.406778, 0.391675, 0.372742)),
    "nesterov": (0.3, 0.8, (0.146518, 0.162787, 0.181964)),
}


def second_moments(name: str, rate: float, momentum: float) -> np.ndarray:
    moments = []
    for h, variance in zip(CURVATURE, VARIANCE, strict=True):
        if name == "nesterov":
            matrix = np.array([[1 - rate * (1 + momentum) * h, -rate * momentum**2], [h, momentum]])
            noise = np.array([-rate * (1 + momentum), 1.0])
        else:
            matrix = np.array([[1 - rate * h, -rate * momentum], [h, momentum]])
            noise = np.array([-rate, 1.0])
        state = np.diag([1.0, 0.0])
        for _ in range(STEPS):
            state = matrix @ state @ matrix.T + variance * np.outer(noise, noise)
        moments.append(state[0, 0])
    return np.array(moments)


@pytest.mark.parametrize("name", CASES)
def test_second_moments_after_40_steps(name):
    rate, momentum, golden = CASES[name]
    np.testing.assert_allclose(second_moments(name, rate, momentum), golden, atol=1e-6)
    overrides = [f"optimizer={name}", f"optimizer.learning_rate={rate}"]
    if momentum:
        overrides.append(f"optimizer.momentum={momentum}")
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Module()
    model.replicas = torch.nn.Parameter(torch.randn(REPLICAS, 3, dtype=torch.float64, generator=generator))
    optimizer = build(config.compose(overrides)["optimizer"], model, rate)
    curvature, deviation = torch.tensor(CURVATURE), torch.tensor(VARIANCE).sqrt()
    for _ in range(STEPS):
        noise = deviation * torch.randn(REPLICAS, 3, dtype=torch.float64, generator=generator)
        model.replicas.grad = curvature * model.replicas.detach() + noise
        optimizer.step()
    squares = model.replicas.detach().square()
    error = squares.std(0) / REPLICAS**0.5
    assert ((squares.mean(0) - torch.tensor(golden)).abs() < 4 * error).all()
