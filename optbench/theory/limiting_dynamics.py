"""SGD with momentum near a minimum: a stationary process in the weights and the velocity, and how far it moves in k steps.

One eigendirection of the Hessian, of curvature h, with gradient noise of variance c in every step and weight decay λ:

    g = (h + λ) x + ξ    v ← β v + g    x ← x - η v

With half-step corrections and the time t = η k this is a damped oscillator (underdamped Langevin dynamics)

    (η (1 + β)/2) x″ + (1 - β) x′ + (h + λ) x = noise    γ = (1 - β)/(η (1 + β))    ω² = 2 (h + λ)/(η (1 + β))

whose velocity x′ is -v up to half a step. It oscillates at the rate Δ = √(ω² - γ²) if ω > γ. Its stationary variances are

    Var x = η c/(2 (1 - β) (h + λ))    Var v = c/(1 - β²)

With noise c = σ² h/B the positions are isotropic for λ = 0, and curvature weights the velocities. The discrete process has exact
forms, too; functions for both are here. Curvatures and variances are numbers or arrays with one entry for each direction.

Source: Kunin et al. 2021, "The limiting dynamics of SGD: modified loss, phase space oscillations, and anomalous diffusion" (arXiv
2107.09133; Neural Computation 36(1), 2024). The buffer is torch's. The half step of the initial velocity, the exact discrete
forms and the displacement are our own derivations.
"""

from dataclasses import dataclass

import numpy as np

from optbench.theory.effective_batch import Numbers
from optbench.theory.noisy_quadratic import Array


@dataclass(frozen=True)
class PhaseSpaceMoments:
    """Stationary moments of each direction: E x², E v² and E x v, with the momentum buffer v."""

    position: Numbers
    velocity: Numbers
    covariance: Numbers


def stationary_moments(
    learning_rate: float, momentum: float, curvature: Numbers, variance: Numbers, weight_decay: float = 0.0
) -> PhaseSpaceMoments:
    """The exact moments of the discrete process, with H = h + λ:

        E x² = η c (1 + β)/((1 - β) H (2 (1 + β) - η H))    E v² = 2 c/((1 - β) (2 (1 + β) - η H))    E x v = -(η/2) E v²

    They solve the Lyapunov equation of ``LinearMethod.momentum``. Raises ValueError unless 0 < η H < 2 (1 + β), where the
    process is stable.
    """
    total = _stable(learning_rate, momentum, curvature, weight_decay)
    room = (1 - momentum) * (2 * (1 + momentum) - learning_rate * total)
    velocity = 2 * variance / room
    position = learning_rate * variance * (1 + momentum) / (room * total)
    return PhaseSpaceMoments(position, velocity, -learning_rate / 2 * velocity)


def continuous_moments(
    learning_rate: float, momentum: float, curvature: Numbers, variance: Numbers, weight_decay: float = 0.0
) -> PhaseSpaceMoments:
    """The moments of the continuous model: E x² = η c/(2 (1 - β) (h + λ)), E v² = c/(1 - β²), E x v = 0."""
    position = learning_rate * variance / (2 * (1 - momentum) * (curvature + weight_decay))
    return PhaseSpaceMoments(position, variance / (1 - momentum**2), 0.0)


def initial_velocity(
    learning_rate: float,
    momentum: float,
    curvature: Numbers,
    position: Numbers,
    buffer: Numbers,
    weight_decay: float = 0.0,
) -> Numbers:
    """x′(0) = -½ ((1 + β) v + (h + λ) x) for the buffer v: the mean of the differences before and after the present step.

    The step before moved x by -η v, the next one moves it by -η (β v + (h + λ) x). A buffer of zero is thus no velocity of zero.
    """
    return -0.5 * ((1 + momentum) * buffer + (curvature + weight_decay) * position)


