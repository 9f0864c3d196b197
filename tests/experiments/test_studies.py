"""The four studies of batch sizes and optimizers: each scale expands, and each analysis finds what was put into the store."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from optbench import config as configuration
from optbench.analysis.laws.transfer import reaches
from optbench.analysis.studies import analysis_of
from optbench.analysis.study import Study
from optbench.sweep.grid.grids import expand_experiment
from optbench.sweep.plan import Entry, Plan
from tests.experiments import committed

STUDIES = ("generalization_gap", "scaling_rules", "steps_to_target", "optimizer_comparison")
METHODS = ("sgd", "momentum", "adam", "lamb", "kfac", "sam")
SMALL = [(name, scale) for name in STUDIES for scale in ("smoke", "laptop")]
FULL = [pytest.param(name, "full", marks=pytest.mark.slow) for name in STUDIES]


# ---- grids --------------------------------------------------------------------------------------------------------------


def expanded(name, scale, *words):
    """The sweeper's configuration, and the cells that it makes with ``words`` in place of its own."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(configuration.conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        chosen = [f"experiment={name}", f"scale={scale}"]
        master = loader.load_configuration("config", overrides=chosen, run_mode=RunMode.MULTIRUN)
        said = OmegaConf.to_container(master.hydra.sweeper)
        parts = [said[part] for part in ("params", "scales", "grids", "exclude")]
        return said, expand_experiment(loader, [*chosen, *words], parts, master)


def keys(expansion):
    """The values that tell the cells apart, as tuples of optimizer, batch, trial, learning rate, seed and remedies."""
    found = []
    for cell in expansion.cells:
        config = cell.config
        remedies = (
            config["scaling"]["name"],
            config["schedule"]["warmup"],
            config["ghost_batch_size"],
            config["budget"]["regime_adaptation"],
        )
        optimizer = config["optimizer"]
        found.append(
            (optimizer["name"], config["batch"], config["trial"], optimizer["learning_rate"], config["seed"], remedies)
        )
    return found


@pytest.mark.parametrize(("name", "scale"), [*SMALL, *FULL])
def test_every_scale_expands(name, scale):
    # One seed, few optimizers and batches: of the others only the words differ.
    words = [
        "seed=0",
        *(["batch=32,64"] if name in ("scaling_rules", "steps_to_target") else []),
        *(["optimizer.learning_rate=0.5"] if name == "generalization_gap" else []),
        *(["search=grid"] if name in ("scaling_rules", "generalization_gap", "steps_to_target") else []),
        *(["trial=0,1" if scale == "smoke" else "trial=0", "search=grid"] if name == "optimizer_comparison" else []),
    ]
    said, expansion = expanded(name, scale, *words)
    assert expansion.scale == scale
    cells = keys(expansion)
    seeds = str(said["scales"][scale]["seed"])
    assert scale == "smoke" or seeds in ("range(5)", "range(6)", "range(10)", "0,1,2", "0,1,2,3,4")
    assert (expansion.cells[0].config["launcher"]["name"] == "slurm") == (scale == "full")
    if name == "optimizer_comparison":
        problems = {cell.config["model"]["name"] for cell in expansion.cells}
        assert problems == {"convnet", "resnet_narrow", "char_lstm", "gpt", "autoencoder", "gru"}
        # Equal budgets: every optimizer has as many runs on every problem.
        points = [(cell.config["model"]["name"], cell.config["optimizer"]["name"]) for cell in expansion.cells]
        trials = 2 if scale == "smoke" else 1
        assert set(pd.Series(points).value_counts()) == {trials}
        methods = {method for _, method in points}
        assert len(points) == trials * (31 if scale == "smoke" else 26 * 6)
        assert len(methods) == (6 if scale == "smoke" else 26)
        for cell in expansion.cells:
            is_free = cell.config["optimizer"]["name"].startswith("schedule_free")
            assert cell.config["schedule"]["name"] == ("constant" if is_free else "cosine")
            assert cell.config["schedule"]["warmup"] == "5%"
    if name == "scaling_rules":
        rates = {key[3] for key in cells if key[0] == "sgd"}
        assert sorted(rates) == pytest.approx([2.0 ** (power / 2) for power in range(-14, 11)], rel=1e-3)
        measuring = [cell.config for cell in expansion.cells if "batch_hessian" in cell.config["probe"]]
        assert [(config["optimizer"]["name"], config["batch"]) for config in measuring] == [
            ("momentum", 32 if scale == "smoke" else 64)
        ]
    if name == "generalization_gap":
        batches = sorted({key[1] for key in cells})
        found = {}
        for cell in expansion.cells:
            config = cell.config
            options = config["schedule"]["warmup"], config["ghost_batch_size"], config["budget"]["regime_adaptation"]
            found.setdefault((config["optimizer"]["name"], config["budget"]["epochs"], *options), set()).add(
                config["batch"]
            )
        ghost = 16 if scale == "smoke" else 128
        epochs = 100 if scale == "full" else 4
        plain = {method: found.pop((method, epochs, "5%", ghost, False)) for method in (*METHODS, "lars")}
        assert plain == {**{method: set(batches) for method in METHODS}, "lars": {batches[2]}}
        others = {(epochs, "25%", ghost, False): 2, (epochs, "5%", None, False): 2, (epochs, "5%", ghost, True): 1}
        if scale != "full":
            others |= {(number, "5%", ghost, False): 0 if number < 4 else 2 for number in (1, 2, 16, 64)}
            others[16, "25%", ghost, False] = 2
        assert found == {("momentum", *key): {batches[place]} for key, place in others.items()}
    if name == "steps_to_target":
        measuring = [cell.config for cell in expansion.cells if "noise_scale" in cell.config["probe"]]
        assert {config["optimizer"]["name"] for config in measuring} <= {"sgd"}
        lines = {}
        for cell in expansion.cells:
            if "noise_scale" not in cell.config["probe"]:
                optimizer = cell.config["optimizer"]
                lines.setdefault(optimizer["name"], set()).add(optimizer["learning_rate"])
        assert set(lines) == {"sgd", "nesterov", "adam", "lamb", "kfac"}
        for rates in lines.values():
            steps = np.diff(np.log2(sorted(rates)))
            assert steps == pytest.approx(np.ones(len(steps)), abs=1e-3)


