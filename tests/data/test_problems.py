"""Problems with known answers: values, gradients and Hessians at known points, their examples, and training on them."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from optbench import config
from optbench.curvature.profiles import logarithmic_radii, profile
from optbench.data.problems import (
    beale,
    beale_starts,
    branin,
    deep_linear,
    matrix_factorization,
    matrix_sensing,
    nesterov_skokov,
    phase_retrieval,
    pl_sine,
    rosenbrock,
    saddle,
    star_convex,
    tensor_decomposition,
    two_magnitudes,
)
from optbench.data.source import BatchSource
from optbench.errors import UserError
from optbench.models.problem import Problem as Model
from optbench.objective.losses import Value
from optbench.training import build, run

LOADED = {
    "rosenbrock": lambda: rosenbrock.load("", dimension=3),
    "nesterov_skokov": lambda: nesterov_skokov.load("", dimension=4),
    "beale": lambda: beale.load(""),
    "beale_starts": lambda: beale_starts.load("", extent=1, shift=0.5),
    "branin": lambda: branin.load(""),
    "pl_sine": lambda: pl_sine.load(""),
    "star_convex": lambda: star_convex.load(""),
    "saddle": lambda: saddle.load(""),
    "phase_retrieval": lambda: phase_retrieval.load("", dimension=4, measurements=None),
    "phase_retrieval of rows": lambda: phase_retrieval.load("", dimension=4, measurements=40),
    "matrix_factorization": lambda: matrix_factorization.load("", rows=4, columns=3, singular_values=[3.0, 2.0, 0.5]),
    "matrix_sensing": lambda: matrix_sensing.load("", rows=4, columns=3, rank=1, singular_values=[2.0]),
    "matrix_completion": lambda: matrix_sensing.load_completion("", rows=4, columns=3, entries=9),
    "tensor_decomposition": lambda: tensor_decomposition.load(""),
    "deep_linear": lambda: deep_linear.load(""),
    "two_magnitudes": lambda: two_magnitudes.load(""),
}
WORDS = ["model=problem", "batch=1", "tracker=none", "progress=false", "trainer.accelerator=cpu", "precision=fp64"]


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def problem_of(raw):
    return raw.spec.problem


def gradient(problem, at):
    return torch.func.grad(problem)(at)


def eigenvalues(problem, at):
    return torch.linalg.eigvalsh(torch.func.hessian(problem)(at))


def close(found, *expected, atol=1e-6):
    torch.testing.assert_close(found, numbers(*expected), rtol=0, atol=atol)


# ---- the facts that every problem states ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOADED)
def test_its_minimizers_have_the_lowest_value_and_no_gradient(name):
    problem = problem_of(LOADED[name]())
    for point in problem.minimizers:
        assert float(problem(point)) == pytest.approx(problem.minimum, abs=1e-12)
        close(gradient(problem, point), *[0.0] * len(point), atol=1e-10)
    generator = torch.Generator().manual_seed(0)
    lowest = min(float(problem(5 * torch.randn(len(problem.start), generator=generator).double())) for _ in range(200))
    assert lowest >= problem.minimum


@pytest.mark.parametrize("name", LOADED)
def test_the_function_falls_from_its_saddles_and_their_gradient_is_0(name):
    problem = problem_of(LOADED[name]())
    for point in problem.saddles:
        close(gradient(problem, point), *[0.0] * len(point), atol=1e-10)
        generator = torch.Generator().manual_seed(0)
        steps = 0.3 * torch.randn(300, len(point), generator=generator).double()
        assert min(float(problem(point + step)) for step in steps) < float(problem(point))


@pytest.mark.parametrize(("name", "lowest"), [("pl_sine", -4.0), ("star_convex", -math.exp(-3))])
def test_the_second_derivative_is_within_its_bound(name, lowest):
    problem = problem_of(LOADED[name]())
    points = torch.linspace(-20, 20, 4001).double()[:, None]
    curvature = torch.vmap(torch.func.hessian(problem))(points + 1e-4).flatten()
    assert curvature.abs().max() <= problem.smoothness
    assert curvature.abs().max() > 0.99 * problem.smoothness
    assert curvature.min() == pytest.approx(lowest, abs=1e-4)


# ---- each against closed forms ----------------------------------------------------------------------------------------------


def test_pl_sine():
    problem = problem_of(pl_sine.load(""))

    def ratio(x):
        return 0.5 * (2 * x + 3 * math.sin(2 * x)) ** 2 / (x**2 + 3 * math.sin(x) ** 2)

    found = minimize_scalar(ratio, bounds=(1.5, 3.0), method="bounded", options={"xatol": 1e-10})
    assert found.x == pytest.approx(2.2017092, abs=1e-5)
    assert found.fun == pytest.approx(0.17553098588, abs=1e-10)
    points = np.linspace(0.01, 30, 100_000)
    everywhere = 0.5 * (2 * points + 3 * np.sin(2 * points)) ** 2 / (points**2 + 3 * np.sin(points) ** 2)
    assert found.fun - 1e-7 < problem.pl_constant <= min(found.fun, everywhere.min())
    assert problem.pl_constant > 1 / 32
    # Gradient descent with the step 1/8.
    point, values = problem.start.clone(), []
    for _ in range(300):
        values.append(float(problem(point)))
        point = point - gradient(problem, point) / 8
    assert values[:3] == pytest.approx([9.0597446, 7.0492337, 6.7098483], abs=1e-7)
    ratios = [after / before for before, after in itertools.pairwise(values) if before > 1e-200]
    assert max(ratios) == pytest.approx(0.95186, abs=1e-5)
    assert max(ratios) <= 1 - problem.pl_constant / 8


def test_star_convex():
    problem = problem_of(star_convex.load(""))
    assert float(problem(numbers(-2.0))) == pytest.approx(2 * (1 - math.exp(-2)))
    points = torch.cat([torch.logspace(-4, 1.5, 200), -torch.logspace(-4, 1.5, 200)]).double()[:, None]
    ratios = torch.stack([gradient(problem, x) @ x / problem(x) for x in points])
    assert (ratios >= problem.quasar_constant - 1e-12).all()
    assert ratios[0] == pytest.approx(2, abs=1e-3)
    assert ratios[199] == pytest.approx(1, abs=1e-3)
    close(eigenvalues(problem, numbers(2.0)), 0.0, atol=1e-12)
    close(eigenvalues(problem, numbers(3.0)), -math.exp(-3), atol=1e-12)
    assert float(problem(numbers(0.0))) == 0.0
    close(gradient(problem, numbers(0.0)), 0.0)


def test_rosenbrock():
    problem = problem_of(rosenbrock.load(""))
    assert float(problem(problem.start)) == pytest.approx(24.2)
    close(gradient(problem, problem.start), -215.6, -88.0, atol=1e-10)
    close(eigenvalues(problem, problem.start), 23.633, 1506.367, atol=1e-3)
    close(eigenvalues(problem, numbers(1.0, 1.0)), 501 - math.sqrt(250601), 501 + math.sqrt(250601), atol=1e-9)
    wide = problem_of(rosenbrock.load("", dimension=5))
    close(wide.start, -1.2, 1.0, -1.2, 1.0, -1.2)
    # 2.2² + 100 · 0.44², then 0 + 100 · 2.2², and both again.
    assert float(wide(wide.start)) == pytest.approx(2 * (4.84 + 19.36 + 484))


def test_nesterov_skokov():
    problem = problem_of(nesterov_skokov.load("", dimension=4))
    close(problem.start, -1.0, 1.0, 1.0, 1.0)
    assert float(problem(problem.start)) == 1.0
    # On the curve of Chebyshev polynomials xᵢ = cos(2^(i-1) a) only the first term is left.
    for angle in (0.3, 1.1, 2.9):
        point = numbers(*(math.cos(2**number * angle) for number in range(4)))
        assert float(problem(point)) == pytest.approx((math.cos(angle) - 1) ** 2 / 4)
    assert float(problem(numbers(0.0, 0.0, 0.0, 0.0))) == 0.25 + 3


def test_beale():
    problem = problem_of(beale.load(""))
    close(problem.minimizers[0], 3.0, 0.5)
    # The residuals are 0, so that the Hessian is 2 JᵀJ, with the rows (yᵏ - 1, k x yᵏ⁻¹) of J.
    rows = numbers(-0.5, 3.0, -0.75, 3.0, -0.875, 2.25).view(3, 2)
    torch.testing.assert_close(torch.func.hessian(problem)(numbers(3.0, 0.5)), 2 * rows.T @ rows)
    close(eigenvalues(problem, numbers(3.0, 0.5)), 0.3014636, 48.9797864, atol=1e-7)
    close(problem.saddles[0], 0.0, 1.0)
    assert float(problem(problem.saddles[0])) == 14.203125
    close(torch.func.hessian(problem)(problem.saddles[0]), *[[0.0, 27.75], [27.75, 0.0]])
    assert float(problem(numbers(0.0, 0.0))) == 14.203125
    assert float(problem(numbers(1.0, 2.0))) == pytest.approx(2.5**2 + 5.25**2 + 9.625**2)


def test_branin():
    problem = problem_of(branin.load(""))
    close(problem.minimizers[:, 0], -math.pi, math.pi, 3 * math.pi)
    close(problem.minimizers[:, 1], 12.275, 2.275, 2.475, atol=1e-12)
    assert problem.minimum == pytest.approx(5 / (4 * math.pi))
    assert problem.minimum == pytest.approx(0.397887, abs=1e-6)
    assert float(problem(numbers(0.0, 0.0))) == pytest.approx(36 + 20 - 10 / (8 * math.pi))
    for point in problem.saddles:
        assert float(problem(point)) == pytest.approx(20 - 10 / (8 * math.pi))
        low, high = eigenvalues(problem, point)
        assert low < 0 < high


def test_saddle():
    problem = problem_of(saddle.load(""))
    close(eigenvalues(problem, problem.saddles[0]), -1.0, 1.0, atol=1e-12)
    assert problem.minimum == -0.25
    assert sorted(problem.minimizers.tolist()) == [[0.0, -1.0], [0.0, 1.0]]
    close(eigenvalues(problem, problem.minimizers[0]), 1.0, 2.0, atol=1e-12)
    # Gradient descent with the step 0.1 leaves |y₀| for 0.1 after about ln(0.1 / |y₀|) / ln 1.1 steps.
    for start, steps in ((1e-3, 49), (1e-6, 121)):
        point, count = numbers(0.5, start), 0
        while abs(point[1]) < 0.1:
            point, count = point - 0.1 * gradient(problem, point), count + 1
        assert count == steps
        assert count == pytest.approx(math.log(0.1 / start) / math.log(1.1), abs=1)


def test_momentum_leaves_a_saddle_point_faster():
    """|y| grows by the larger root of z² - (1 + β + α) z + β, 1 + √0.1 = 1.316228 for α = 0.1 and β = 0.9, against 1 + α."""
    problem = problem_of(saddle.load(""))
    for momentum, factor in ((0.0, 1.1), (0.9, 1.316228)):
        point = torch.nn.Parameter(numbers(0.0, 1e-12))
        method, heights = torch.optim.SGD([point], 0.1, momentum), []
        for _ in range(60):
            heights.append(float(point[1].detach()))
            point.grad = gradient(problem, point.detach())
            method.step()
        assert heights[-1] / heights[-2] == pytest.approx(factor, abs=1e-6)


def test_phase_retrieval():
    size = 5
    problem = problem_of(phase_retrieval.load("", dimension=size, measurements=None, generation_seed=3))
    hidden, other = problem.minimizers
    assert hidden.norm() == pytest.approx(1)
    assert torch.equal(other, -hidden)
    close(eigenvalues(problem, hidden), *[2.0] * (size - 1), 6.0, atol=1e-12)
    close(eigenvalues(problem, torch.zeros_like(hidden)), -3.0, *[-1.0] * (size - 1), atol=1e-12)
    [between] = problem.saddles
    assert float(between @ hidden) == pytest.approx(0, abs=1e-12)
    assert float(problem(between)) == pytest.approx(2 / 3)
    close(eigenvalues(problem, between), -2.0, *[0.0] * (size - 2), 2.0, atol=1e-12)
    assert float(problem.distance(0.5 * other)) == pytest.approx(0.5)
    # A single row: ¼ ((aᵀz)² - (aᵀx)²)².
    single = phase_retrieval.PhaseRetrieval(numbers(0.6, 0.8), numbers(1.0, 2.0)[None], numbers(1.0, 0.0))
    assert float(single(numbers(3.0, -1.0))) == pytest.approx((1 - 2.2**2) ** 2 / 4)


def test_many_measurements_are_their_mean():
    sampled = problem_of(phase_retrieval.load("", dimension=4, measurements=400_000))
    mean = problem_of(phase_retrieval.load("", dimension=4, measurements=None))
    assert torch.equal(sampled.minimizers, mean.minimizers)
    assert float(sampled(sampled.start)) == pytest.approx(float(mean(mean.start)), rel=0.03)


@pytest.mark.parametrize("size", [5, 20])
def test_a_spectral_start_is_near_the_solution(size):
    distances = []
    for seed in range(10):
        raw = phase_retrieval.load("", size, 300 * size, "spectral", seed)
        distances.append(float(problem_of(raw).distance(problem_of(raw).start)))
    assert np.median(distances) < 0.2
    random = problem_of(phase_retrieval.load("", size, 300 * size, "random", 0))
    assert random.distance(random.start) > 0.5


def test_a_spectral_start_has_the_root_of_the_mean_of_the_squares_as_length():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 4, dtype=torch.float64, generator=generator)
    for size in (1.0, 3.0):
        hidden = size * numbers(0.5, -0.5, 0.5, 0.5)
        squares = (rows @ hidden) ** 2
        start = phase_retrieval.spectral_start(rows, squares)
        assert start.norm() == pytest.approx(math.sqrt(float(squares.mean())))
        assert start.norm() == pytest.approx(size, rel=0.15)
        assert abs(float(start @ hidden)) == pytest.approx(float(start.norm()) * size, rel=0.05)


def test_a_spectral_start_needs_measurements():
    with pytest.raises(UserError, match=r"dataset\.start=spectral: is a minimizer with dataset\.measurements=null"):
        phase_retrieval.load("", measurements=None, start="spectral")


def test_matrix_factorization():
    raw = matrix_factorization.load("", rows=5, columns=4, rank=2, singular_values=[3.0, 2.0, 1.0, 0.5])
    problem = problem_of(raw)
    close(torch.linalg.svdvals(problem.target), 3.0, 2.0, 1.0, 0.5, atol=1e-12)
    assert problem.minimum == pytest.approx((1 + 0.25) / 2)
    assert float(problem(torch.zeros(18).double())) == pytest.approx((9 + 4 + 1 + 0.25) / 2)
    assert eigenvalues(problem, torch.zeros(18).double())[0] == pytest.approx(-3)
    left, right = problem.factors(problem.minimizers[0])
    torch.testing.assert_close(left.T @ left, right.T @ right)
    # From a random start gradient descent reaches the minimum: there is no other one.
    weights = problem.start.clone()
    for _ in range(1500):
        weights = weights - 0.1 * gradient(problem, weights)
    assert float(problem(weights)) == pytest.approx(problem.minimum, abs=1e-12)


@pytest.mark.parametrize(
    ("load", "about"), [(matrix_sensing.load, "measurements"), (matrix_sensing.load_completion, "entries")]
)
def test_a_matrix_is_found_from_a_part_of_what_is_known_of_it(load, about):
    problem = problem_of(load("", generation_seed=3))
    close(torch.linalg.svdvals(problem.target), 3.0, 2.0, 0.0, 0.0, 0.0, atol=1e-12)
    assert float(problem(problem.minimizers[0])) == pytest.approx(0, abs=1e-25)
    # At 0 f is -⟨R, U Vᵀ⟩ to second order, for the mean R of the measurements of M.
    products = torch.einsum("mij,ij->m", problem.measurements, problem.target)
    mean = problem.scale * torch.einsum("m,mij->ij", products, problem.measurements)
    zero = torch.zeros(22).double()
    assert float(problem(zero)) == pytest.approx(float(problem.scale / 2 * (products**2).sum()))
    assert float(eigenvalues(problem, zero)[0]) == pytest.approx(-float(torch.linalg.svdvals(mean)[0]))
    weights = problem.start
    for _ in range(1500):
        weights = weights - 0.1 * gradient(problem, weights)
    assert float(problem.relative_error(weights)) < 1e-8
    # With one measurement many matrices fit, and the hidden one is not found.
    little = problem_of(load("", generation_seed=3, **{about: 1}))
    weights = little.start
    for _ in range(1500):
        weights = weights - 0.01 * gradient(little, weights)
    assert float(little(weights)) < 1e-8
    assert float(little.relative_error(weights)) > 0.5


def test_on_the_average_the_measurements_give_the_factorization():
    weights = 0.5 * torch.randn(22, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for load in (matrix_sensing.load, matrix_sensing.load_completion):
        found, expected = [], []
        for seed in range(400):
            problem = problem_of(load("", generation_seed=seed))
            left, right = problem.factors(weights)
            found.append(float(problem(weights)))
            expected.append(float(((left @ right.T - problem.target) ** 2).sum()) / 2)
        difference = np.array(found) - np.array(expected)
        assert abs(difference.mean()) < 4 * difference.std() / 20
    everything = problem_of(matrix_sensing.load_completion("", entries=30))
    whole = matrix_factorization.MatrixFactorization(everything.target, 2, everything.start)
    assert float(everything(weights)) == pytest.approx(float(whole(weights)), rel=1e-12)


@pytest.mark.parametrize(
    ("load", "options", "message"),
    [
        (matrix_sensing.load, {"singular_values": [3.0, 2.0, 1.0]}, r"dataset\.singular_values=.*more than the rank 2"),
        (matrix_sensing.load, {"rank": 6}, r"dataset\.rank=6: more than M of 6 x 5 has; accepted: at most 5"),
        (matrix_sensing.load_completion, {"entries": 31}, r"dataset\.entries=31: .*; accepted: at most 30"),
    ],
)
def test_a_matrix_that_cannot_be_known_is_refused(load, options, message):
    with pytest.raises(UserError, match=message):
        load("", **options)


def test_the_balance_of_two_factors_drifts_with_the_learning_rate():
    problem = problem_of(matrix_factorization.load("", start_size=0.5))

    def drift(rate, time=4.0):
        def balance(weights):
            left, right = problem.factors(weights)
            return left.T @ left - right.T @ right

        weights = problem.start
        for _ in range(round(time / rate)):
            weights = weights - rate * gradient(problem, weights)
        return float((balance(weights) - balance(problem.start)).norm())

    large, small = drift(0.01), drift(0.005)
    assert large / small == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"singular_values": [1.0] * 6},
            r"dataset\.singular_values=\[.*\]: more than M of 6 x 5 has; accepted: at most 5",
        ),
        ({"rank": 6}, r"dataset\.rank=6: more than M of 6 x 5 has; accepted: at most 5"),
    ],
)
def test_factorizations_that_cannot_be_made(options, message):
    with pytest.raises(UserError, match=message):
        matrix_factorization.load("", **options)


def test_tensor_decomposition():
    problem = problem_of(tensor_decomposition.load("", dimension=3))
    components = problem.components
    torch.testing.assert_close(components @ components.T, torch.eye(3).double())
    permuted = components[[2, 0, 1]] * numbers(-1.0, 2.0, -0.3)[:, None]
    assert float(problem(permuted.flatten())) == pytest.approx(0, abs=1e-12)
    assert float(problem(components[[1, 1, 1]].flatten())) == pytest.approx(6)
    # Against the tensor, written out.
    tensor = torch.einsum("ki,kj,kl,km->ijlm", *[components] * 4)
    units = problem.start.view(3, 3)
    written = sum(
        torch.einsum("ijlm,i,j,l,m", tensor, units[i], units[i], units[j], units[j])
        for i in range(3)
        for j in range(3)
        if i != j
    )
    assert float(problem(problem.start)) == pytest.approx(float(written))
    assert float(problem(3 * problem.start)) == pytest.approx(float(written))


def test_deep_linear():
    problem = problem_of(deep_linear.load("", layers=3, singular_values=[2.0, 0.5]))
    close(torch.linalg.svdvals(problem.target), 2.0, 0.5, atol=1e-12)
    origin = torch.zeros(12).double()
    assert float(problem(origin)) == pytest.approx((4 + 0.25) / 2)
    close(eigenvalues(problem, origin), *[0.0] * 12, atol=1e-12)
    first, second, third = problem.start.view(3, 2, 2)
    expected = 0.5 * float(((third @ second @ first - problem.target) ** 2).sum())
    assert float(problem(problem.start)) == pytest.approx(expected)
    shallow = problem_of(deep_linear.load("", layers=2, singular_values=[2.0, 0.5]))
    assert eigenvalues(shallow, torch.zeros(8).double())[0] == pytest.approx(-2)


def test_two_magnitudes():
    """Along (1, ..., 1) the loss has two steps whose distances differ by the ratio of the magnitudes."""
    problem = problem_of(two_magnitudes.load(""))
    (teacher,) = problem.minimizers
    unit = torch.ones(20).double() / math.sqrt(20)
    close(problem.start - teacher, *[1 / math.sqrt(20)] * 20, atol=1e-12)
    assert teacher.std() == pytest.approx(1 / 30, rel=0.5)
    inputs = [sign * size * scale for scale in (1, 30) for sign in (1, -1) for size in (1, 0.7)]

    def written(weights):
        sums = [sum(math.tanh(w * x) - math.tanh(t * x) for w, t in zip(weights, teacher, strict=True)) for x in inputs]
        return sum(0.5 * (each / 20) ** 2 for each in sums) / 8

    assert float(problem(problem.start)) == pytest.approx(written(problem.start.tolist()), rel=1e-12)

    def evaluate(point):
        return {"loss": float(problem(point[0]))}

    found = profile(evaluate, [teacher], [unit], logarithmic_radii(1e-3, 100.0, 40))
    radii = found.radii.numpy()

    def at(values, place):
        return float(np.interp(math.log(place), np.log(radii), values.numpy()))

    exponents = {place: at(found.exponents, place) for place in (0.01, 0.1, 0.46, 1.0, 4.6, 20.0)}
    assert exponents == pytest.approx({0.01: 2.0, 0.1: 1.91, 0.46: 0.39, 1.0: 0.08, 4.6: 0.39, 20.0: 0.01}, abs=0.01)
    assert exponents[0.01] == pytest.approx(2.0, abs=2e-3)
    # As r → 0 input x has the slope x/W Σ sech²(w*ⱼ x)/√W, and on a plateau ½ (1 ± its output)².
    outputs = [sum(math.tanh(t * x) for t in teacher) / 20 for x in inputs]
    slopes = [x / 20 * sum(1 / math.cosh(t * x) ** 2 for t in teacher) / math.sqrt(20) for x in inputs]
    assert float(found.curvatures[0]) == pytest.approx(sum(slope**2 for slope in slopes) / 8, rel=1e-3)
    large = sum(0.5 * (1 + output**2) for output in outputs[4:]) / 8
    assert at(found.symmetrized, 1.0) == pytest.approx(large, abs=0.02)
    assert float(found.symmetrized[-1]) == pytest.approx(sum(0.5 * (1 + output**2) for output in outputs) / 8, rel=1e-6)
    assert at(found.curvatures, 1.0) == pytest.approx(0.52, abs=0.02)
    wide = profile(evaluate, [teacher], [unit], [1e-3, 1e3])
    assert float(wide.symmetrized[1]) == pytest.approx(float(found.symmetrized[-1]), rel=1e-9)


# ---- examples, model and loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOADED)
def test_the_loss_of_every_split_is_the_function(name):
    raw = LOADED[name]()
    source = BatchSource(raw, seed=0, dtype=torch.float64)
    model = Model(raw.spec)
    for split in ("train", "validation", "test"):
        [(inputs, targets)] = source.evaluation(split, 1000, limit=1)
        assert Value()(model(inputs), targets).item() == problem_of(raw)(problem_of(raw).start).item()


def test_gradients_of_examples_have_the_stated_noise():
    raw = rosenbrock.load("", noise=0.7)
    problem, count = problem_of(raw), 100_000
    inputs, targets = BatchSource(raw, seed=3, dtype=torch.float64).batch(0, 0, count)
    model = Model(raw.spec, start=[0.5, 2.0])

    def loss_of(weights, row):
        outputs = torch.func.functional_call(model, {"weights": weights}, (row[None],))
        return Value()(outputs, row.new_empty(1, 0))

    at = numbers(0.5, 2.0)
    gradients = torch.vmap(torch.func.grad(loss_of), (None, 0))(at, inputs)
    mean = numbers(-2 * 0.5 - 400 * 0.5 * 1.75, 200 * 1.75)
    assert ((gradients.mean(0) - mean).abs() < 5 * 0.7 / math.sqrt(count)).all()
    torch.testing.assert_close(gradients.T.cov(), 0.49 * torch.eye(2).double(), rtol=0.02, atol=0.01)
    assert targets.shape == (count, 0)
    # The Hessian of every example is that of the function.
    torch.testing.assert_close(torch.func.hessian(loss_of)(at, inputs[7]), torch.func.hessian(problem)(at))


def test_examples_are_functions_of_the_seed_and_their_number():
    source = BatchSource(beale.load("", noise=1.0, examples=10), seed=2, dtype=torch.float64)
    whole = source.batch(3, 24, 12)[0]
    assert torch.equal(torch.cat([source.batch(3, 24, 12, rank, 3)[0] for rank in range(3)]), whole)
    assert torch.equal(source.batch(9, 30, 6)[0], whole[6:])
    assert len(source.batch(0, 0, 50)[0].unique(dim=0)) == 50
    assert not torch.equal(BatchSource(beale.load("", noise=1.0), 4, dtype=torch.float64).batch(3, 24, 12)[0], whole)


def test_seeds_spread_over_the_start():
    def weights(seed, *words):
        given = ["dataset=rosenbrock", "dataset.dimension=400", f"seed={seed}", *words]
        composed = config.RunConfig.of(config.compose([*WORDS, "optimizer=sgd", *given]))
        return build.build_model(composed, build.load_data(composed)).weights.detach()

    start = problem_of(rosenbrock.load("", dimension=400)).start
    assert torch.equal(weights(0), start)
    first, second = (weights(seed, "model.spread=0.3") - start for seed in (0, 1))
    assert torch.equal(weights(0, "model.spread=0.3") - start, first)
    for drawn in (first, second):
        assert abs(drawn.mean()) < 4 * 0.3 / math.sqrt(400)
        assert drawn.std() == pytest.approx(0.3, rel=0.15)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(weights(0, "model.spread=0.6") - start, 2 * first)


@pytest.mark.parametrize("name", ["branin", "saddle", "matrix_factorization", "beale"])
def test_an_excess_is_the_function_less_its_minimum(name):
    raw = LOADED[name]()
    problem, noise = problem_of(raw), torch.ones(3, len(problem_of(raw).start)).double()
    at = (problem.start + 0.2).tolist()
    found = Model(raw.spec, start=at, excess=True)(noise)
    torch.testing.assert_close(found, Model(raw.spec, start=at)(noise) - problem.minimum)
    lowest = Model(raw.spec, start=problem.minimizers[0].tolist(), excess=True)(0 * noise)
    assert lowest.abs().max() < 1e-12


def test_starts_and_data_that_do_not_fit():
    from optbench.data import quadratic

    with pytest.raises(UserError, match=r"model\.start=\[1\.0\]: has 1 numbers; accepted: null .* 2"):
        Model(beale.load("").spec, start=[1.0])
    with pytest.raises(UserError, match="model=problem: needs the function of its data"):
        Model(quadratic.load("").spec)
    with pytest.raises(ValueError, match="do not match"):
        Value()(torch.zeros(3), torch.zeros(3, 0))


# ---- training on them ---------------------------------------------------------------------------------------------------------


def test_starts_are_evaluated_by_their_geometric_mean(tmp_path):
    """At a learning rate of 0 they stay; 1e6 stands for all that is larger, and for what is no number."""
    raw = beale_starts.load("")
    problem, single = problem_of(raw), problem_of(beale.load(""))
    grid = torch.tensor(list(itertools.product(range(-2, 3), repeat=3))).double()
    values = torch.stack([single(point[:2]) + single(point[[2, 1]]) for point in grid])
    torch.testing.assert_close(problem.values(problem.start), values)
    assert float(problem(problem.start)) == pytest.approx(float(values.sum()))
    shifted = problem_of(beale_starts.load("", shift=7.0))
    torch.testing.assert_close(shifted.values(problem.start + 7), values)
    words = ["optimizer=sgd", "dataset=beale_starts", "optimizer.learning_rate=0", "budget.steps=1"]
    outcome = run.execute(config.compose([*WORDS, *words, f"results_dir={tmp_path}"]))
    assert outcome.summary["test_loss"] == pytest.approx(float(values.log().mean()))
    lost = problem.start.clone()
    lost[:3], lost[3:6] = 1e60, math.nan
    expected = values.log()
    expected[:2] = math.log(1e6)
    assert float(problem.evaluated(lost)) == pytest.approx(float(expected.mean()))
    far = problem.start.clone()
    far[:3] = 1e4
    assert not gradient(problem, far)[:3].any()
    torch.testing.assert_close(gradient(problem, far)[3:], gradient(problem, problem.start)[3:])


def test_gradient_descent_is_the_loop_written_out(tmp_path):
    words = ["optimizer=sgd", "dataset=beale", "optimizer.learning_rate=0.01", "budget.steps=100"]
    outcome = run.execute(config.compose([*WORDS, *words, f"results_dir={tmp_path}"]))
    assert outcome.state == "done", outcome.why
    x, y = 1.0, 1.0
    for _ in range(100):
        errors = [c - x + x * y**k for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))]
        along_x = sum(2 * e * (y**k - 1) for k, e in enumerate(errors, 1))
        along_y = sum(2 * e * k * x * y ** (k - 1) for k, e in enumerate(errors, 1))
        x, y = x - 0.01 * along_x, y - 0.01 * along_y
    value = sum((c - x + x * y**k) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625)))
    for split in ("train", "validation", "test"):
        assert outcome.summary[f"{split}_loss"] == pytest.approx(value, rel=1e-9)
    assert value < 1


NEED_OUTPUTS = ["ekfac", "hessian_free", "kfac", "kfac_natural", "lm", "score_ggn"]


@pytest.mark.parametrize("name", NEED_OUTPUTS)
def test_methods_that_need_the_curvature_of_outputs_are_refused_before_training(tmp_path, name):
    words = [f"optimizer={name}", "dataset=beale", "budget.steps=2"]
    with pytest.raises(UserError) as refusal:
        run.execute(config.compose([*WORDS, *words, f"results_dir={tmp_path}"]))
    cause = (
        "no layer has Kronecker factors" if "kfac" in name else "loss=value: the curvature of the loss in its outputs"
    )
    assert cause in str(refusal.value)
    assert "; accepted: " in str(refusal.value)
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("name", ["saddle_free", "damped_newton"])
def test_newton_types_train_by_products_with_the_hessian(tmp_path, name):
    words = [f"optimizer={name}", "dataset=rosenbrock", "budget.steps=40", "divergence_factor=null"]
    outcome = run.execute(config.compose([*WORDS, *words, f"results_dir={tmp_path}"]))
    assert outcome.state == "done", outcome.why
    assert outcome.summary["test_loss"] < 1e-8


def test_a_loss_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="loss=mse: does not fit model=problem on dataset=beale"):
        config.compose([*WORDS, "dataset=beale", "loss=mse", "budget.steps=2"])
