"""Curvature, noise and landscapes, as functions of an objective or of any product with a symmetric matrix."""

from optbench.curvature.convexity import ConvexityMap, convexity_map
from optbench.curvature.density import Density, Quadrature, lanczos_quadrature
from optbench.curvature.directions import (
    EigenDirection,
    cosine,
    hessian_directions,
    principal_curvatures,
    random_direction,
)
from optbench.curvature.extremes import extreme_eigenpairs
from optbench.curvature.gradient_noise import NoiseScale, squared_norms
from optbench.curvature.lanczos import Lanczos, RitzPairs, RitzValues, lanczos
from optbench.curvature.normalization import normalize, transposed_groups
from optbench.curvature.operators import Operator, dense_operator, displaced_loss, in_float64, operator
from optbench.curvature.power_iteration import PowerIteration, power_iteration
from optbench.curvature.profiles import Profile, growth_exponents, logarithmic_radii, profile
from optbench.curvature.sharpness import Sharpness, ball_sharpness, box_sharpness, loss_and_gradient, relative_scale
from optbench.curvature.surfaces import Line, Surface, evaluation, grid, interpolation, line, model_state
from optbench.curvature.traces import (
    Estimate,
    ProjectedTrace,
    StoppingRule,
    frobenius_norm,
    hutch_plus_plus_trace,
    hutchinson_trace,
    plateau_step,
    projected_trace,
    trace_and_frobenius_norm,
)
from optbench.curvature.trajectory import PrincipalPlane, principal_components

__all__ = [
    "ConvexityMap",
    "Density",
    "EigenDirection",
    "Estimate",
    "Lanczos",
    "Line",
    "NoiseScale",
    "Operator",
    "PowerIteration",
    "PrincipalPlane",
    "Profile",
    "ProjectedTrace",
    "Quadrature",
    "RitzPairs",
    "RitzValues",
    "Sharpness",
    "StoppingRule",
    "Surface",
    "ball_sharpness",
    "box_sharpness",
    "convexity_map",
    "cosine",
    "dense_operator",
    "displaced_loss",
    "evaluation",
    "extreme_eigenpairs",
    "frobenius_norm",
    "grid",
    "growth_exponents",
    "hessian_directions",
    "hutch_plus_plus_trace",
    "hutchinson_trace",
    "in_float64",
    "interpolation",
    "lanczos",
    "lanczos_quadrature",
    "line",
    "logarithmic_radii",
    "loss_and_gradient",
    "model_state",
    "normalize",
    "operator",
    "plateau_step",
    "power_iteration",
    "principal_components",
    "principal_curvatures",
    "profile",
    "projected_trace",
    "random_direction",
    "relative_scale",
    "squared_norms",
    "trace_and_frobenius_norm",
    "transposed_groups",
]