# ---- analyses on made-up runs -------------------------------------------------------------------------------------------


def store(root, name, runs):
    """A sweep of the runs: each a configuration, a summary (None: it has not started), a status and rows of history.

    In optimizer_comparison all seeds but 0 have no part in the choice.
    """
    plan, entries = Plan(root, name), []
    for number, (config, summary, status, rows) in enumerate(runs):
        directory = plan.directory(f"run-{number:04d}")
        directory.create(json.dumps(config))
        for row in rows:
            directory.append(row)
        if summary is not None:
            directory.finish({"run_id": directory.run_id, "status": status, **summary}, status)
        entries.append(Entry(directory.run_id, {"batch": str(config["batch"])}))
    confirm = max(config["seed"] for config, *_ in runs)
    search = {"search": {"name": "halving", "confirm": confirm}} if name == "optimizer_comparison" else {}
    plan.extend(entries, {"experiment": name, "scale": "smoke", **search})
    return Study.read(root, name)


def analyse(name, study):
    """The findings of the study's analysis, with short bootstraps: the intervals need only be sane here."""
    function = analysis_of(name)
    if "REPETITIONS" in function.__globals__:
        function.__globals__["REPETITIONS"] = 40
    return function(study)


def configured(optimizer="momentum", batch=32, seed=0, trial=0, rate=0.1, model="mlp", **changes):
    config = {
        "optimizer": {"name": optimizer, "learning_rate": rate, "info": {}},
        "model": {"name": model},
        "dataset": {"name": "digits", "info": {"size": {"classes": 10}}},
        "scaling": {"name": "none"},
        "schedule": {"name": "constant", "warmup": 0},
        "budget": {"epochs": 10, "regime_adaptation": False, "target": 0.8, "target_metric": "validation_accuracy"},
        "ghost_batch_size": None,
        "batch": batch,
        "seed": seed,
        "trial": trial,
    }
    for key, value in changes.items():
        group, _, option = key.partition("__")
        config = {**config, group: {**config[group], option: value} if option else value}
    return config


def summarized(config, **metrics):
    names = {key: config[key]["name"] for key in ("optimizer", "model", "dataset")}
    same = {key: config[key] for key in ("batch", "seed", "trial")}
    rate = config["optimizer"]["learning_rate"]
    return {**names, **same, "learning_rate": rate, "base_learning_rate": rate, **metrics}


def accuracies(test, gap, validation=None):
    losses = {"train_loss": 0.1, "validation_loss": 0.5, "test_loss": 0.1 + gap}
    shown = {"train_accuracy": test + gap, "validation_accuracy": test if validation is None else validation}
    return {**losses, **shown, "test_accuracy": test, "gap_loss": gap, "gap_accuracy": gap}


def evaluation(step, batch, **metrics):
    return {
        "event": "evaluation",
        "step": step,
        "epoch": step / 10,
        "samples": step * batch,
        "seconds": 0.1 * step,
        **metrics,
    }


def gap_runs():
    """Small minus large batch is 0.04 at the best rates, which grow as the root of the batch; each remedy adds its gain.

    The test accuracy falls by 0.01 for each square of an octave from the best rate. Larger rates than that diverge.
    """
    conditions = {
        # the condition: batch, epochs, test accuracy, train loss, other options
        "small": (32, 4, 0.90, 0.20, {}),
        "large": (256, 4, 0.86, 0.35, {}),
        "1 epoch": (32, 1, 0.86, 0.40, {}),
        "2 epochs": (32, 2, 0.88, 0.30, {}),
        "16 epochs": (256, 16, 0.88, 0.25, {}),
        "64 epochs": (256, 64, 0.89, 0.15, {}),
        "warm": (256, 4, 0.855, 0.35, {"schedule__warmup": "25%"}),
        "together": (256, 16, 0.885, 0.25, {"schedule__warmup": "25%"}),
        "whole": (256, 4, 0.85, 0.35, {"ghost_batch_size": None}),
        "lars": (256, 4, 0.875, 0.35, {"optimizer__name": "lars"}),
        "updates": (64, 8, 0.902, 0.20, {"budget__regime_adaptation": True, "budget__epochs": 4}),
    }
    runs = []
    for name, (batch, epochs, top, train_loss, changes) in conditions.items():
        best = -4.0 if batch < 256 else -2.5
        for method in ("momentum", "adam") if name in ("small", "large") else ("momentum",):
            for seed in range(3):
                for power in np.arange(-7.0, 0.6, 0.5):
                    changed = {"budget__epochs": epochs, "ghost_batch_size": 128, **changes}
                    config = configured(method, batch=batch, seed=seed, rate=2.0**power, **changed)
                    if power >= best + 2:
                        runs.append((config, summarized(config), "diverged", []))
                        continue
                    # The noise of a seed is common to all of its runs, up to a little.
                    test = top - 0.01 * (power - best) ** 2 + 0.02 * seed + 0.0001 * ((seed * 7 + batch) % 3)
                    loss = 0.5 + 0.02 * (power - best) ** 2
                    metrics = accuracies(test, 0.05) | {"validation_loss": loss, "train_loss": train_loss}
                    runs.append((config, summarized(config, **metrics), "done", []))
    return runs


