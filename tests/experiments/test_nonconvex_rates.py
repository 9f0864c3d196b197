"""The study of rates: its grid, its table of eigenvalues, and made-up runs whose rates are known."""

import json
import math
import sys
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from optbench.analysis.studies import analysis_of, folder_of
from optbench.analysis.study import Study
from optbench.data.problems import pl_sine, star_convex
from optbench.sweep.plan import Entry, Plan
from tests.experiments.made_runs import expanded

METHODS = {
    "sgd", "momentum", "nesterov", "adam", "lbfgs", "cubic_newton", "saddle_free", "perturbed_sgd", "zeroth_order",
}  # fmt: skip


@cache
def configs_of(scale, *words):
    _, expansion = expanded("nonconvex_rates", scale, *words)
    return [cell.config for cell in expansion.cells]


def step_of(config):
    return config["optimizer"].get("regularization") or config["optimizer"]["learning_rate"]


# ---- grid ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "count"), [("nesterov_skokov", 9), ("saddle", 18)])
def test_every_method_has_three_step_sizes_on_a_problem(problem, count):
    """On the saddle problem once more, from its ridge."""
    lattice, count_of_cells = {}, 0
    for config in configs_of("laptop", "seed=0", f"dataset={problem}"):
        spread = config["model"]["spread"]
        lattice.setdefault((config["optimizer"]["name"], spread), set()).add(step_of(config))
        assert config["budget"]["target"] == 1e-8
        assert config["precision"] == "fp64"
        assert config["optimizer"]["name"] != "cubic_newton" or config["optimizer"]["learning_rate"] == 1
        count_of_cells += 1
    assert {name for name, _ in lattice} == METHODS
    assert len(lattice) == count
    assert all(len(steps) == 3 for steps in lattice.values())
    assert count_of_cells == 3 * count


def test_smoke_has_every_part():
    configs = configs_of("smoke")
    assert {config["optimizer"]["name"] for config in configs} == METHODS
    assert {config["dataset"]["name"] for config in configs} == {"saddle", "pl_sine", "digits"}
    assert {config["budget"]["steps"] for config in configs if config["dataset"].get("noise")} == {200, 800}
    for config in configs:  # c / (d + 2) with c = 10 or 30
        if config["dataset"]["name"] == "digits" and config["optimizer"]["name"] == "zeroth_order":
            hidden = (config["model"].get("hidden") or [0])[0]
            weights = 65 * hidden + 10 * hidden + 10 if hidden else 650
            assert config["optimizer"]["learning_rate"] * (weights + 2) in (
                pytest.approx(10, rel=1e-4),
                pytest.approx(30),
            )


# ---- theory -------------------------------------------------------------------------------------------------------------


def test_the_table_of_eigenvalues_is_that_of_closed_forms():
    table = pd.read_csv(folder_of("nonconvex_rates") / "curvatures.csv").groupby("problem")["eigenvalue"].apply(list)
    assert table["pl_sine"] == pytest.approx([8])
    assert table["star_convex"] == pytest.approx([2])
    assert table["saddle"] == pytest.approx([1, 2])
    assert table["beale"] == pytest.approx([0.3014636, 48.9797864])
    assert table["rosenbrock"] == pytest.approx([501 - math.sqrt(250601), 501 + math.sqrt(250601)])
    # 2 JᵀJ with the gradients (½, 0, 0), (-4, 1, 0) and (0, -4, 1) of the residuals at (1, 1, 1).
    rows = np.array([[0.5, 0, 0], [-4, 1, 0], [0, -4, 1]])
    assert table["nesterov_skokov"] == pytest.approx(np.linalg.eigvalsh(2 * rows.T @ rows), rel=1e-6)
    assert len(table["phase_retrieval"]) == 10


def module(name):
    analysis_of("nonconvex_rates")
    return sys.modules[name]


@pytest.mark.parametrize("load", [pl_sine.load, star_convex.load])
def test_the_distance_and_the_slope_of_a_value_are_those_of_the_problem(load):
    rates, problem = module("measured_rates"), load("").spec.problem
    name = load.__module__.rpartition(".")[2]
    for x in (-4.0, -0.3, 1e-3, 2.0, 9.0):
        point = torch.tensor([x], dtype=torch.float64)
        value = float(problem(point))
        assert rates.distance(name, value) == pytest.approx(abs(x), rel=1e-9)
        assert rates.slopes(name, np.array([value])) == pytest.approx(
            float(torch.func.grad(problem)(point).abs()), rel=1e-9
        )
    assert rates.SMOOTHNESS[name] == problem.smoothness
    assert rates.distance(name, 0.0) == 0


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
def test_the_predicted_factor_is_that_of_torch(optimizer):
    """On the two eigenvalues of the saddle problem, with torch.optim.SGD on the quadratic."""
    h, rate = torch.tensor([1.0, 2.0], dtype=torch.float64), 0.05
    point = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    method = torch.optim.SGD(
        [point], rate, momentum=0.0 if optimizer == "sgd" else 0.9, nesterov=optimizer == "nesterov"
    )
    values = []
    for _ in range(400):
        value = 0.5 * (h * point**2).sum()
        values.append(value.item())
        method.zero_grad()
        value.backward()
        method.step()
    predicted = module("measured_rates").predicted_factor("saddle", optimizer, rate)
    assert (values[350] / values[50]) ** (1 / 300) == pytest.approx(predicted, rel=0.01)


