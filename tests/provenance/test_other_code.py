"""What the commands say and do about finished runs of other code than is there now."""

import json
import shutil
from contextlib import contextmanager

import planned
import pytest

from optbench import config as configuration
from optbench.__main__ import main
from optbench.cli import verify
from optbench.provenance import fingerprint
from optbench.store import RunDirectory, load
from optbench.sweep import launch
from optbench.sweep.plan import Entry, Plan

WORDS = [
    "dataset=digits",
    "model=mlp",
    "budget.steps=6",
    "tracker=none",
    "evaluate_train=64",
    "trainer.accelerator=cpu",
]


def finished(folder, words, code, checkpoint="a checkpoint"):
    """A run of ``words`` as it is left in the store, without training; ``code``: "now", None or a fingerprint."""
    config = configuration.compose([*WORDS, *words, f"results_dir={folder}"])
    directory = RunDirectory.at(folder, configuration.run_id(config))
    directory.create(config)
    directory.append({"event": "train", "step": 6, "loss": 99.0})
    directory.checkpoint.parent.mkdir()
    directory.checkpoint.write_text(checkpoint)
    code = fingerprint(config) if code == "now" else code
    summary = {
        "run_id": directory.run_id,
        "status": "done",
        "steps": 6,
        "batch": 128,
        "learning_rate": 0.1,
        "base_learning_rate": 0.1,
        "scaling_rule": "none",
    }
    summary |= {"samples": 768, "epochs": 0.5, "parameters": 5, "seconds_training": 1.0, "train_loss": 1.0}
    directory.finish(summary | ({"code": code} if code else {}))
    return directory