def test_the_generalization_gap_is_found_with_what_the_remedies_add(tmp_path):
    findings = analyse("generalization_gap", store(tmp_path, "generalization_gap", gap_runs()))
    differences = findings.tables["small_minus_large"].set_index(["method", "metric"])
    for kind in ("", "search_"):
        assert differences.loc[("momentum", "test_accuracy"), f"{kind}difference"] == pytest.approx(0.04, abs=3e-4)
        assert differences.loc[("adam", "test_accuracy"), f"{kind}low"] > 0.03
    assert differences.loc[("momentum", "train_loss"), "difference"] == pytest.approx(-0.15)
    added = findings.tables["remedies"].set_index("remedy")
    gains = {
        "batch norm over the whole batch": -0.01,
        "longer warm-up": -0.005,
        "LARS": 0.015,
        "16 epochs": 0.02,
        "64 epochs": 0.03,
        "16 epochs and longer warm-up": 0.025,
        "the small batch's rate": -0.0225,
        "square-root scaling": 0,
        "linear scaling": -0.0225,
        "small batch": 0.04,
    }
    for kind in ("difference", "search_difference"):
        assert added[kind].to_dict() == pytest.approx(gains, abs=3e-4), kind
    assert added.loc["square-root scaling", "rate"] == pytest.approx(2**-2.5)
    updates = findings.tables["equal_updates"].set_index("metric").loc["test_accuracy"]
    assert updates["difference"] == pytest.approx(-0.002, abs=3e-4)
    # At train loss 0.2 the large batch lies between 16 and 64 epochs, in the logarithm of the loss.
    matched = findings.tables["equal_train_loss"].set_index("metric").loc["test_accuracy"]
    between = 0.88 + 0.01 * math.log(0.25 / 0.2) / math.log(0.25 / 0.15)
    assert (matched["train_loss"], matched["seeds"]) == (pytest.approx(0.2), 3)
    assert matched["difference"] == pytest.approx(0.90 - between, abs=3e-4)
    assert "SGD with momentum +4.0" in findings.answer
    assert "64 epochs adds the most, +3.0" in findings.answer
    outcomes = {(claim.claim.split()[0], claim.method): claim.outcome for claim in findings.claims}
    assert outcomes["At", "adam"] == "agrees"
    words = {claim.claim: claim.outcome for claim in findings.claims if claim.method == "momentum"}
    assert words["Training longer repairs the large batch."] == "disagrees"  # 0.03 of 0.04, and the margin is 0.005
    assert words["The linear rule keeps the accuracy."] == "disagrees"
    assert words["Ghost batch norm improves the large batch."] == "agrees"
    assert words["At equal updates the large batch generalizes as well."] == "agrees"
    assert words["Large batches end in sharper minima."] == "not tested"
    drawn(findings)


def test_a_rate_that_is_carried_to_divergence_has_no_difference(tmp_path):
    """Batches 32 and 2048: the linear rule carries the rate by 6 octaves, where all runs diverge."""
    runs = [(config | {"batch": 2048} if config["batch"] == 256 else config, *rest) for config, *rest in gap_runs()]
    runs = [(config, summary | {"batch": config["batch"]}, state, rows) for config, summary, state, rows in runs]
    findings = analyse("generalization_gap", store(tmp_path, "generalization_gap", runs))
    row = findings.tables["remedies"].set_index("remedy").loc["linear scaling"]
    assert math.isnan(row["search_difference"])
    assert row["beyond"] == 1
    row = findings.tables["remedies"].set_index("remedy").loc["square-root scaling"]
    assert row["rate"] == pytest.approx(0.5)
    assert row["search_difference"] == pytest.approx(-0.01 * 1.5**2, abs=3e-4)