# ---- made-up runs -------------------------------------------------------------------------------------------------------


def store(root, runs):
    """A sweep of runs: each a configuration, its losses by step, the status and more of its summary."""
    plan, entries = Plan(root, "nonconvex_rates"), []
    for number, (config, losses, more) in enumerate(runs):
        directory = plan.directory(f"run-{number:04d}")
        directory.create(json.dumps(config))
        if losses is not None:
            for step, loss in losses.items():
                row = {"step": step, "samples": step, "seconds": 0.1}
                if step:
                    evaluated = {"validation_loss": loss, "train_loss": loss}
                    directory.append({"event": "evaluation", **row, **evaluated})
                else:
                    directory.append({"event": "train", **row, "step": 1, "loss": loss})
            names = {key: config[key]["name"] for key in ("optimizer", "model", "dataset")}
            rate, status = config["optimizer"]["learning_rate"], more.get("status", "done")
            summary = names | {"batch": config["batch"], "seed": config["seed"], "base_learning_rate": rate}
            summary |= {"learning_rate": rate, "steps": max(losses), "validation_loss": losses[max(losses)]}
            oracle = {"oracle_values": 0, "oracle_gradients": max(losses), "oracle_products": 0}
            directory.finish({"run_id": directory.run_id, **summary, **oracle, **more, "status": status}, status)
        entries.append(Entry(directory.run_id, {"seed": str(config["seed"])}))
    plan.extend(entries, {"experiment": "nonconvex_rates", "scale": "smoke"})
    return Study.read(root, "nonconvex_rates")


def on_problem(dataset, optimizer, rate, seed, target=1e-8, spread=0.1, noise=0.0, steps=1000, **options):
    return {
        "optimizer": {"name": optimizer, "learning_rate": rate, "info": {}, **options},
        "model": {"name": "problem", "spread": spread, "excess": True},
        "dataset": {"name": dataset, "noise": noise},
        "budget": {"steps": steps, "target": target, "target_metric": "validation_loss"},
        "batch": 1,
        "seed": seed,
        "trial": 0,
    }


def on_digits(optimizer, rate, seed, hidden):
    return {
        "optimizer": {"name": optimizer, "learning_rate": rate, "info": {}},
        "model": {"name": "mlp", "hidden": [hidden]},
        "dataset": {"name": "digits"},
        "budget": {"steps": 1000, "target": None},
        "batch": 128,
        "seed": seed,
        "trial": 0,
    }


def falling(factor, steps=400, every=10, start=1.0, end=1e-8):
    losses = {step: start * factor**step for step in range(every, steps + 1, every)}
    kept = {step: loss for step, loss in losses.items() if loss > end}
    reached = [step for step in losses if step not in kept]
    return kept | ({reached[0]: losses[reached[0]]} if reached else {})


def lattice_runs():
    """Gradient descent on the saddle problem with its theory; L-BFGS of which seed 0 prefers what the others do not."""
    runs = []
    for seed in range(3):
        for rate in (0.05, 0.15):
            runs.append((on_problem("saddle", "sgd", rate, seed), falling((1 - rate) ** 2, 400), {}))
        runs.append((on_problem("saddle", "sgd", 5.0, seed), {10: 1.0}, {"status": "diverged"}))
        for rate, factor in ((0.1, 0.5), (1.0, 0.8 if seed == 0 else 0.2)):
            calls = {"oracle_values": 0, "oracle_gradients": 7 if rate == 1.0 else 3 + 10 * (seed > 0)}
            runs.append((on_problem("saddle", "lbfgs", rate, seed), falling(factor, 200, 1), calls))
        for rate in (0.05, 0.15):
            stuck = {step: 0.25 + 0.1 * 0.5**step for step in range(10, 301, 10)}
            runs.append((on_problem("saddle", "sgd", rate, seed, spread=0), stuck, {}))
        perturbed = on_problem("saddle", "perturbed_sgd", 0.5, seed, spread=0)
        runs.append((perturbed, falling(0.9), {}))
        runs.append(
            (on_problem("beale", "adam", 0.25, seed), {step: 1e-3 + step / 1e6 for step in range(10, 301, 10)}, {})
        )
        runs.append((on_problem("beale", "sgd", 0.1, seed), falling(0.99, 1000, end=0), {}))
    return runs


