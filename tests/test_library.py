"""The bench as a library: the same runs as the command line's, and nothing that a library does not do."""

import inspect
import math
import os
import signal
import sys
import threading

import pandas as pd
import pytest
import torch

import optbench
from optbench import config as configuration
from optbench.__main__ import main
from optbench.analysis.findings import Findings
from optbench.store import RunDirectory
from optbench.training import run as training
from optbench.training.task import Task

TINY = {"dataset": "digits", "model": "mlp", "tracker": "none", "budget": {"steps": 6}, "eval_every": "2"}
WORDS = ["dataset=digits", "model=mlp", "tracker=none", "budget.steps=6", "eval_every=2"]


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def never(*arguments, **options):
    raise AssertionError("a finished run was trained again")


def losses(run):
    history = run.history()
    return history[history["event"] == "evaluation"][["step", "validation_loss", "test_loss"]].to_numpy().tolist()


# ---- one run ----------------------------------------------------------------------------------------------------------------


def test_a_run_is_the_command_lines(capfd, monkeypatch):
    run = optbench.run(**TINY)
    assert capfd.readouterr() == ("", "")
    assert run.run_id == configuration.run_id(configuration.compose(WORDS))
    assert run.path == RunDirectory.at("results", run.run_id).path
    assert (run.state, run.why, run.summary["steps"]) == ("done", "", 6)
    assert run.config["budget"]["steps"] == 6
    assert run.metric_name == "validation_accuracy"
    assert float(run) == run.metric == run.summary["validation_accuracy"]
    assert [step for step, *_ in losses(run)] == [2, 4, 6]
    assert run.checkpoint == run.path / "checkpoints" / "last.ckpt"
    assert repr(run) == f"Run('{run.run_id}', done, validation_accuracy={run.metric:.6g})"
    assert run.run_id in run._repr_html_()
    assert optbench.load()["run_id"].tolist() == [run.run_id]
    assert optbench.Run.find(run.run_id[-6:]).path == run.path
    monkeypatch.setattr(training, "execute", never)
    again = optbench.run(*WORDS)
    assert (again.run_id, again.metric) == (run.run_id, run.metric)
    assert main(WORDS) == 0
    assert "done already" in capfd.readouterr().out


def test_a_folder_of_choices_is_that_of_the_call(tmp_path):
    (tmp_path / "own" / "optimizer").mkdir(parents=True)
    (tmp_path / "own" / "optimizer" / "my_adam.yaml").write_text("defaults: [adam]\nlearning_rate: 0.003\n")
    for word in ("--config-dir=own", f"hydra.searchpath=[file://{tmp_path}/own]"):
        run = optbench.run(word, "optimizer=my_adam", dry_run=True, **TINY)
        assert run.config["optimizer"]["learning_rate"] == 0.003
        assert "my_adam" not in configuration.choices("optimizer")


def test_a_dry_run_names_the_run_and_writes_nothing(tmp_path):
    run = optbench.run("seed=3", dry_run=True, **TINY)
    assert (run.state, run.config["seed"], run.checkpoint, run.summary) == ("new", 3, None, {})
    assert math.isnan(run.metric)
    assert "new" in run._repr_html_()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["optimizer=adm"], {}),
        (["batch=0"], {}),
        (["optimizer=sgd,adam"], {}),
        (["budget.steps=1", "budget.epochs=2"], {}),
        (["bacth=3"], {}),
        (["experiment=scaling_rules"], {}),
        (["status"], {}),
    ],
)
def test_what_the_command_line_refuses_is_raised(words, settings, capsys):
    words = ["dataset=digits", *words]
    assert main(words) == 2
    refused = capsys.readouterr().err
    with pytest.raises(optbench.UserError) as raised:
        optbench.run(*words, **settings)
    assert refused == f"optbench: {raised.value}\n"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["-m"], {}, "-m: is no setting; .*optbench.sweep"),
        (["--cfg", "job"], {}, "--cfg: is no setting"),
        ([3], {}, "3: is no setting"),
        ([], {"seed": optbench.grid([0, 1])}, "seed=0,1: several values"),
        ([], {"display": "loud"}, "display='loud': accepted: quiet, rich"),
        (
            [],
            {"launcher": "slurm", "on_evaluation": print},
            "on_evaluation: launcher=slurm trains in another process; accepted: launcher=local",
        ),
    ],
)
def test_what_only_the_library_refuses(words, settings, message):
    with pytest.raises(optbench.UserError, match=message):
        optbench.run(*words, **{"dataset": "digits", **settings})