def rate_runs(exponents, seeds=2, batches=(16, 32, 64, 256, 1024), bend=math.inf):
    """Loss 0.4 exp(0.1 log2(rate / optimum)^2), optimum 2^-6 (min(batch, bend) / 16)^exponent; from 8 times that it diverges."""
    runs = []
    for optimizer, exponent in exponents.items():
        for batch in batches:
            # With some scatter around the law: without it an interval would have no width.
            best = 2**-6 * (min(batch, bend) / 16) ** exponent * 2 ** (0.06 * math.sin(5 * math.log2(batch)))
            for seed in range(seeds):
                for power in np.arange(-11, 6):
                    rate = 2.0 ** float(power)
                    config = configured(optimizer, batch, seed, rate=rate)
                    if rate >= 8 * best:
                        runs.append((config, summarized(config), "diverged", []))
                        continue
                    loss = 0.4 * math.exp(0.1 * math.log2(rate / best) ** 2) * (1 + 1e-4 * np.sin(37.0 * seed + power))
                    metrics = accuracies(0.9, 0.05) | {"validation_loss": loss}
                    runs.append((config, summarized(config, **metrics), "done", []))
    return runs


def test_the_exponents_of_the_rates_are_found(tmp_path):
    truth = {"sgd": 1.0, "adam": 0.5}
    findings = analyse("scaling_rules", store(tmp_path, "scaling_rules", rate_runs(truth)))
    laws = findings.tables["laws"].set_index("optimizer")
    for optimizer, exponent in truth.items():
        row = laws.loc[optimizer]
        assert row["exponent"] == pytest.approx(exponent, abs=0.03)
        assert row["low"] <= exponent <= row["high"] < row["low"] + 0.2
        assert (row["smallest_batch"], row["largest_batch"], row["batches"]) == (16, 1024, 5)
    assert "SGD as batch^1.00" in findings.answer
    assert "the linear rule is compatible with SGD" in findings.answer
    assert "the square-root rule is compatible with Adam" in findings.answer
    assert "bend" not in findings.answer
    assert "predicted_exponents" not in findings.tables
    outcomes = {(claim.method, claim.source.split()[0]): claim.outcome for claim in findings.claims}
    assert outcomes["sgd", "Goyal"] == "agrees"
    assert outcomes["adam", "Malladi"] == "agrees"
    assert outcomes["momentum", "Goyal"] == "not tested"
    assert findings.answer.startswith(
        "Claims of papers about the linear and the square-root rule: agrees 2, disagrees 0"
    )
    # The rule that is right costs nothing; the other one that much at 64 times the batch (a factor of 8 in the rate).
    transfer = findings.tables["transfer"].set_index(["optimizer", "batch", "rule"])["excess"]
    assert transfer["sgd", 1024, "linear"] == pytest.approx(0, abs=0.02)
    assert transfer["adam", 1024, "square root"] == pytest.approx(0, abs=0.02)
    assert transfer["sgd", 1024, "square root"] == pytest.approx(math.exp(0.1 * 9) - 1, abs=0.15)
    # Half an octave beside the best rate costs 2.5 %, an octave 11 %.
    reach = findings.tables["reach"].set_index(["optimizer", "rule"])
    expected = {
        ("sgd", "linear"): 1024,
        ("sgd", "square root"): 32,
        ("adam", "square root"): 1024,
        ("adam", "linear"): 32,
    }
    assert {key: reach.loc[key, "batch"] for key in expected} == expected
    assert {key: reach.loc[key, "surely"] for key in expected} == expected
    assert any(
        "with linear scaling, costs at most 5 %" in note and "SGD 1024 (1024)" in note for note in findings.notes
    )
    drawn(findings)


@pytest.mark.parametrize(("high", "outcome"), [(0.9, "agrees"), (1.1, "undecided")])
def test_a_claim_that_changes_without_one_seed_is_undecided(high, outcome):
    bounds = [(0.3, 0.9), (0.2, high)]
    rows = [
        {"optimizer": "adam", "without_seed": seed, "exponent": 0.5, "low": low, "high": top}
        for seed, (low, top) in enumerate(bounds)
    ]
    table = pd.DataFrame([{"optimizer": "adam", "exponent": 0.5, "low": 0.3, "high": 0.8, "runs": 9}])
    runs = pd.DataFrame([{"dataset": "digits", "model": "mlp", "scale": "smoke"}])
    claims = committed.parts("scaling_rules")["claims"](runs, table, pd.DataFrame(rows))
    assert {claim.method: claim.outcome for claim in claims}["adam"] == outcome


def test_the_gap_without_a_seed_is_that_of_the_other_runs(tmp_path):
    """In seed 2 momentum's small batch loses 0.06, so that the differences to the large batch are 0.04, 0.04 and -0.02."""
    runs = gap_runs()
    for config, metrics, *_ in runs:
        if (config["optimizer"]["name"], config["batch"], config["seed"]) == ("momentum", 32, 2) and metrics.get(
            "test_accuracy"
        ):
            metrics["test_accuracy"] -= 0.06
    findings = analyse("generalization_gap", store(tmp_path, "generalization_gap", runs))
    words = "At equal epochs a large batch generalizes worse."
    table = findings.tables["without_a_seed"]
    own = table[table["claim"] == words].set_index(["method", "without_seed"])
    for method, differences in {"momentum": [1, 1, 4], "adam": [4, 4, 4]}.items():
        assert own.loc[method, "estimate"].to_list() == pytest.approx(differences, abs=0.05)
    assert own["outcome"].to_dict() == {
        ("momentum", 0): "undecided",
        ("momentum", 1): "undecided",
        ("momentum", 2): "agrees",
        **{("adam", seed): "agrees" for seed in range(3)},
    }
    outcomes = {claim.method: claim.outcome for claim in findings.claims if claim.claim == words}
    assert outcomes == {"momentum": "undecided", "adam": "agrees"}


