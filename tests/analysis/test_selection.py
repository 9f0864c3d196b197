"""The best trial by validation and what is reported of it, by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.statistics.selection import select, spread, tuned_beside_default
from optbench.errors import UserError

INF = math.inf
COLUMNS = ["optimizer", "trial", "seed", "status", "validation_accuracy", "test_accuracy"]


def frame(*rows):
    return pd.DataFrame([dict(zip(COLUMNS, row, strict=True)) for row in rows])


def choose(runs, **options):
    return select(runs, by=["optimizer"], results=["test_accuracy"], **options).iloc[0]


def test_validation_chooses_and_test_is_reported():
    """Trial 2 has the best test accuracy and the best single run; trial 1 the best mean on validation."""
    runs = frame(
        ("sgd", 0, 0, "done", 0.50, 0.40), ("sgd", 0, 1, "done", 0.52, 0.42),
        ("sgd", 1, 0, "done", 0.80, 0.70), ("sgd", 1, 1, "done", 0.82, 0.76),
        ("sgd", 2, 0, "done", 0.90, 0.95), ("sgd", 2, 1, "done", 0.60, 0.95),
    )  # fmt: skip
    best = choose(runs)
    assert best["trial"] == 1
    assert best["selection_validation_accuracy"] == pytest.approx(0.81)
    np.testing.assert_allclose(
        best[["test_accuracy", "test_accuracy_std", "test_accuracy_min", "test_accuracy_max"]].to_numpy(float),
        [0.73, 0.06 / math.sqrt(2), 0.70, 0.76],
    )
    assert best[["seeds", "tried", "tied", "runs", "done"]].tolist() == [2, 3, 1, 6, 6]


def test_a_seed_that_diverged_rules_a_trial_out_by_its_mean_but_not_by_its_median():
    runs = frame(
        ("sgd", 1, 0, "done", 0.90, 0.90), ("sgd", 1, 1, "done", 0.92, 0.92), ("sgd", 1, 2, "diverged", None, None),
        ("sgd", 2, 0, "done", 0.70, 0.60), ("sgd", 2, 1, "done", 0.70, 0.64), ("sgd", 2, 2, "done", 0.70, 0.65),
    )  # fmt: skip
    assert choose(runs)["trial"] == 2
    best = choose(runs, center="median")
    assert best["trial"] == 1
    assert best["selection_validation_accuracy"] == pytest.approx(0.90)
    assert best[["test_accuracy", "seeds", "best_diverged", "settings_diverged"]].tolist() == [0.91, 2, 1, 1]


def test_what_failed_or_has_not_ended_is_counted_in_its_cell_and_not_guessed():
    runs = frame(
        ("sgd", 1, 0, "done", 0.7, 0.7), ("sgd", 1, 1, "failed", None, None), ("sgd", 1, 2, "running", None, None),
        ("sgd", 2, 0, "preempted", None, None),
    )  # fmt: skip
    table = select(runs, by=["optimizer"], results=["test_accuracy"])
    assert len(table) == 1
    best = table.iloc[0]
    assert best[["trial", "seeds", "best_missing", "tried", "runs", "failed", "unfinished"]].tolist() == [
        1,
        1,
        2,
        2,
        4,
        1,
        2,
    ]


@pytest.mark.parametrize(("status", "value"), [("diverged", -INF), ("failed", np.nan)])
def test_a_cell_without_a_winner_is_still_a_row(status, value):
    runs = frame(("adam", 0, 0, "done", 0.7, 0.7), ("sgd", 0, 0, status, None, None), ("sgd", 1, 0, status, None, None))
    table = select(runs, by=["optimizer"], results=["test_accuracy"]).set_index("optimizer")
    assert np.isnan(table.loc["sgd", "trial"])
    assert table.loc["sgd", ["runs", status, "tried", "seeds", "tied"]].tolist() == [2, 2, 2, 0, 0]
    np.testing.assert_equal(table.loc["sgd", "selection_validation_accuracy"], value)
    assert table.loc["adam", "trial"] == 0


def test_trials_that_tie_in_the_mean_are_told_apart_by_the_worst_seed_and_averaged_if_they_still_tie():
    runs = frame(
        ("sgd", 1, 0, "done", 0.7, 0.9), ("sgd", 1, 1, "done", 0.9, 0.9),
        ("sgd", 3, 0, "done", 0.8, 0.2), ("sgd", 3, 1, "done", 0.8, 0.6),
        ("sgd", 5, 1, "done", 0.8, 0.1), ("sgd", 5, 0, "done", 0.8, 0.4),
        ("sgd", 0, 0, "done", 0.7, 0.3),
    )  # fmt: skip
    best = choose(runs)
    assert best[["trial", "tied", "seeds"]].tolist() == [3, 2, 2]
    # Seed by seed 0.3 and 0.35.
    assert best[["test_accuracy", "test_accuracy_min", "test_accuracy_max"]].tolist() == [
        pytest.approx(value) for value in (0.325, 0.3, 0.35)
    ]
    assert choose(runs[runs["trial"] != 5])[["trial", "tied", "test_accuracy"]].tolist() == [3, 1, pytest.approx(0.4)]
    assert choose(runs[~runs["trial"].isin([3, 5])])[["trial", "tied"]].tolist() == [1, 1]


def test_equal_medians_are_told_apart_by_the_mean_also_if_a_seed_never_reaches_the_target():
    times = {1: [10, 30, 60], 2: [20, 30, 40], 3: [5, 30, INF], 4: [40, 50, 60]}
    runs = frame(*(("sgd", t, s, "done", 0, x) for t, xs in times.items() for s, x in enumerate(xs)))
    runs = runs.rename(columns={"test_accuracy": "steps_to_target"})

    def best(*trials):
        kept = runs[runs["trial"].isin(trials)]
        row = select(kept, ["optimizer"], "steps_to_target", ["steps_to_target"], center="median").iloc[0]
        return row[["trial", "tied"]].tolist()

    assert best(1, 2, 3, 4) == [2, 1]
    assert best(1, 3, 4) == [1, 1]
    assert best(3, 4) == [3, 1]


def test_a_loss_is_chosen_by_its_least():
    runs = frame(
        ("sgd", 0, 0, "done", 0.8, 0.1), ("sgd", 1, 0, "done", 0.3, 0.2), ("sgd", 2, 0, "diverged", None, None)
    )
    runs = runs.rename(columns={"validation_accuracy": "validation_loss"})
    assert select(runs, ["optimizer"], "validation_loss", ["test_accuracy"])["trial"].tolist() == [1]


def test_the_winner_of_a_search_is_reported_on_new_seeds():
    """Ten equal trials: on the seed of the search the winner looks good, on its other seeds it does not."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(10)
    runs = frame(
        *(("sgd", trial, 0, "done", noise[trial], noise[trial]) for trial in range(10)),
        *(("sgd", int(noise.argmax()), seed, "done", -9.0, 0.1 * seed) for seed in (1, 2, 3)),
    )
    best = choose(runs, search_seeds=[0])
    assert best["trial"] == noise.argmax()
    assert best["selection_validation_accuracy"] == noise.max()
    assert best[["test_accuracy", "seeds"]].tolist() == [pytest.approx(0.2), 3]
    # A winner without other seeds is reported on those there are.
    assert choose(runs[runs["seed"] == 0], search_seeds=[0])["test_accuracy"] == noise.max()


