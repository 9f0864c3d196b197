"""A probe that fails reports it, once, and the run goes on to the same end."""

import os
import signal

import pytest
import torch

from optbench import config
from optbench.config import RunConfig
from optbench.errors import UserError
from optbench.probes import Measurement, Probe
from optbench.probes.displacement import Displacement
from optbench.probes.spectrum import Spectrum
from optbench.training import build, run

WORDS = [
    "model=mlp", "model.hidden=[8]", "dataset=digits", "dataset.train_limit=64", "batch=16", "budget.steps=6",
    "eval_every=3", "evaluate_train=16", "tracker=none", "progress=false", "log_every=2",
]  # fmt: skip


def composed(folder, *words):
    return config.compose([*WORDS, f"results_dir={folder}", *words])


def probe_rows(outcome):
    return [row for row in outcome.directory.rows() if row["event"] == "probe"]


ERRORS = {
    "memory": (MemoryError("no room"), "MemoryError: no room (fewer examples, or a micro_batch, need less memory)"),
    "gpu": (torch.cuda.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory (fewer examples"),
    "bug": (ZeroDivisionError("division by zero\nand more"), "ZeroDivisionError: division by zero"),
    "mistake": (UserError("not for this model"), "UserError: not for this model"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_it_is_reported_once_in_history_and_log_and_the_run_goes_on(kind, tmp_path, monkeypatch, capsys):
    plain = run.execute(composed(tmp_path / "plain"))
    error, message = ERRORS[kind]

    def fail(self, context):
        # As far as it comes, it does harm.
        torch.manual_seed(1)
        raise error

    monkeypatch.setattr(Spectrum, "measure", fail)
    words = ["probe=[spectrum,displacement]", "probe.spectrum.every=2", "progress=true"]
    outcome = run.execute(composed(tmp_path / "failing", *words))
    assert outcome.state == "done", outcome.why
    rows = [row for row in probe_rows(outcome) if row["probe"] == "spectrum"]
    assert [
        (row["step"], row["problem"].startswith(f"probe spectrum failed at step 0: {message}")) for row in rows
    ] == [(0, True)]
    log = outcome.directory.log.read_text()
    assert log.count("probe spectrum failed") == 1
    assert "Traceback" in log
    assert capsys.readouterr().out.count(f"probe spectrum failed at step 0: {message.split('(')[0]}") == 1
    assert "displacement_distance" in outcome.summary
    assert not any(name.startswith("spectrum_") for name in outcome.summary)
    states = [torch.load(each.directory.checkpoint, weights_only=True)["task"] for each in (plain, outcome)]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(states[1]["model"][name], tensor)
    assert torch.equal(states[0]["generator"], states[1]["generator"])


def test_a_second_problem_is_reported_too(tmp_path, monkeypatch):
    problems = iter([ValueError("one"), ValueError("one"), ValueError("two"), ValueError("two")])

    def fail(self, context):
        raise next(problems)

    monkeypatch.setattr(Spectrum, "measure", fail)
    outcome = run.execute(composed(tmp_path, "probe=spectrum", "probe.spectrum.every=2"))
    assert [(row["step"], row["problem"]) for row in probe_rows(outcome)] == [
        (0, "probe spectrum failed at step 0: ValueError: one"),
        (4, "probe spectrum failed at step 4: ValueError: two"),
    ]


def test_an_interruption_is_not_taken_for_a_failure(tmp_path, monkeypatch):
    def interrupt(self, context):
        if context.task.step == 4:
            raise KeyboardInterrupt
        return Measurement({"value": 1.0})

    monkeypatch.setattr(Spectrum, "measure", interrupt)
    with pytest.raises(SystemExit):  # which Lightning makes of it
        run.execute(composed(tmp_path, "probe=spectrum", "probe.spectrum.every=2"))


def test_a_signal_during_a_measurement_leaves_the_others_for_later(tmp_path, monkeypatch):
    def signalled(self, context):
        if context.task.step == 3 and not flag:
            flag.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return Measurement({"value": 1.0})

    flag = []
    monkeypatch.setattr(Spectrum, "measure", signalled)
    words = ["probe=[spectrum,displacement]", "probe.spectrum.every=3", "probe.displacement.every=3"]
    words += ["probe.displacement.log_spaced=null"]
    outcome = run.execute(composed(tmp_path, *words))
    assert outcome.state == "preempted", outcome.why
    outcome = run.execute(composed(tmp_path, *words))
    assert outcome.state == "done", outcome.why
    found = sorted((row["probe"], row["step"]) for row in outcome.directory.measurements.rows())
    assert found == [(name, step) for name in ("displacement", "spectrum") for step in (0, 3, 6)]


def test_a_diverged_run_is_measured_where_it_diverged_by_those_that_are_to(tmp_path):
    words = ["optimizer.learning_rate=1e6", "divergence_factor=2", "probe=[displacement,spectrum]"]
    words += ["probe.displacement.on_divergence=true", "probe.displacement.log_spaced=null"]
    outcome = run.execute(composed(tmp_path, *words))
    assert outcome.state == "diverged"
    last = outcome.directory.rows()[-1]
    assert (last["event"], last["probe"]) == ("probe", "displacement")
    assert last["displacement_distance"] is None or last["displacement_distance"] > 1
    assert [row["probe"] for row in probe_rows(outcome) if row["step"] > 0] == ["displacement"]


def test_a_run_that_reaches_its_target_is_measured_at_its_end(tmp_path):
    words = ["budget.target=0.01", "budget.target_metric=validation_accuracy", "budget.stop_at_target=true"]
    words += ["probe=displacement", "probe.displacement.log_spaced=null"]
    outcome = run.execute(composed(tmp_path, *words))
    assert outcome.state == "done"
    assert outcome.summary["steps"] == 3
    assert [row["step"] for row in probe_rows(outcome)] == [0, 3]


def test_a_probe_that_is_never_due_is_refused_before_training(tmp_path):
    words = ["probe=trace", "probe.trace.start=false", "probe.trace.end=false", "probe.trace.at=[100]"]
    with pytest.raises(UserError, match=r"probe\.trace: is due at none of 6 steps; accepted: one of every, at"):
        run.execute(composed(tmp_path, *words))


def test_probe_seconds_are_no_training_seconds(tmp_path, monkeypatch):
    def slow(self, context):
        readings.append(context.task.clock.since)
        return Measurement({})

    readings = []
    monkeypatch.setattr(Displacement, "measure", slow)
    outcome = run.execute(composed(tmp_path, "probe=displacement"))
    assert readings
    assert all(since is None for since in readings)  # it stands still
    assert outcome.summary["probe_seconds"] >= 0


def test_a_probe_of_one_s_own_is_one_class(tmp_path):
    """The example of CONTRIBUTING: a class with `measure`, run by the same machinery."""
    from optbench.probes import Probes, ProbeSchedule, ScheduledProbe

    class Steps(Probe):
        def measure(self, context):
            return Measurement({"made": context.task.step})

    chosen = composed(tmp_path)
    read = RunConfig.of(chosen)
    task = build.build_task(read, build.load_data(read))
    probes = Probes([ScheduledProbe("steps", Steps(), ProbeSchedule(6, every=3), {})])
    recorder = build.build_recorder(read, task, None)
    recorder.probes = probes
    build.build_trainer(read, [recorder]).fit(task, train_dataloaders=run.StepTokens(task))
    assert probes.summary()["steps_made"] == 6