def test_the_law_without_a_seed_is_that_of_the_other_runs(tmp_path):
    """The best rate of seed 2 is an octave lower at the largest of five batches, which takes 0.1 from the slope."""
    runs = rate_runs({"sgd": 1.0}, batches=(16, 32, 64, 128, 256), seeds=3)
    for config, metrics, *_ in runs:
        if config["seed"] == 2 and config["batch"] == 256 and "validation_loss" in metrics:
            octaves = math.log2(config["optimizer"]["learning_rate"]) + 3
            metrics["validation_loss"] = 0.4 * math.exp(0.1 * octaves**2)
    findings = analyse("scaling_rules", store(tmp_path, "scaling_rules", runs))
    found = findings.tables["without_a_seed"].set_index("without_seed")["exponent"]
    assert found[2] == pytest.approx(1, abs=0.04)
    assert found[[0, 1]].to_list() == pytest.approx([found[2] - 0.1] * 2, abs=0.03)
    row = findings.tables["laws"].iloc[0]
    assert (row["least_without_a_seed"], row["most_without_a_seed"]) == (found.min(), found.max())


def test_a_rule_reaches_no_farther_than_the_first_batch_at_which_it_costs_more_or_is_unknown():
    costs = {"a": [0.01, 0.06, 0.0], "b": [0.05, 0.04, math.nan], "c": [0.5, 0.0, 0.0]}
    rows = [
        {"optimizer": name, "base": 8, "batch": batch, "rule": "linear", "excess": cost, "high": cost + 0.005}
        for name, own in costs.items()
        for batch, cost in zip((32, 16, 64), (own[1], own[0], own[2]), strict=True)
    ]
    found = reaches(pd.DataFrame(rows)).set_index("optimizer")
    assert found["batch"].to_dict() == {"a": 16, "b": 32, "c": 8}
    assert found["surely"].to_dict() == {"a": 16, "b": 8, "c": 8}
    assert reaches(pd.DataFrame()).empty


def test_a_bend_is_found_and_the_slope_before_it_is_not_averaged_with_the_plateau(tmp_path):
    batches = tuple(2**power for power in range(4, 13))
    runs = [
        run
        if run[0]["batch"] <= 256
        else (run[0], run[1] | {"validation_loss": 1.2 * run[1]["validation_loss"]}, *run[2:])
        for run in rate_runs({"momentum": 1.0}, batches=batches, bend=256)
        if "validation_loss" in run[1]
    ]
    findings = analyse("scaling_rules", store(tmp_path, "scaling_rules", runs))
    row = findings.tables["laws"].iloc[0]
    assert row["exponent"] == pytest.approx(1, abs=0.03)  # over all batches it would be a half
    assert row["largest_batch"] == 256
    assert row["bend"] == pytest.approx(256, rel=0.1)
    assert row["slope_after"] == pytest.approx(0, abs=0.03)
    assert row["p_bend"] < 0.05
    assert "with a bend at batch 2" in findings.answer
    assert {claim.outcome for claim in findings.claims if claim.method == "momentum"} == {"agrees", "disagrees"}
    drawn(findings)


def test_what_is_measured_along_a_run_predicts_beside_them(tmp_path):
    """λ₁' = 20 / b⁰·²: the limit of SGD grows as b⁰·², that of Adam as its root."""
    study = store(tmp_path, "scaling_rules", rate_runs({"sgd": 1.0, "adam": 0.5}))
    batches = np.array([16.0, 64.0, 256.0])
    tops = 20 / batches**0.2
    arrays = {"batch_sizes": batches, "top": np.stack([tops, tops], 1)}
    arrays |= {"full_top": np.array(20 / 1024**0.2), "examples": np.array(1024)}
    run = study.plan.directory(study.runs.loc[study.runs["optimizer"] == "sgd", "run_id"].iloc[0])
    run.measurements.write("batch_hessian", 64, {}, arrays, 0.1, {})
    run.measurements.write("noise_scale", 64, {"simple": 300.0}, {}, 0.1, {})
    findings = analyse("scaling_rules", study)
    predicted = findings.tables["predicted_exponents"].set_index("optimizer")["exponent"]
    assert predicted.to_dict() == pytest.approx({"adam": 0.1, "sgd": 0.2})
    charts = {chart.name: chart for chart in findings.charts}
    assert "batch Hessian at step 64" in {one.label for one in charts["exponents"].series}
    assert any("noise scale is 300 examples" in note for note in findings.notes)
    drawn(findings)


def target_runs(seeds=3):
    """S = 50 (1 + B_c / B) with B_c 64 for sgd and 512 for kfac at target 0.8, for the better of two rates."""
    runs = []
    for optimizer, critical in (("sgd", 64), ("kfac", 512)):
        for batch in (16, 64, 256, 1024):
            for seed in range(seeds):
                for trial in range(2):
                    steps = 50 * (1 + critical / batch) * (1 + trial) * (1 + 0.02 * (seed - 1))
                    config = configured(optimizer, batch, seed, rate=0.1 * 2**trial)
                    # Accuracy grows as a straight line, so that an easier target is reached in proportion.
                    grid = np.arange(0, 1.5 * steps, steps / 7).astype(int)
                    rows = [evaluation(int(at), batch, validation_accuracy=0.8 * at / steps) for at in grid]
                    if batch == 1024 and optimizer == "sgd":
                        rows = [row | {"validation_accuracy": 0.1} for row in rows]
                    runs.append((config, summarized(config, **accuracies(0.8, 0.1)), "done", rows))
    return runs