def test_times_to_a_target_are_selected_and_reported_by_their_median():
    runs = frame(
        *(
            (("sgd", t, s, "done", 0, x))
            for t, xs in ((1, [10, 30, INF]), (2, [25, INF, INF]))
            for s, x in enumerate(xs)
        )
    )
    runs = runs.rename(columns={"test_accuracy": "steps_to_target"})
    best = select(runs, ["optimizer"], "steps_to_target", ["steps_to_target"], center="median").iloc[0]
    assert best[["trial", "selection_steps_to_target", "steps_to_target", "steps_to_target_max"]].tolist() == [
        1,
        30,
        30,
        INF,
    ]


def test_the_spread_of_a_metric_is_that_of_the_runs_that_have_it():
    values = pd.Series([0.5, 0.7, -INF, np.nan])
    found = spread(values, "x")
    assert found == {"x": pytest.approx(0.6), "x_std": pytest.approx(math.sqrt(0.02)), "x_min": 0.5, "x_max": 0.7}


def test_the_best_of_a_grid_at_its_end_is_flagged():
    rates = [0.1, 0.2, 0.4]
    for best, found in zip(range(3), ("base_learning_rate low", "", "base_learning_rate high"), strict=True):
        runs = frame(*(("sgd", 0, 0, "done", float(i == best), 0.5) for i in range(3))).assign(base_learning_rate=rates)
        row = choose(runs, settings=["base_learning_rate"])
        assert (row["edges"], row["at_edge"]) == (found, bool(found))
        assert row["base_learning_rate"] == rates[best]


def test_the_best_trial_at_the_edge_of_its_space_is_flagged():
    space = {"learning_rate": {"distribution": "log_uniform", "low": 1e-3, "high": 1.0}}
    runs = frame(("sgd", 1, 0, "done", 0.8, 0.1), ("sgd", 2, 0, "done", 0.9, 0.1)).assign(**{
        "config.optimizer.learning_rate": [0.03, 0.99], "search_space": json.dumps(space),
    })  # fmt: skip
    assert choose(runs)[["at_edge", "edges"]].tolist() == [True, "learning_rate high"]
    assert choose(runs[:1])[["at_edge", "edges"]].tolist() == [False, ""]


def test_tuned_beside_default_is_paired_by_seed():
    runs = frame(
        ("sgd", 0, 0, "done", 0.5, 0.40), ("sgd", 0, 1, "done", 0.5, 0.60), ("sgd", 0, 2, "diverged", None, None),
        ("sgd", 4, 0, "done", 0.9, 0.50), ("sgd", 4, 1, "done", 0.9, 0.80), ("sgd", 4, 2, "done", 0.9, 0.90),
    )  # fmt: skip
    runs["test_loss"] = 1 - runs["test_accuracy"]
    row = tuned_beside_default(runs, ["optimizer"], results=["test_accuracy", "test_loss"]).iloc[0]
    assert row["test_accuracy"] == pytest.approx(2.2 / 3)
    assert row["default_test_accuracy"] == pytest.approx(0.5)
    assert row["default_test_accuracy_std"] == pytest.approx(0.2 / math.sqrt(2))
    for result in ("test_accuracy", "test_loss"):
        assert row[f"improvement_{result}"] == pytest.approx(0.15)  # of 0.1 and 0.2
        assert row[f"improvement_{result}_std"] == pytest.approx(0.1 / math.sqrt(2))
    assert row[["improvement_seeds", "default_diverged"]].tolist() == [2, 1]


def test_a_metric_that_no_run_has_is_refused():
    with pytest.raises(UserError, match=r"validation_loss.*validation_accuracy"):
        select(frame(("sgd", 0, 0, "done", 0.5, 0.4)), ["optimizer"], "validation_loss", ["test_accuracy"])
