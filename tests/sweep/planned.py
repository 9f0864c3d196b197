"""A sweep as its files in the store, without training: what reports are tested on."""

import yaml

from optbench.store import RunDirectory
from optbench.sweep.plan import Entry, Plan

ACCURACY = {"sgd": 0.80, "adam": 0.85}


def config(optimizer, batch, seed, trial):
    return {
        "optimizer": {
            "_target_": "x",
            "name": optimizer,
            "learning_rate": 0.1 / (1 + trial),
            "info": {"about": "words"},
        },
        "model": {"name": "mlp"},
        "dataset": {"name": "digits"},
        "batch": batch,
        "seed": seed,
        "trial": trial,
        "results_dir": "/somewhere/results",
    }


def accuracy(optimizer, batch, seed, trial):
    """Trial 1 is the better one, and seeds 0, 1, 2 lie 0.01 apart."""
    return ACCURACY[optimizer] + 0.02 * (trial == 1) + 0.01 * (seed - 1) - batch / 10_000


def sweep(results, name="things", states=None, information=None, codes=None):
    """2 optimizers, 2 batch sizes, 2 trials, 3 seeds.

    states: of runs by their number, where they are not done. codes: of runs by their number, where they are of other code.
    """
    entries = []
    number = 0
    for optimizer in ("sgd", "adam"):
        for batch in (32, 128):
            for trial in (0, 1):
                for seed in (0, 1, 2):
                    state = (states or {}).get(number, "done")
                    run_id = f"{optimizer}-mlp-b{batch}-s{seed}-t{trial}-{number:06x}"
                    write(
                        RunDirectory.at(results, run_id),
                        (optimizer, batch, seed, trial),
                        state,
                        (codes or {}).get(number, "c0de"),
                    )
                    cell = {"optimizer": optimizer, "batch": batch, "trial": trial, "seed": seed}
                    entries.append(Entry(run_id, {key: str(value) for key, value in cell.items()}))
                    number += 1
    plan = Plan(results, name)
    command = ["--multirun", "optimizer=sgd,adam", "scale=smoke", "results_dir=/somewhere/results", "tracker=none"]
    plan.extend(
        entries, {"command": command, "code": {"commit": "abc123", "fingerprint": "f00"}, **(information or {})}
    )
    return plan


def write(run, place, state, code="c0de"):
    optimizer, batch, seed, trial = place
    run.create(yaml.safe_dump(config(*place), sort_keys=False))
    if state == "pending":
        return
    value = accuracy(*place)
    for step in (5, 10):
        row = {"event": "evaluation", "step": step, "seconds": step / 10, "train_loss": 2 / step}
        run.append(row | {"validation_accuracy": value * step / 10})
    versions = {"optbench": "0.1.0", "torch": "2.13.0", "python": "3.11.7"}
    run.write_environment(
        {"versions": versions, "processor": "Abacus", "cores": 2, "devices": ["Abacus"], "host": "secret"}
    )
    run.log.write_text("what it printed\n")
    if state == "failed":
        run.set_status("failed", "out of <memory>")
        return
    results = {
        "steps": 10,
        "learning_rate": 0.1,
        "train_loss": 0.2,
        "validation_accuracy": value,
        "test_accuracy": value - 0.05,
    }
    why = "the loss was 99 at step 7" if state == "diverged" else ""
    names = {"run_id": run.run_id, "optimizer": optimizer, "model": "mlp", "dataset": "digits"}
    of_code = {"code": code} if code else {}
    run.finish({**names, "batch": batch, "seed": seed, "trial": trial, **results, "why": why, **of_code}, state)