def test_the_critical_batch_is_found_and_a_missed_target_is_counted(tmp_path):
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", target_runs()))
    table = findings.tables["critical_batch"].set_index(["optimizer", "target"])
    for optimizer, critical in (("sgd", 64), ("kfac", 512)):
        for target in (0.8, 0.78, 0.75):
            row = table.loc[(optimizer, target)]
            assert row["critical_batch"] == pytest.approx(critical, rel=0.05)
            assert row["steps_min"] == pytest.approx(50 * target / 0.8, rel=0.05)
            assert row["critical_batch_low"] <= row["critical_batch"] <= row["critical_batch_high"]
    assert findings.answer.index("SGD") < findings.answer.index("K-FAC")  # in ascending order
    assert "No run reached the target: SGD at batch 1024." in findings.notes
    assert (findings.tables["chosen_rates"].dropna(subset="rate")["rate"] == 0.1).all()
    drawn(findings)


def test_the_costs_to_the_target_are_those_of_the_steps_to_it(tmp_path):
    """kfac costs twice the FLOPs a step; sgd's runs are of an earlier version, which counted none."""
    runs = []
    for config, summary, state, rows in target_runs(seeds=1):
        if config["optimizer"]["name"] == "kfac":
            summary |= {"flops_per_step": 2 * config["batch"], "parameter_bytes": 30, "optimizer_state_bytes": 12}
        runs.append((config, summary, state, rows))
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", runs))
    costs = findings.tables["costs"].set_index(["optimizer", "batch"])
    for batch in (16, 64, 256, 1024):
        steps = 50 * (1 + 512 / batch) * 0.98
        assert costs.loc[("kfac", batch), "flops"] == pytest.approx(2 * batch * steps, rel=0.05)
        assert costs.loc[("kfac", batch), "seconds"] == pytest.approx(0.1 * steps, rel=0.05)
        assert costs.loc[("kfac", batch), "bytes"] == 42
    chart = next(chart for chart in findings.charts if chart.name == "costs_to_target")
    drawn = {(series.panel, series.label) for series in chart.series}
    assert {("FLOPs", "K-FAC"), ("Seconds of training", "K-FAC"), ("Seconds of training", "SGD")} <= drawn
    assert ("FLOPs", "SGD") not in drawn
    assert any("8 of 16 runs have no FLOPs" in note for note in findings.notes)
    assert chart.matplotlib().axes


def comparison_runs(worst_trial=1, new_seeds=(1, 2)):
    """Three problems; adamw is best on all, sgd last; trial 2 is 0.1 below the defaults, and ``worst_trial`` diverges.

    Seed 0 chooses, and ``new_seeds`` are of trials 0 and 2 only. Validation losses fall to that of the test by 0.01 a step.
    """
    settings = [*((trial, 0) for trial in range(4)), *((trial, seed) for trial in (0, 2) for seed in new_seeds)]
    runs = []
    for place, model in enumerate(("mlp", "keskar_f1", "lenet5")):
        for optimizer, quality in (("sgd", 0.32), ("momentum", 0.25), ("adamw", 0.20)):
            for trial, seed in settings:
                config = configured(optimizer, 64, seed, trial, model=model)
                loss = quality + 0.01 * place + 0.1 * (trial == 0) + 0.05 * (trial == 3) + 0.001 * seed
                if trial == worst_trial:
                    runs.append((config, summarized(config), "diverged", []))
                    continue
                rows = [evaluation(step, 64, validation_loss=loss + 1 - step / 100) for step in range(20, 101, 20)]
                known = {"steps": 100, "seconds_training": 10.0 + seed}
                if optimizer != "sgd":
                    known |= {"flops_per_step": 7, "parameter_bytes": 30, "optimizer_state_bytes": 12}
                runs.append((config, summarized(config, validation_loss=loss, test_loss=loss, **known), "done", rows))
    return runs


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    return analyse("optimizer_comparison", store(root, "optimizer_comparison", comparison_runs()))