def test_a_run_that_diverges_is_a_result():
    run = optbench.run(**TINY, optimizer={"learning_rate": 1e8}, divergence_factor=1.5)
    assert (run.state, run.metric) == ("diverged", -math.inf)
    assert "the loss was" in run.why
    loss = optbench.run(**(TINY | {"budget": {"steps": 6, "target_metric": "validation_loss"}}),
                        optimizer={"learning_rate": 1e8}, divergence_factor=1.5)  # fmt: skip
    assert loss.metric == math.inf


def test_a_run_that_fails_says_where_its_log_is(monkeypatch):
    def fail(self):
        raise RuntimeError("no luck")

    monkeypatch.setattr(Task, "take_step", fail)
    with pytest.raises(optbench.RunFailed, match=r"RuntimeError: no luck; the log is .*log\.txt") as raised:
        optbench.run(**TINY)
    assert raised.value.run.state == "failed"
    assert "Traceback" in raised.value.run.log.read_text()


def test_its_table_is_escaped():
    run = optbench.run(dry_run=True, **TINY)
    run._config = run.config | {"optimizer": {**run.config["optimizer"], "name": "<b>bold</b>"}}
    assert "&lt;b&gt;" in run._repr_html_()
    assert "<b>" not in run._repr_html_()
    findings = Findings("<i>?", "<i>!", notes=["<u>"], tables={"best": pd.DataFrame({"<s>": ["<tt>"]})})
    shown = findings._repr_html_()
    assert all(f"&lt;{tag}&gt;" in shown and f"<{tag}>" not in shown for tag in ("i", "u", "s", "tt"))


# ---- evaluations, and stopping at them ----------------------------------------------------------------------------------------


class Pruned(Exception):
    """As optuna.TrialPruned."""


@pytest.fixture
def undisturbed(tmp_path):
    return losses(optbench.run(**TINY, results_dir=tmp_path / "undisturbed"))


def stopped_at(step, error):
    seen = []

    def told(at, row):
        seen.append((at, row["step"], row["validation_loss"], row["event"]))
        if at == step:
            raise error

    return seen, told