def mean_position(
    steps: Array,
    learning_rate: float,
    momentum: float,
    curvature: float,
    position: float,
    buffer: float = 0.0,
    weight_decay: float = 0.0,
) -> Array:
    """E x after ``steps`` steps in the continuous model, from x₀ = ``position`` and the momentum ``buffer``, (n,).

        x(t) = e^(-γ t) (x₀ cos Δt + ((γ x₀ + x′(0))/Δ) sin Δt)    t = η k

    with the velocity of ``initial_velocity``; cosh and sinh if it is overdamped, and 1 and t at Δ = 0.
    """
    velocity = initial_velocity(learning_rate, momentum, curvature, position, buffer, weight_decay)
    friction, cosine, sine = _waves(steps, learning_rate, momentum, curvature + weight_decay)
    found = cosine * position + sine * (friction * position + velocity)
    return np.asarray(found, dtype=np.float64)


def autocorrelation(
    steps: Array, learning_rate: float, momentum: float, curvature: float, weight_decay: float = 0.0
) -> Array:
    """ρ(k) = e^(-γ t) (cos Δt + (γ/Δ) sin Δt), the stationary autocorrelation of x in the continuous model, (n,)."""
    friction, cosine, sine = _waves(steps, learning_rate, momentum, curvature + weight_decay)
    return np.asarray(cosine + friction * sine, dtype=np.float64)


def displacements(
    steps: Array,
    learning_rate: float,
    momentum: float,
    curvatures: Array,
    variances: Numbers,
    weight_decay: float = 0.0,
) -> Array:
    """E (x(k) - x(0))² of each direction in the stationary discrete process, after ``steps`` = k steps, (n, directions).

    It is 2 (r₀ - r_k) with the autocovariances r₀ = E x², r₁ = (1 - η H) r₀ - η β E x v and

        r_(k+1) = (1 + β - η H) r_k - β r_(k-1)    H = h + λ

    r₀ - r_k follows the same recursion with -η H r₀ less, in which nothing cancels. The sum over directions is E |θ(k) - θ(0)|²;
    at k = 1 it is η² Σ E v², the local displacement. Raises ValueError for steps below 0, and unless the process is stable.
    """
    wanted = np.asarray(steps, dtype=np.int64)
    if (wanted < 0).any():
        raise ValueError(f"steps={wanted.min()}: must be 0 or more")
    total = _stable(learning_rate, momentum, np.asarray(curvatures, dtype=np.float64), weight_decay)
    rates = learning_rate * np.asarray(total)
    moments = stationary_moments(learning_rate, momentum, curvatures, variances, weight_decay)
    before, now = np.zeros_like(rates), rates * moments.position + learning_rate * momentum * moments.covariance
    found = np.zeros((wanted.max(initial=0) + 1, len(rates)))
    for step in range(1, len(found)):
        found[step] = now
        before, now = now, (1 + momentum - rates) * now - momentum * before + rates * moments.position
    return np.asarray(2 * found[wanted], dtype=np.float64)


def local_displacement(learning_rate: float, momentum: float, trace: float, batch: float) -> float:
    """E |θ(k + 1) - θ(k)|² = η² tr C/(B (1 - β²)) in the continuous model.

    trace: tr C, that of the covariance of the gradient of one example. batch: B, or the effective batch B̃ if examples are
    drawn without replacement.
    """
    return learning_rate**2 * trace / (batch * (1 - momentum**2))


def diffusion_exponent(steps: Array, squared: Array, window: tuple[float, float], points: int | None = None) -> float:
    """The least-squares slope of log |θ(k) - θ(0)|² on log k over ``window``[0] ≤ k ≤ ``window``[1].

    1 is ordinary diffusion, 2 is drift. Each mode saturates, so that the exponent is a property of a window. For the power law
    hᵢ = i^-p with Var xᵢ alike it is about 1/p while 1/h₁ « η k/(1 - β) « 1/h_P.

    points: take only that many of the given steps, evenly spaced in log k, each once; None: all of them, so that late times have
    most of the weight if steps are evenly spaced. NaN unless two different steps with a positive displacement are left.
    """
    steps, squared = np.asarray(steps, dtype=np.float64), np.asarray(squared, dtype=np.float64)
    kept = (steps >= window[0]) & (steps <= window[1]) & (steps > 0) & (squared > 0)
    x, y = np.log(steps[kept]), np.log(squared[kept])
    if points is not None and len(x):
        nearest = np.abs(x[:, None] - np.linspace(x.min(), x.max(), points)).argmin(axis=0)
        x, y = x[np.unique(nearest)], y[np.unique(nearest)]
    if len(np.unique(x)) < 2:
        return float("nan")
    centred = x - x.mean()
    return float(centred @ y / (centred @ centred))


