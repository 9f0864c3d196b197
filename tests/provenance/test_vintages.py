"""How finished runs stand to the code that is there now, and what follows of runs that were computed again."""

import json

import pytest

from optbench.provenance import Sources, Vintages, as_text, changed_modules, continued, record, vintages_of
from optbench.store import RunDirectory
from optbench.sweep.verification import Difference, Sample, compare, samples, settle

CONFIG = {"optimizer": {"_target_": "torch.optim.SGD", "name": "sgd"}, "results_dir": "x"}


def run(folder, name="a", code=None, **summary):
    directory = RunDirectory.at(folder, name)
    directory.create("optimizer: {_target_: torch.optim.SGD, name: sgd}\n")
    for step in (1, 2):
        directory.append({"event": "train", "step": step, "seconds": step, "loss": 1 / step})
    values = {"train_loss": 0.5, "steps": 2, "seconds_training": 3.0, **summary}
    directory.finish(values | ({"code": code} if code else {}))
    return directory


@pytest.fixture
def now():
    return Sources().code(CONFIG)


class TestStanding:
    def test_of_finished_runs(self, tmp_path, now):
        vintages = Vintages(tmp_path)
        runs = {"current": now.fingerprint, "other": "0123", "unknown": None}
        found = {name: vintages.of_finished(run(tmp_path, name, code)) for name, code in runs.items()}
        assert found == {name: name for name in runs}

    def test_a_run_of_several_codes_is_of_other_code(self, tmp_path, now):
        for code in (f"0123+{now.fingerprint}", f"unknown+{now.fingerprint}"):
            assert Vintages(tmp_path).standing("a", code, CONFIG) == "other"

    def test_equal_codes_are_one_also_by_way_of_a_third(self, tmp_path, now):
        vintages = Vintages(tmp_path)
        vintages.record_equal("01", "02", "things", ["a", "b", "c"], 40)
        vintages.record_equal("02", now.fingerprint, "things", ["d"], 1)
        for known in (vintages, Vintages(tmp_path)):
            assert known.standing("a", "01", CONFIG) == "current"
            assert known.standing("a", "01+02", CONFIG) == "current"
            assert known.standing("a", "03", CONFIG) == "other"
        written = json.loads((tmp_path / "vintages.json").read_text())["equal"][0]
        assert {"old": "01", "new": "02", "sweep": "things", "runs": 3, "of": 40}.items() <= written.items()

    def test_a_pair_is_withdrawn(self, tmp_path, now):
        vintages = Vintages(tmp_path)
        vintages.record_equal("01", now.fingerprint, "things", ["a"], 1)
        vintages.record_equal("02", now.fingerprint, "things", ["b"], 1)
        assert vintages.withdraw("01", now.fingerprint)
        assert not vintages.withdraw("01", now.fingerprint)
        assert not Vintages(tmp_path).same("01", now.fingerprint)
        assert Vintages(tmp_path).same("02", now.fingerprint)

    @pytest.mark.parametrize(
        "content", ["", "[]", '{"equal": 3, "runs": [1]}', '{"equal": [{"old": 1, "new": "2"}, 4]}']
    )
    def test_a_damaged_file_is_an_empty_one(self, tmp_path, content):
        (tmp_path / "vintages.json").write_text(content)
        assert Vintages(tmp_path).standing("a", "01", CONFIG) == "other"


class TestRecord:
    def test_a_run_that_starts_anew_is_of_one_code(self, tmp_path, now):
        directory = run(tmp_path)
        directory.write_environment({"code": [{"fingerprint": "0123"}]})
        assert as_text(continued(directory, now)) == now.fingerprint

    @pytest.mark.parametrize(
        ("before", "text"),
        [([], "unknown+{now}"), ([{"fingerprint": "01"}], "01+{now}"), ([{"fingerprint": "{now}"}], "{now}")],
    )
    def test_a_run_that_goes_on_is_of_all_that_trained_it(self, tmp_path, now, before, text):
        directory = run(tmp_path)
        directory.checkpoint.parent.mkdir()
        directory.checkpoint.write_text("a checkpoint")
        before = [{"fingerprint": each["fingerprint"].format(now=now.fingerprint)} for each in before]
        directory.write_environment({"code": before})
        assert as_text(continued(directory, now)) == text.format(now=now.fingerprint)

    def test_the_modules_are_written_once_and_tell_what_changed(self, tmp_path, now):
        continued(run(tmp_path), now)
        assert changed_modules(tmp_path, now.fingerprint, now) == []
        other = Sources().code({**CONFIG, "optimizer": {"_target_": "optbench.optimizers.LAMB"}})
        assert changed_modules(tmp_path, now.fingerprint, other) == ["optbench.optimizers.lamb"]
        assert changed_modules(tmp_path, "../../etc/passwd", now) == []

    def test_an_older_run_gets_its_code_afterwards(self, tmp_path, now):
        directory = run(tmp_path)
        directory.write_environment({"git": {"commit": "abc", "changed": False}})
        assert record(directory, CONFIG) == now.fingerprint
        assert directory.summary()["code"] == now.fingerprint
        assert vintages_of(directory)[0]["commit"] == "abc"
        assert Vintages(tmp_path).of_finished(directory) == "current"