@pytest.mark.parametrize(
    "error", [optbench.Stop(), Pruned("poor"), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
def test_what_a_callback_raises_stops_the_run_at_a_checkpoint(undisturbed, error):
    seen, told = stopped_at(4, error)
    with pytest.raises(type(error)) as raised:
        optbench.run(**TINY, on_evaluation=told)
    assert raised.value is error
    run = optbench.run(**TINY, dry_run=True)
    assert (run.state, run.why) == ("preempted", f"stopped by on_evaluation ({type(error).__name__}) at step 4")
    assert run.checkpoint is not None
    assert not (run.path / "lock").exists()
    assert seen == [(step, step, loss, "evaluation") for step, loss, _ in undisturbed[:2]]
    later, told = stopped_at(None, None)
    assert losses(optbench.run(**TINY, on_evaluation=told)) == undisturbed
    assert [step for step, *_ in later] == [6]


def test_there_is_nothing_to_stop_at_the_last_evaluation(undisturbed):
    _, told = stopped_at(6, Pruned())
    with pytest.raises(Pruned):
        optbench.run(**TINY, on_evaluation=told)
    run = optbench.run(**TINY, dry_run=True)
    assert (run.state, losses(run)) == ("done", undisturbed)


@pytest.fixture
def heeds_control_c():
    """A shell starts what it runs in the background with SIGINT ignored, also this test suite."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_control_c_leaves_a_checkpoint_and_is_raised(undisturbed, heeds_control_c):
    kept = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        optbench.run(**TINY, on_evaluation=lambda step, row: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is kept
    assert optbench.run(**TINY, dry_run=True).why == "stopped by SIGINT at step 2"
    assert losses(optbench.run(**TINY)) == undisturbed


# ---- a guest in somebody's process --------------------------------------------------------------------------------------------


def test_a_run_in_a_thread(undisturbed):
    found = []
    thread = threading.Thread(target=lambda: found.append(optbench.run(**TINY)))
    thread.start()
    thread.join()
    assert losses(found[0]) == undisturbed


def test_a_run_within_a_run_is_refused():
    with pytest.raises(optbench.UserError, match="cannot be called by on_evaluation"):
        optbench.run(**TINY, on_evaluation=lambda step, row: optbench.run(**TINY, dry_run=True))


def test_what_the_caller_has_set_is_given_back(monkeypatch):
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    words, handlers = [*sys.argv], [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    torch.manual_seed(7)
    torch.rand(3)
    generator = torch.get_rng_state()
    torch.set_float32_matmul_precision("medium")
    try:
        with initialize_config_dir(config_dir=str(configuration.conf_dir()), version_base="1.3"):
            optbench.run(**TINY)
            assert GlobalHydra.instance().is_initialized()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(torch.get_rng_state(), generator)
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert sys.argv == words
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


# ---- sweeps -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_is_the_command_lines(capfd):
    runs = optbench.sweep("optimizer=sgd,adam", seed=optbench.grid([0, 1]), **TINY)
    assert capfd.readouterr() == ("", "")
    assert runs.states == {"done": 4}
    assert [run.run_id for run in runs] == [
        configuration.run_id(configuration.compose([*WORDS, f"optimizer={optimizer}", f"seed={seed}"]))
        for optimizer in ("sgd", "adam")
        for seed in (0, 1)
    ]
    assert runs.frame()["run_id"].tolist() == [run.run_id for run in runs]
    assert runs.frame()["optimizer"].tolist() == ["sgd", "sgd", "adam", "adam"]
    assert repr(runs) == f"Runs('{runs.name}', 4: 4 done)"
    assert all(run.run_id in runs._repr_html_() for run in runs)
    assert isinstance(runs[1:], optbench.Runs)
    assert optbench.load(sweep=runs.name).equals(runs.frame())
    assert main(["-m", *WORDS, "optimizer=sgd,adam", "seed=0,1"]) == 0
    assert f"{runs.name}: 4 runs: 4 done; nothing to do" in capfd.readouterr().out
    # One that a sweep has trained is what run would have trained.
    assert losses(optbench.run(**TINY, results_dir="alone")) == losses(runs[0])


def test_a_dry_sweep_writes_nothing(tmp_path, capfd):
    runs = optbench.sweep("seed=range(3)", dry_run=True, **TINY)
    assert (runs.states, len(runs.frame())) == ({"new": 3}, 0)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert optbench.sweep("seed=1", dry_run=True, display="rich", **TINY).states == {"new": 1}
    assert "dry_run=true starts nothing" in capfd.readouterr().out


@pytest.mark.parametrize(
    "words", [["seed=0,0.5"], ["optimizer=sgd,adm"], ["results_dir=a,b"], ["experiment=none_such"]]
)
def test_what_a_sweep_refuses_is_the_command_lines(words, capsys):
    assert main(["-m", *WORDS, *words]) == 2
    refused = capsys.readouterr().err
    with pytest.raises(optbench.UserError) as raised:
        optbench.sweep(*WORDS, *words)
    assert refused == f"optbench: {raised.value}\n"


def test_workers_that_cannot_start_are_no_silence(tmp_path, monkeypatch, capsys):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: no torch here'\nexit 70\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(optbench.WorkersFailed, match="exit status 70: ImportError: no torch here"):
        optbench.sweep("seed=0,1", **TINY)
    assert main(["-m", *WORDS, "seed=0,1"]) == 1
    assert "optbench: the workers ended with exit status 70: ImportError: no torch here" in capsys.readouterr().err


def test_the_package_sweep_is_the_function_too():
    import optbench.sweep.plan

    assert callable(optbench.sweep)
    assert optbench.sweep.plan.Plan.__name__ == "Plan"
    assert optbench.sweep(*WORDS, "seed=0,1", dry_run=True).states == {"new": 2}


@pytest.mark.parametrize("name", optbench.__all__)
def test_what_is_public_is_documented(name):
    found = getattr(optbench, name)
    assert inspect.getdoc(found)
    assert name in dir(optbench)