def oscillation_frequency(
    learning_rate: float, momentum: float, curvature: Numbers, weight_decay: float = 0.0, continuous: bool = False
) -> Numbers:
    """Cycles in a step: the angle of the roots of z² - (1 + β - η H) z + β over 2π, or Δ η/(2π) in the continuous model.

    Zero where the roots are real. The process oscillates from η H = (1 - √β)² on, up to (1 + √β)² in discrete time, and in the
    continuous model from (1 - β)²/(2 (1 + β)) on.
    """
    total = np.asarray(curvature, dtype=np.float64) + weight_decay
    if continuous:
        friction, square = _rates(learning_rate, momentum, total)
        angle = learning_rate * np.sqrt(np.maximum(square - friction**2, 0.0))
    else:
        half = (1 + momentum - learning_rate * total) / 2
        oscillates = half**2 < momentum
        angle = np.where(oscillates, np.arctan2(np.sqrt(np.maximum(momentum - half**2, 0.0)), half), 0.0)
    found = angle / (2 * np.pi)
    return float(found) if found.ndim == 0 else np.asarray(found, dtype=np.float64)


def oscillation_threshold(momentum: float, continuous: bool = False) -> float:
    """The smallest η (h + λ) at which a direction oscillates: (1 - √β)², or (1 - β)²/(2 (1 + β)) in the continuous model."""
    return (1 - momentum) ** 2 / (2 * (1 + momentum)) if continuous else (1 - momentum**0.5) ** 2


def modified_loss(
    learning_rate: float,
    momentum: float,
    curvature: Numbers,
    position: Numbers,
    velocity: Numbers,
    weight_decay: float = 0.0,
) -> tuple[Numbers, Numbers]:
    """Ψ of the stationary density exp(-Ψ/κ), κ = σ²/(B (1 - β²)), for noise c = σ² h/B: its parts of position and velocity.

        Ψ = (1 + λ/h) x²/(η (1 + β))  +  v²/(2 h)

    The training loss is ½ h x² instead: the process minimizes another function, in which curvature weights velocities alone.
    Summed over directions by the caller.
    """
    weight = (1 + weight_decay / curvature) / (learning_rate * (1 + momentum))
    return weight * position**2, velocity**2 / (2 * curvature)


def _rates(learning_rate: float, momentum: float, total: Numbers) -> tuple[float, Numbers]:
    """γ and ω² for H = h + λ."""
    scale = learning_rate * (1 + momentum)
    return (1 - momentum) / scale, 2 * total / scale


def _waves(steps: Array, learning_rate: float, momentum: float, total: float) -> tuple[float, Array, Array]:
    """γ, e^(-γ t) cos Δt and e^(-γ t) sin(Δt)/Δ at t = η k, with their forms for ω ≤ γ."""
    friction, square = _rates(learning_rate, momentum, total)
    times = learning_rate * np.asarray(steps, dtype=np.float64)
    # One formula for all cases: Δ is imaginary for an overdamped direction. Combined exponents do not overflow.
    delta = np.sqrt(complex(square - friction**2))
    if delta == 0:
        return friction, np.exp(-friction * times), times * np.exp(-friction * times)
    forward, backward = np.exp((-friction + 1j * delta) * times), np.exp((-friction - 1j * delta) * times)
    return friction, ((forward + backward) / 2).real, ((forward - backward) / (2j * delta)).real


def _stable(learning_rate: float, momentum: float, curvature: Numbers, weight_decay: float) -> Numbers:
    """h + λ; raises ValueError unless the process is stable."""
    total = curvature + weight_decay
    rates = np.asarray(learning_rate * total)
    if not (0 <= momentum < 1 and (rates > 0).all() and (rates < 2 * (1 + momentum)).all()):
        raise ValueError(
            f"learning_rate={learning_rate}, momentum={momentum}: not stable with curvatures plus weight decay from "
            f"{float(np.min(total)):.6g} to {float(np.max(total)):.6g}; must be 0 < η (h + λ) < 2 (1 + β)"
        )
    return total