class TestVerification:
    def test_a_sample_has_some_runs_of_every_code(self, tmp_path):
        runs = [run(tmp_path, f"old{i}", "01") for i in range(8)] + [run(tmp_path, f"new{i}", "02") for i in range(2)]
        found = samples(runs, 0.05, 0)
        assert [(sample.code, len(sample.runs), sample.of) for sample in found] == [("01", 3, 8), ("02", 2, 2)]
        assert [len(sample.runs) for sample in samples(runs, 0.5, 0)] == [4, 2]
        assert [sample.runs for sample in samples(runs, 0.05, 1)] != [sample.runs for sample in found]
        assert [run.run_id for sample in samples(runs, 0.05, 0, ["old4"]) for run in sample.runs] == ["old4"]

    def test_times_and_what_is_new_are_no_difference(self, tmp_path):
        first = run(tmp_path / "1", code="01")
        assert not compare(first, run(tmp_path / "2", code="02", seconds_training=9.0, more=1))

    def test_the_last_digit_is_a_difference(self, tmp_path):
        found = compare(run(tmp_path / "1"), run(tmp_path / "2", train_loss=0.5000000000000001))
        assert found.largest == pytest.approx(1.1e-16, rel=0.1)
        assert found.why == "train_loss: 0.5 then, 0.5000000000000001 now"

    def test_a_row_that_was_tampered_with_is_found(self, tmp_path):
        first, second = run(tmp_path / "1"), run(tmp_path / "2")
        path = first.path / "history.jsonl"
        path.write_text(path.read_text().replace('"loss":0.5', '"loss":0.25').replace('"loss": 0.5', '"loss": 0.25'))
        assert compare(first, second) == Difference("loss at step 2: 0.25 then, 0.5 now", 0.25)

    def test_a_row_that_is_missing_is_found(self, tmp_path):
        first, second = run(tmp_path / "1"), run(tmp_path / "2")
        second.append({"event": "train", "step": 3})
        assert compare(first, second).why == "2 rows of the history then, 3 now"

    def settled(self, folder, code, differ=(), of=3, number=3):
        runs = tuple(run(folder, f"r{i}", code) for i in range(number))
        different = {each.run_id: Difference("x" if each.run_id in differ else "") for each in runs}
        return settle(Vintages(folder), Sample(code or "unknown", runs, of), "99", different, "things")

    def test_codes_whose_runs_agree_are_equal(self, tmp_path):
        assert self.settled(tmp_path, "01") == "01 is recorded as equal to 99, the code of now, by 3 of 3 runs"
        assert Vintages(tmp_path).same("01", "99")

    def test_one_that_differs_withdraws_that_they_were(self, tmp_path):
        self.settled(tmp_path, "01")
        assert "is withdrawn" in self.settled(tmp_path, "01", differ=["r1"])
        assert not Vintages(tmp_path).same("01", "99")

    def test_too_few_prove_nothing(self, tmp_path):
        assert "2 runs of 40 are too few" in self.settled(tmp_path, "01", of=40, number=2)
        assert not Vintages(tmp_path).same("01", "99")

    def test_runs_of_unknown_code_stand_for_themselves(self, tmp_path):
        said = self.settled(tmp_path, None, differ=["r1"], of=40)
        assert said == "2 runs of unknown code now count as of 99; no code is recorded of 38 others, which stay unknown"
        assert [Vintages(tmp_path).codes(name, None) for name in ("r0", "r1", "r2")] == [("99",), ("unknown",), ("99",)]