def test_ranks_gains_and_trained_trials_are_found(compared):
    ranks = compared.tables["ranks"]
    pooled = ranks[ranks["problem"] == "all"].set_index("optimizer")["rank"]
    assert pooled.to_dict() == {"adamw": 1, "momentum": 2, "sgd": 3}
    assert "AdamW is the best of 3 optimizers on 3 problems, with 1.0 [1.0, 1." in compared.answer
    assert len(compared.tables["rank_differences"]) == 3
    words = " ".join(compared.notes)
    assert "The winner's result is that of seeds that had no part in the choice." in words
    assert "With 3 problems, fewer than 6, there is no interval over problems" in words
    # Q = 2 P = 6 with two degrees of freedom: p = exp(-3).
    assert f"Kendall's W 1.00, Friedman's p {math.exp(-3):.2g}: the problems share a ranking" in words
    assert "In none of 3 comparisons does a method lose to one that it contains" in words
    # The quartiles of 0.20, 0.25 and 0.32 are 0.225 and 0.285.
    gains = compared.tables["tuned_minus_default"]
    assert gains["gain"].to_numpy() == pytest.approx(0.1 / 0.06)
    assert gains["problems"].tolist() == [3, 3, 3]
    best = compared.tables["best_trials"].set_index(["optimizer", "model"])
    assert best.loc[("adamw", "mlp"), ["trial", "test_loss", "seeds"]].tolist() == pytest.approx([2, 0.2015, 2])
    assert (compared.tables["trained_trials"]["share"] == 0.75).all()
    assert "At 9 of 9 points at least half of the trials train." in words
    # Of the trials 1 to 3, with seed 0, one diverged: only three are sure to hold another one.
    budget = compared.tables["best_of_k"].set_index(["optimizer", "model", "trials"])["expected"]
    assert budget["sgd", "mlp", 1] == math.inf
    assert budget["sgd", "mlp", 3] == pytest.approx(0.32)
    assert any("9 of 72 runs diverged" in note for note in compared.notes)
    drawn(compared)


def test_scores_are_of_the_costs_to_the_loss_of_adamw_at_its_defaults(compared):
    """The target is 0.3015 + 0.01 p: momentum's winner reaches it after 95 steps, adamw's after 90, sgd's never."""
    scores = compared.tables["scores"].set_index(["target", "cost", "optimizer"]).sort_index()
    for cost in ("steps", "seconds"):
        own = scores.loc["defaults", cost]["score"]
        assert own.to_dict() == pytest.approx({"adamw": 1, "momentum": (4 - 95 / 90) / 3, "sgd": 0})
    # Runs of sgd have no FLOPs and no bytes.
    assert scores.loc["defaults", "flops"]["score"].to_dict() == pytest.approx(
        {"adamw": 1, "momentum": (4 - 95 / 90) / 3}
    )
    assert scores.loc["defaults", "bytes"]["score"].tolist() == [1, 1]
    assert scores.loc["defaults", "steps"]["rank"].to_dict() == {"adamw": 1, "momentum": 2, "sgd": 3}
    assert scores.loc["defaults", "steps"]["solved"].to_dict() == {"adamw": 3, "momentum": 3, "sgd": 0}
    # The loss of the winner of adamw is reached by half of its own seeds, and by no other.
    assert scores.loc["tuned", "steps"]["solved"].to_dict() == {"adamw": 3, "momentum": 0, "sgd": 0}
    charts = {chart.name: chart for chart in compared.charts}
    assert {one.panel for one in charts["profiles"].series} >= {"Steps", "FLOPs", "Seconds of training"}
    costs = compared.tables["costs"].set_index(["optimizer", "model"])
    assert costs.loc[("adamw", "mlp"), ["steps", "flops", "seconds", "bytes"]].tolist() == [100, 700, 11.5, 42]
    assert any(note.startswith("9 of 27 runs have no FLOPs") for note in compared.notes)


def test_a_search_that_loses_to_a_setting_of_its_own_space_is_named(tmp_path):
    """The new seeds of momentum become 0.02 worse than those of SGD, with a little noise, on the problem of mlp alone."""
    runs = []
    for config, summary, state, rows in comparison_runs():
        is_it = config["model"]["name"] == "mlp" and config["optimizer"]["name"] == "momentum" and config["trial"] == 2
        if is_it and config["seed"]:
            summary = summary | {"test_loss": summary["test_loss"] + 0.09 + 0.0001 * config["seed"]}
        runs.append((config, summary, state, rows))
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    failed = findings.tables["failed_searches"].set_index(["container", "contained", "problem"])["failed"]
    models = ("keskar_f1", "lenet5", "mlp")
    assert failed.to_dict() == {("momentum", "sgd", f"{model} on digits, batch 64"): model == "mlp" for model in models}
    note = next(note for note in findings.notes if "failed" in note)
    # 0.02015 of the quartiles' distance between 0.20, 0.32 and 0.34.
    assert note.startswith("mlp on digits, batch 64: the search of SGD with momentum failed: it is 0.29 spreads [")
    assert note.endswith("] worse than SGD, a setting of its own space (momentum 0).")
    assert next(c for c in findings.claims if c.method == "momentum" and c.against == "sgd").outcome == "disagrees"


def test_the_answer_names_the_trial_on_which_the_first_method_hangs(tmp_path, compared):
    """Trial 2 of adamw becomes so good that adamw is first, and without it momentum is; otherwise adamw is always first."""
    assert "hangs" not in compared.answer
    runs = []
    for config, summary, state, rows in comparison_runs():
        if config["optimizer"]["name"] == "adamw" and config["trial"] != 2 and state == "done":
            summary = summary | {name: summary[name] + 0.2 for name in ("validation_loss", "test_loss")}
        runs.append((config, summary, state, rows))
    answer = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs)).answer
    assert "AdamW is the best of 3" in answer
    assert "It hangs on a part of the runs: without trial 2 SGD with momentum is first." in answer


def test_winners_without_new_seeds_are_counted(tmp_path, compared):
    """With new seeds of the defaults alone: trial 2 wins."""
    runs = [run for run in comparison_runs() if not (run[0]["seed"] and run[0]["trial"] == 2)]
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    words = "At 9 of 9 points the winner has no runs with new seeds: "
    assert any(note.startswith(words) for note in findings.notes)
    assert not any("no runs with new seeds" in note for note in compared.notes)


