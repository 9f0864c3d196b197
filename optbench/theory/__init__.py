"""Closed forms to compare with measurements: random matrices, stability, random slices, quadratic models with noise (no torch).

Every function takes and returns plain numbers, or numpy arrays if one argument is an array.
"""

from optbench.theory.effective_batch import critical_batch, effective_batch
from optbench.theory.greedy import GreedyStep, greedy_step, information_bound
from optbench.theory.heavy_ball import HeavyBall, heavy_ball_modulus, polyak
from optbench.theory.learning_rates import (
    adaptive_crossover,
    largest_adaptive_learning_rate,
    largest_learning_rate,
    largest_learning_rate_at_batch,
    least_damping,
    mean_square_threshold,
)
from optbench.theory.least_squares import (
    largest_least_squares_learning_rate,
    least_squares_moments,
    stationary_least_squares_moments,
)
from optbench.theory.noisy_quadratic import (
    LinearMethod,
    risk,
    second_moment,
    stationary_covariance,
    stationary_second_moment,
)
from optbench.theory.random_slices import principal_curvatures, saddle_frequency
from optbench.theory.rates import (
    Contraction,
    gradient_descent,
    gradient_descent_modulus,
    largest_nesterov_learning_rate,
    nesterov,
    nesterov_modulus,
    nesterov_on_quadratics,
)
from optbench.theory.spiked_additive import noise_radius
from optbench.theory.spiked_additive import outlier as additive_outlier
from optbench.theory.spiked_additive import squared_overlap as additive_overlap
from optbench.theory.spiked_wishart import bulk_edge as wishart_edge
from optbench.theory.spiked_wishart import outlier as wishart_outlier
from optbench.theory.steady_state import (
    CurvatureTerms,
    balancing_temperature,
    curvature_terms,
    effective_potential,
    least_squares_shift,
    mass_below,
    sgd_covariance,
    steady_density,
    well_weights,
)
from optbench.theory.steps_to_target import steps_to_target
from optbench.theory.tuned_steps import Spectrum, TunedSteps, harmonic_spectrum, steps_by_batch, tuned_steps

__all__ = [
    "Contraction",
    "CurvatureTerms",
    "GreedyStep",
    "HeavyBall",
    "LinearMethod",
    "Spectrum",
    "TunedSteps",
    "adaptive_crossover",
    "additive_outlier",
    "additive_overlap",
    "balancing_temperature",
    "critical_batch",
    "curvature_terms",
    "effective_batch",
    "effective_potential",
    "gradient_descent",
    "gradient_descent_modulus",
    "greedy_step",
    "harmonic_spectrum",
    "heavy_ball_modulus",
    "information_bound",
    "largest_adaptive_learning_rate",
    "largest_learning_rate",
    "largest_learning_rate_at_batch",
    "largest_least_squares_learning_rate",
    "largest_nesterov_learning_rate",
    "least_damping",
    "least_squares_moments",
    "least_squares_shift",
    "mass_below",
    "mean_square_threshold",
    "nesterov",
    "nesterov_modulus",
    "nesterov_on_quadratics",
    "noise_radius",
    "polyak",
    "principal_curvatures",
    "risk",
    "saddle_frequency",
    "second_moment",
    "sgd_covariance",
    "stationary_covariance",
    "stationary_least_squares_moments",
    "stationary_second_moment",
    "steady_density",
    "steps_by_batch",
    "steps_to_target",
    "tuned_steps",
    "well_weights",
    "wishart_edge",
    "wishart_outlier",
]