def test_each_seed_is_reported_at_the_step_size_that_the_others_choose(tmp_path):
    findings = analysis_of("nonconvex_rates")(store(tmp_path, lattice_runs()))
    table = findings.tables["oracle_calls"].set_index(["problem", "optimizer"])
    own = table.loc[("saddle", "sgd")]
    assert own["step_sizes"] == "0.15"
    assert own["arrived"] == 3
    assert own["gradients"] == own["calls"] == math.ceil(math.log(1e-8) / math.log(0.85**2) / 10) * 10
    # Seed 0 would choose 0.1, where it has 3 calls; the others have 13 there and 7 at 1.
    own = table.loc[("saddle", "lbfgs")]
    assert own["calls_max"] == own["calls_min"] == 7
    assert own["step_sizes"] == "1"
    assert own["at_an_end"] == 3
    words = " ".join(findings.notes)
    assert "From the ridge of the saddle point Perturbed SGD reaches a minimum; SGD stays at 0.25" in words
    assert table.loc[("beale", "adam"), "why"] == "moves around 0.0012"
    assert table.loc[("beale", "sgd"), "why"] == "is at 4.3e-05 after 1000 steps"
    assert math.isinf(table.loc[("beale", "sgd"), "calls"])
    assert "SGD 1, L-BFGS 1, Adam 0" in findings.answer
    assert "beale: no method arrives; not with every seed: Adam (0 of 3: moves around 0.0012)" in words


def test_a_seed_has_no_part_in_its_own_choice():
    """Of the medians 4 and 6 of all seeds the first is the smaller; of seeds 1 and 2 alone it is 6.5."""
    rows = [
        {"problem": "beale", "optimizer": "sgd", "seed": seed, "step_size": step, "calls": calls, "excess": excess}
        for step, excess, own in ((0.1, 9e-9, (1, 9, 4)), (0.2, 1e-9, (6, 6, 6)))
        for seed, calls in enumerate(own)
    ]
    found = module("oracle_cells").chosen(pd.DataFrame(rows)).set_index("seed")["step_size"]
    assert found.to_dict() == {0: 0.2, 1: 0.1, 2: 0.1}


def test_a_step_size_with_which_all_diverge_is_named(tmp_path):
    runs = [(on_problem("beale", "sgd", 5.0, seed), {10: 1.0}, {"status": "diverged"}) for seed in range(3)]
    table = analysis_of("nonconvex_rates")(store(tmp_path, [*lattice_runs()[:3], *runs])).tables["oracle_calls"]
    assert table.set_index(["problem", "optimizer"]).loc[("beale", "sgd"), "why"] == "diverges"


def test_factors_that_keep_to_theory_agree_and_others_do_not(tmp_path):
    findings = analysis_of("nonconvex_rates")(store(tmp_path, lattice_runs()))
    table = findings.tables["local_factors"].set_index(["problem", "optimizer", "step_size"])
    assert table.loc[("saddle", "sgd", 0.05), "predicted"] == pytest.approx(0.95**2)
    assert table.loc[("saddle", "sgd", 0.05), "ratio"] == pytest.approx(1)
    assert "it agrees" in " ".join(findings.notes)
    slow = [(config, falling(0.96, 900), more) for config, _, more in lattice_runs()[:1]]
    notes = analysis_of("nonconvex_rates")(store(tmp_path / "slow", slow)).notes
    assert any("it does not agree" in note for note in notes)


@pytest.mark.parametrize(
    ("problem", "faster"), [("pl_sine", True), ("pl_sine", False), ("star_convex", True), ("star_convex", False)]
)
def test_a_bound_that_is_exceeded_is_said_to_be(tmp_path, problem, faster):
    """The bounds themselves as paths, times 0.99 or 1.01; of star_convex from |x| = 3, where f_0 = 3 (1 - e^-3)."""
    losses = {0: 9.0597446} if problem == "pl_sine" else {0: 3 * (1 - math.exp(-3))}
    for k in range(1, 41):
        bound = (1 - 0.1755309 / 8) ** k * losses[0] if problem == "pl_sine" else min(2 * 9 / (2 * k), losses[0])
        losses[k] = bound * (0.99 if faster else 1.01)
    run = on_problem(problem, "sgd", 0.125, 0, target=None, spread=3, steps=40)
    findings = analysis_of("nonconvex_rates")(store(tmp_path, [(run, losses, {})]))
    row = findings.tables["bounds_along_descent"].iloc[0]
    assert row["start"] == pytest.approx(3, abs=1e-6)
    assert row["share"] == pytest.approx(0.99 if faster else 1.01)
    assert ("no bound is exceeded" in " ".join(findings.notes)) == (faster and row["gradient_share"] <= 1)


