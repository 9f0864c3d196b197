"""The protocol of a study: from the configurations and environments of its runs, not typed."""

import numpy as np
import pandas as pd

from optbench.analysis.report.protocol import protocol


def runs(**columns):
    rows = {
        "status": ["done", "done", "diverged"],
        "optimizer": ["kfac", "adam", "adam"],
        "model": ["mlp"] * 3,
        "dataset": ["digits"] * 3,
        "batch": [512, 32, 32],
        "seed": [1, 0, 2],
        "trial": [0, 1, 11],
        "steps": [40, 640, 3],
        "parameters": [12345, 12345, 12345],
        "config.model.name": ["mlp"] * 3,
        "config.model.hidden": ["[7]", "[7]", "[9]"],
        "config.model.activation": ["relu"] * 3,
        "config.dataset.name": ["digits"] * 3,
        "config.budget.epochs": [15, 15, 15],
    }
    return pd.DataFrame({**rows, **columns})


def test_what_was_trained_is_read_from_the_runs():
    found = protocol(runs(), {}, [])
    assert found["Network"] == "mlp (hidden [7]/[9], 12,345 weights)"  # relu is the default of its file
    assert found["Data"] == "digits"
    assert found["Methods"] == "K-FAC, Adam"
    assert found["Batch sizes"] == "32, 512"
    assert found["Seeds"] == "3 seeds (0, 1, 2)"
    assert found["Length"] == "15 epochs, 40 to 640 steps"  # not the 3 of a run that diverged
    assert found["Search"] == "3 trials at random of each search space, trial 0 of the defaults"
    assert found["Code"] == ""


def test_steps_take_the_place_of_epochs():
    steps = {"config.budget.steps": [np.nan, 640.0, 640.0]}
    assert protocol(runs(**steps), {}, [])["Length"] == "15 epochs, 640 steps, 40 to 640 steps"
    steps = {"config.budget.steps": [640.0] * 3, "steps": [640] * 3}
    assert protocol(runs(**steps), {}, [])["Length"] == "640 steps"


def test_runs_that_end_at_a_target_and_budgets_of_both_kinds_are_said():
    base = {"config.budget.regime_adaptation": [True] * 3, "config.base_batch": [64] * 3}
    found = protocol(runs(**base, **{"config.budget.stop_at_target": [True] * 3}), {}, [])
    assert (
        found["Length"] == "15 epochs, above batch 64 as many steps as there, ended at the target after 40 to 640 steps"
    )


def test_a_processor_that_is_the_device_is_named_once():
    environment = {"devices": ["Epyc"], "cores": 2, "processor": "Epyc", "runs": 3}
    assert protocol(runs(), {}, [environment])["Hardware"] == "2 cores of Epyc"
    assert protocol(runs(), {}, [{**environment, "ranks": 2}])["Hardware"] == "2 cores of Epyc, 2 ranks"


def test_grids_and_searches():
    rates = {"cell.optimizer.learning_rate": [0.001, 0.1, 0.1], "trial": [0, 0, 0]}
    information = {"search": {"name": "adaptive"}, "code": {"commit": "abc", "changed": True, "fingerprint": "f0"}}
    found = protocol(runs(**rates), information, [])
    assert found["Search"] == "a grid of 2 learning rates, 0.001 to 0.1; cells chosen by search=adaptive"
    assert found["Code"] == "commit abc, with changes that were not committed, fingerprint f0 of the package's files"
    assert protocol(runs(trial=[0, 0, 0]), {"search": {"name": "grid"}}, [])["Search"] == "none: every setting is given"


def test_many_values_are_their_ends():
    frame = pd.DataFrame({"status": "done", "seed": range(10), "batch": [2**power for power in range(10)]})
    found = protocol(frame, {}, [])
    assert found["Seeds"] == "10 seeds (0 to 9)"
    assert found["Batch sizes"] == "10 values, 1 to 512"
    assert found["Network"] == found["Length"] == ""


def test_several_machines_have_the_numbers_of_their_runs():
    one = {"devices": ["H200", "H200"], "ranks": 2, "cores": 16, "processor": "Xeon", "versions": {"torch": "2.13.0"}}
    # Two environments that differ in nothing that is shown are one.
    other = {"cores": 2, "processor": "Epyc", "versions": {"torch": "2.13.0"}, "runs": 1}
    found = protocol(runs(), {}, [{**one, "runs": 2}, {**one, "runs": 2, "job": 7}, other])
    assert found["Hardware"] == "H200, 2 ranks; 16 cores of Xeon (4 runs); 2 cores of Epyc (1 run)"
    assert found["Versions"] == "torch 2.13.0"
