"""Runs of four studies that were never trained, in which is what an analysis has to find."""

import json
import math

import numpy as np
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from optbench import config as configuration
from optbench.analysis.studies import analysis_of
from optbench.analysis.study import Study
from optbench.sweep.grid.grids import expand_experiment
from optbench.sweep.plan import Entry, Plan


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


def drawn(findings):
    """Every chart can be drawn for a paper."""
    assert findings.charts
    for chart in findings.charts:
        assert chart.matplotlib().axes, chart.name


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