def say(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_planning_says_how_many_are_of_other_code(tmp_path, capsys):
    for seed, code in enumerate(["now", "0123", "4567", None]):
        finished(tmp_path, [f"seed={seed}"], code)
    words = ["-m", *WORDS, "seed=range(6)", f"results_dir={tmp_path}", "dry_run=true", "sweep=things"]
    said = "6 runs: 4 done (2 of other code, 1 of unknown code"
    assert f"things: {said}: retry=stale runs them again), 2 new" in say(capsys, *words)
    assert f"things: {said}), 2 new" in say(capsys, *words, "retry=stale")


def test_stale_runs_are_cleared_before_they_start(tmp_path, capsys, monkeypatch):
    runs = [finished(tmp_path, [f"seed={seed}"], code) for seed, code in enumerate(["now", "0123", None])]
    begun = finished(tmp_path, ["seed=3"], "4567")  # stopped: its checkpoint is of other code
    begun.set_status("preempted")
    begun.write_environment({"code": [{"fingerprint": "4567"}]})
    given = []
    monkeypatch.setattr(launch, "dispatch", lambda plan, run_ids, *others: given.extend(run_ids) or 0)
    say(capsys, "-m", *WORDS, "seed=range(4)", f"results_dir={tmp_path}", "retry=stale", "sweep=things")
    assert given == [run.run_id for run in (*runs[1:], begun)]
    assert [run.status().state for run in (*runs, begun)] == ["done", "pending", "pending", "pending"]
    assert [run.checkpoint.exists() for run in (*runs, begun)] == [True, False, False, False]
    assert [len(run.rows()) for run in (*runs, begun)] == [1, 0, 0, 0]


def test_nothing_is_run_again_unasked(tmp_path, capsys):
    finished(tmp_path, ["seed=0"], "0123")
    said = say(capsys, "-m", *WORDS, "seed=choice(0)", f"results_dir={tmp_path}", "sweep=things")
    assert "1 run: 1 done (1 of other code: retry=stale runs them again); nothing to do" in said


def test_status_and_retry_know_of_them(tmp_path, capsys, monkeypatch):
    runs = [finished(tmp_path, [f"seed={seed}"], code) for seed, code in enumerate(["now", "0123", None])]
    say(capsys, "-m", *WORDS, "seed=range(3)", f"results_dir={tmp_path}", "sweep=things")
    assert "1 of other code, 1 of unknown code: python -m optbench retry things" in say(
        capsys, "status", "things", "--results-dir", tmp_path
    )
    given = []
    monkeypatch.setattr(
        "optbench.sweep.launchers.dispatch.dispatch", lambda plan, run_ids, launcher: given.extend(run_ids) or 0
    )
    say(capsys, "retry", "things", "--stale", "--run", runs[2].run_id, "--results-dir", tmp_path)
    assert given == [runs[2].run_id]
    say(capsys, "retry", "things", "--stale", "--results-dir", tmp_path)
    assert given[1:] == [runs[1].run_id]  # the other waits already
    assert not runs[1].checkpoint.exists()
    assert runs[0].checkpoint.exists()


class TestDirectRun:
    @pytest.mark.parametrize(
        ("code", "note"),
        [
            ("now", "already; force=true runs it again"),
            ("0123", "already, by other code than is there now; retry=stale runs it again"),
            (None, "already, by code of which no fingerprint was recorded; retry=stale runs it again"),
        ],
    )
    def test_says_in_the_line_that_it_is_done(self, tmp_path, capsys, code, note):
        finished(tmp_path, [], code)
        assert note in say(capsys, *WORDS, f"results_dir={tmp_path}")

    def test_edited_code_of_the_users_own_is_named(self, tmp_path, capsys, monkeypatch):
        place = tmp_path / "place"
        place.mkdir()
        (place / "mine_edited.py").write_text("import torch\n\n\nclass Mine(torch.optim.SGD):\n    pass\n")
        monkeypatch.syspath_prepend(str(place))
        shutil.copytree(configuration.conf_dir(), tmp_path / "conf")
        own = "defaults: [sgd]\n_target_: mine_edited.Mine\n"
        (tmp_path / "conf" / "optimizer" / "mine.yaml").write_text(own)
        monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
        words = ["optimizer=mine"]
        directory = finished(tmp_path, words, "now")
        from optbench.provenance import Sources
        from optbench.provenance.records import keep_modules

        keep_modules(tmp_path, Sources().code(directory.config()))
        (place / "mine_edited.py").write_text("# A remark.\nimport torch\n\n\nclass Mine(torch.optim.SGD):\n    pass\n")
        assert "already; force=true" in say(capsys, *WORDS, *words, f"results_dir={tmp_path}")
        (place / "mine_edited.py").write_text("import torch\n\n\nclass Mine(torch.optim.SGD):\n    more = 1\n")
        said = say(capsys, *WORDS, *words, f"results_dir={tmp_path}")
        assert "already, by other code than is there now (mine_edited changed); retry=stale runs it again" in said

    def test_starts_over_when_asked_to(self, tmp_path, capsys):
        assert main([*WORDS, f"results_dir={tmp_path}", "log_every=1"]) == 0
        [directory] = [RunDirectory(path) for path in (tmp_path / "runs").iterdir()]
        rows, code = directory.rows(), directory.summary()["code"]
        assert code == fingerprint(directory.config())
        assert load(tmp_path)["code"].tolist() == [code]
        assert json.loads((tmp_path / "code" / f"{code}.json").read_text())["modules"]["optbench.training.task"]
        path = directory.path / "summary.json"
        path.write_text(path.read_text().replace(code, "0123"))
        history = directory.path / "history.jsonl"
        history.write_text(history.read_text().splitlines()[0].replace('"loss"', '"tampered"') + "\n")
        assert main([*WORDS, f"results_dir={tmp_path}", "log_every=1", "retry=stale"]) == 0
        assert [row["step"] for row in directory.rows()] == [row["step"] for row in rows]
        assert "tampered" not in history.read_text()
        assert directory.summary()["code"] == code


class TestReport:
    def report(self, folder, capsys, codes, **more):
        planned.sweep(folder, codes=codes, **more)
        assert main(["report", "things", "--results-dir", str(folder)]) == 0
        return capsys.readouterr().out, (folder / "things" / "index.html").read_text()

    def test_of_one_code_there_is_nothing_to_warn_of(self, tmp_path, capsys):
        out, page = self.report(tmp_path, capsys, {})
        assert "Runs of different code" not in out + page
        assert "<h3>Code</h3>" in page
        assert "<td>c0de</td>" in page

    def test_seeds_of_different_code_are_warned_of(self, tmp_path, capsys):
        out, page = self.report(tmp_path, capsys, {0: "beef", 3: "beef"})
        warning = (
            "Runs of different code are compared here: 22 of c0de, 2 of beef. In 2 of 8 settings even seeds of the same "
            "setting are of different code."
        )
        assert warning in out
        assert f'<p class="banner">{warning}' in page

    def test_runs_of_unknown_code_beside_others_are_warned_of(self, tmp_path, capsys):
        assert "23 of c0de, 1 of unknown code" in self.report(tmp_path, capsys, {5: None})[0]

    def test_codes_that_were_verified_are_one(self, tmp_path, capsys):
        from optbench.provenance import Vintages

        Vintages(tmp_path).record_equal("beef", "c0de", "things", ["x"], 1)
        assert "Runs of different code" not in self.report(tmp_path, capsys, {0: "beef"})[0]

    @pytest.mark.parametrize(("digest", "warned"), [("1", False), ("2", True)])
    def test_of_two_optimizers_the_modules_that_both_have_are_compared(self, tmp_path, capsys, digest, warned):
        codes = dict.fromkeys(range(12), "beef")  # all of sgd
        (tmp_path / "code").mkdir()
        for code, modules in {"beef": {"task": "1", "sgd": "1"}, "c0de": {"task": digest, "adam": "1"}}.items():
            (tmp_path / "code" / f"{code}.json").write_text(json.dumps({"modules": modules}))
        out, _ = self.report(tmp_path, capsys, codes)
        assert ("Runs of different code" in out) is warned
        assert "even seeds" not in out

    def test_the_table_of_runs_has_the_code(self, tmp_path, capsys):
        import pandas as pd

        self.report(tmp_path, capsys, {0: "beef"})
        assert pd.read_parquet(tmp_path / "things" / "tables" / "runs.parquet")["code"].value_counts().to_dict() == {
            "c0de": 23,
            "beef": 1,
        }


def test_a_verification_that_is_stopped_counts_nothing_that_it_did_not_run(tmp_path, capsys, monkeypatch):
    old = [finished(tmp_path / "old", ["optimizer=adam", f"seed={seed}"], "beef") for seed in range(4)]
    Plan(tmp_path / "old", "s").extend([Entry(run.run_id, {}) for run in old], {})

    @contextmanager
    def computed_again(plan, configs, changed, workers):
        again = Plan(tmp_path / "again", "s")
        for number, seed in enumerate(range(4)):
            if number < 3:
                finished(tmp_path / "again", ["optimizer=adam", f"seed={seed}"], "f00d")
            else:
                again.directory(old[seed].run_id).create(configs[old[seed].run_id])
        yield again

    monkeypatch.setattr(verify, "computed_again", computed_again)
    words = ["verify", "s", "--fraction", "100%", "--results-dir", str(tmp_path / "old")]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "s: 3 runs again: 3 agree; 1 not run again, because the command was stopped" in out
    assert "recorded" not in out
    assert "withdrawn" not in out
    assert "differs" not in out


@pytest.mark.slow
def test_verify_agrees_with_a_good_sweep_and_finds_a_tampered_history(tmp_path, capsys):
    words = ["-m", *WORDS, "optimizer=sgd,kfac", "seed=range(2)", f"results_dir={tmp_path}", "sweep=things"]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["verify", "things", "--results-dir", str(tmp_path)]) == 0
    assert "4 runs again: 4 agree" in capsys.readouterr().out
    runs = [Plan(tmp_path, "things").directory(entry.run_id) for entry in Plan(tmp_path, "things").entries()]
    # As a mere move of code would have it: other fingerprints, the same numbers.
    for run in runs:
        path = run.path / "summary.json"
        path.write_text(path.read_text().replace(run.summary()["code"], f"0{run.summary()['code'][1:-1]}0"))
    assert "4 of other code" in say(capsys, *words, "dry_run=true")
    assert main(["verify", "things", "--results-dir", str(tmp_path)]) == 0
    assert "of other code" not in say(capsys, *words, "dry_run=true")
    history = runs[3].path / "history.jsonl"
    history.write_text(
        history.read_text().replace('"train_loss":', '"train_loss":1').replace('"train_loss": ', '"train_loss": 1')
    )
    assert main(["verify", "things", "--results-dir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "4 runs again: 3 agree, 1 differs" in out
    assert "is withdrawn" in out
    assert "2 of other code" in say(capsys, *words, "dry_run=true")  # both of K-FAC