def test_sgd_across_lengths(tmp_path):
    """A gradient of K^-¼ at every step after the start, of which f' = 6 - 3 |sin 6| is the gradient."""
    rates = module("measured_rates")
    runs = []
    for length in (200, 800, 3200):
        x = float(length) ** -0.25 / 8  # f' is 8 x near 0
        losses = dict.fromkeys(range(1, length + 1), rates.FUNCTIONS["pl_sine"](x))
        config = on_problem(
            "pl_sine", "sgd", 0.5 / math.sqrt(length), 0, target=None, spread=0, noise=1.0, steps=length
        )
        runs += [({**config, "seed": seed}, losses, {}) for seed in range(3)]
    table = analysis_of("nonconvex_rates")(store(tmp_path, runs)).tables["sgd_across_lengths"]
    for length, own in table.groupby("steps"):
        slope = rates.DERIVATIVES["pl_sine"](length**-0.25 / 8)
        first = 6 + 3 * math.sin(6)
        expected = math.sqrt(((length - 0.5) * slope**2 + 0.5 * first**2) / length)
        assert own["gradient"].to_numpy() == pytest.approx(expected)
        assert own["slope_along"].to_numpy() == pytest.approx(0, abs=1e-9)
    found = rates.slope_of(table)
    assert -0.35 < found.estimate < -0.25


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_steps_without_gradients_that_grow_as_the_dimension(tmp_path, penalty):
    """The loss 2.3 e^-t of the flow, and without gradients 2.3 e^-(t / r), with r = 1.1 (d + 2)^penalty."""
    runs = []
    for hidden in (8, 24, 72):
        weights = 75 * hidden + 10
        factor = 1.1 * ((weights + 2) / 612) ** penalty
        for seed in range(3):
            flow = {step: 2.3 * math.exp(-0.25 * step) for step in range(1, 20)}
            rate = 10 / (weights + 2)
            steps = range(1, 2 * weights, 5)
            own = {step: 2.3 * math.exp(-rate * step / factor) for step in steps}
            runs.append((on_digits("sgd", 0.25, seed, hidden), flow, {"parameters": weights}))
            runs.append((on_digits("zeroth_order", rate, seed, hidden), own, {"parameters": weights}))
    findings = analysis_of("nonconvex_rates")(store(tmp_path, runs))
    table = findings.tables["sums_of_step_sizes"].set_index("weights")
    assert table["ratio"].to_numpy() == pytest.approx(
        [1.1 * ((w + 2) / 612) ** penalty for w in (610, 1810, 5410)], rel=0.03
    )
    assert (table["c"] == 10).all()
    words = " ".join(findings.notes)
    assert (": at equal sums they grow as d" in words) == (penalty == 0)
    assert ("outside of a factor of 1.25" in words) == (penalty > 0)
    for chart in findings.charts:
        assert chart.matplotlib().axes, chart.name


def test_a_loss_that_gradient_descent_does_not_reach_is_no_comparison(tmp_path):
    slow = dict.fromkeys(range(1, 20), 2.0)
    own = {step: 2.3 * math.exp(-step / 61.2) for step in range(1, 300)}
    runs = [(on_digits(name, rate, 0, 8), losses, {"parameters": 610}) for name, rate, losses in (
        ("sgd", 0.25, slow), ("zeroth_order", 10 / 612, own),
    )]  # fmt: skip
    findings = analysis_of("nonconvex_rates")(store(tmp_path, runs))
    assert findings.tables["sums_of_step_sizes"]["arrived"].tolist() == [0]
    assert "Zeroth order with c = 10 and 610 weights does not reach the loss of the comparison." in findings.notes


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_sweep_that_has_hardly_begun(tmp_path, kept):
    runs = [run if place < kept else (run[0], None, {}) for place, run in enumerate(lattice_runs())]
    findings = analysis_of("nonconvex_rates")(store(tmp_path, runs))
    assert ("ot enough runs" in findings.answer) == (kept == 0)
    words = " ".join([findings.answer, *findings.notes])
    assert "nan" not in words.split()
    for chart in findings.charts:
        assert chart.matplotlib().axes, chart.name