@pytest.mark.parametrize(("scatter", "outcome"), [(0.0001, "disagrees"), (0.005, "undecided")])
def test_a_claim_of_the_comparison_that_hangs_on_one_seed_is_undecided(tmp_path, scatter, outcome):
    """Momentum is 0.02 worse than SGD; with a scatter of 0.005 p = 0.010 from three seeds, 0.045 from two; Holm asks 0.017."""
    runs = []
    for config, summary, state, rows in comparison_runs(new_seeds=(1, 2, 3)):
        is_it = config["model"]["name"] == "mlp" and config["optimizer"]["name"] == "momentum" and config["trial"] == 2
        if is_it and config["seed"]:
            summary = summary | {"test_loss": summary["test_loss"] + 0.09 + scatter * (config["seed"] - 2)}
        runs.append((config, summary, state, rows))
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    assert findings.tables["failed_searches"]["failed"].sum() == 1
    assert findings.tables["without_a_seed"]["without_seed"].unique().tolist() == [1, 2, 3]
    assert next(c for c in findings.claims if c.method == "momentum" and c.against == "sgd").outcome == outcome


def test_a_method_that_some_problem_lacks_is_in_the_ranks_of_the_others_only(tmp_path):
    runs = [
        run for run in comparison_runs() if (run[0]["optimizer"]["name"], run[0]["model"]["name"]) != ("sgd", "mlp")
    ]
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    ranks = findings.tables["ranks"].groupby("problem")["optimizer"].agg(list).to_dict()
    assert ranks["all"] == ["adamw", "momentum"]
    assert ranks["mlp on digits, batch 64"] == ["adamw", "momentum"]
    assert ranks["lenet5 on digits, batch 64"] == ["adamw", "momentum", "sgd"]
    assert any(note.startswith("SGD: not tried on every problem") for note in findings.notes)


def test_searches_in_which_few_trials_train_are_named(tmp_path):
    """Trial 3 of sgd ends where runs begin, and trial 0 does with momentum's: two of four of sgd, three of four of the others."""
    runs = []
    for config, summary, state, rows in comparison_runs():
        if config["optimizer"]["name"] == "sgd" and config["trial"] in (0, 3) and summary.get("validation_loss"):
            summary = summary | {"validation_loss": 1.2, "test_loss": 1.2}
        runs.append((config, summary, state, rows))
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    shares = findings.tables["trained_trials"].groupby("optimizer")["share"].unique()
    assert {name: own.tolist() for name, own in shares.items()} == {"adamw": [0.75], "momentum": [0.75], "sgd": [0.25]}
    assert any(
        "At 6 of 9 points at least half of the trials train; the others are of: SGD (3)." in n for n in findings.notes
    )


def drawn(findings):
    """Every chart can be drawn for a paper."""
    assert findings.charts
    for chart in findings.charts:
        assert chart.matplotlib().axes, chart.name


MADE = {
    "generalization_gap": gap_runs,
    "scaling_rules": lambda: rate_runs({"sgd": 1.0}, seeds=1),
    "steps_to_target": target_runs,
    "optimizer_comparison": comparison_runs,
}


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("done", [0, 1])
def test_a_study_that_has_hardly_begun_says_so(tmp_path, name, done):
    runs = MADE[name]()
    runs = [run if place < done else (run[0], None, "pending", []) for place, run in enumerate(runs)]
    findings = analyse(name, store(tmp_path, name, runs))
    assert "ot enough runs" in findings.answer
    assert not re.search(r"\bnan\b|\binf\b", " ".join([findings.answer, *findings.notes]))


@pytest.mark.parametrize("name", STUDIES)
def test_an_analysis_takes_any_part_of_its_runs(tmp_path, name):
    runs = MADE[name]()
    generator = np.random.default_rng(0)
    keep = generator.random(len(runs)) < 0.5
    runs = [run if here else (run[0], None, "pending", []) for run, here in zip(runs, keep, strict=True)]
    findings = analyse(name, store(tmp_path, name, runs))
    assert not re.search(r"\bnan\b|\binf\b", " ".join([findings.answer, *findings.notes]))
    drawn(findings)


@pytest.mark.parametrize("name", ["generalization_gap", "scaling_rules", "optimizer_comparison"])
def test_all_runs_may_have_diverged(tmp_path, name):
    runs = [(config, summarized(config), "diverged", []) for config, *_ in MADE[name]()]
    assert "ot enough runs" in analyse(name, store(tmp_path, name, runs)).answer


def test_a_grid_that_is_too_small_says_what_is_missing(tmp_path, recwarn):
    runs = rate_runs({"sgd": 1.0}, seeds=1, batches=(16,))
    findings = analyse("scaling_rules", store(tmp_path, "scaling_rules", runs))
    assert "takes two batch sizes" in findings.answer
    assert "The runs have the batch sizes 16." in findings.answer
    assert "python -m optbench -m experiment=scaling_rules scale=laptop" in findings.answer
    for chart in findings.charts:
        chart.matplotlib().savefig(tmp_path / f"{chart.name}.png")
    assert [str(warning.message) for warning in recwarn] == []
