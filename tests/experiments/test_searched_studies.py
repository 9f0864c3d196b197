"""Studies whose runs a search chooses, trained at their smoke scale in small and analysed."""

import pytest

from optbench.__main__ import main
from optbench.analysis.study import Study
from tests.experiments.made_runs import analyse, drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "runs", "tables"),
    [
        ("steps_to_target", ["search.budget=20"], 20, {"chosen_rates", "survival", "costs", "noise_scale"}),
        ("decay_and_warmup", ["search.budget=30"], 30, {"levels", "warmup_gains"}),
        # Each of two methods: three trials, and two new seeds of the winner and of the defaults, which may be one setting.
        ("optimizer_comparison", ["optimizer=adamw,sgd", "model=gru"], 10, {"ranks", "scores", "tuned_minus_default"}),
    ],
)
def test_from_its_runs_to_its_findings(tmp_path, name, words, runs, tables):
    given = [f"experiment={name}", "scale=smoke", f"results_dir={tmp_path}", "progress=false", "launcher.workers=1"]
    assert main(["-m", *given, *words, "trainer.accelerator=cpu"]) == 0
    study = Study.read(tmp_path, name, "smoke")
    assert len(study.runs) >= runs
    assert set(study.runs["status"]) <= {"done", "diverged"}
    findings = analyse(name, study)
    assert tables <= set(findings.tables)
    assert findings.claims
    assert "Not enough" not in findings.answer
    drawn(findings)
