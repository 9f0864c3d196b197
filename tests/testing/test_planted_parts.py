"""Faults of models, datasets and probes are found by the check that is about them, and nothing where nothing is planted."""

import pytest
import yaml

from optbench import testing

PLACE = "tests.testing.planted_parts"
SCHEDULE = {"every": None, "at": [], "log_spaced": None, "start": True, "end": True, "on_divergence": False}
TYPES = {
    "every": "duration > 0 or null",
    "at": "list of duration",
    "log_spaced": "int >= 1 or null",
    **dict.fromkeys(("start", "end", "on_divergence"), "bool"),
}
MODELS = {
    "MeanOfTheBatch": "micro-batch",
    "CountsPasses": "kill",
    "SinglePrecision": "dtypes",
    "Detached": "trains",
}
DATASETS = {"changing_data": "same data", "fewer_data": "size"}
PROBES = {
    "MovesTheWeights": "changes nothing",
    "LeavesEvalMode": "changes nothing",
    "Raises": "measures",
    "RemembersInVain": "stop",
}


@pytest.fixture
def choice(tmp_path):
    """Writes a choice of a planted part; returns the word that offers its folder."""

    def write(group, name, called, **info):
        content = {"_target_": f"{PLACE}.{called}", "name": name}
        schema = {}
        if group == "probe":
            content, schema = content | SCHEDULE, TYPES
        content["info"] = {"about": "planted", "source": "ours", **info, "schema": schema}
        folder = tmp_path / group
        folder.mkdir(exist_ok=True)
        header = f"# @package probe.{name}\n" if group == "probe" else ""
        (folder / f"{name}.yaml").write_text(header + yaml.safe_dump(content))
        return f"--config-dir={tmp_path}"

    return write


def model(choice, target, **info):
    return "model=planted", choice("model", "planted", target, accepts=["image"], **{"batch_norm": True} | info)


def dataset(choice, target):
    size = {"train": 200, "classes": 3, "shape": [6]}
    return "dataset=planted", choice(
        "dataset", "planted", target, kind="table", target="class", download="none", size=size
    )


def test_a_clean_model_passes(choice):
    testing.certify(*model(choice, "CleanModel"), quick=True).check()


@pytest.mark.slow
def test_clean_parts_pass_with_ranks_and_killed_runs(choice):
    testing.certify(*model(choice, "CleanModel")).check()
    testing.certify(*dataset(choice, "clean_data")).check()


@pytest.mark.parametrize("target", MODELS)
def test_a_fault_of_a_model_is_found(target, choice):
    card = testing.certify(*model(choice, target), checks=[MODELS[target]])
    assert card[MODELS[target]].outcome == "failed"


def test_a_model_whose_file_says_that_it_has_no_batch_norm(choice):
    card = testing.certify(*model(choice, "CleanModel", batch_norm=False), checks=["batch norm"])
    assert card["batch norm"].reason == "its file says batch_norm: false, and it has one"


def test_a_clean_dataset_passes(choice):
    testing.certify(*dataset(choice, "clean_data"), quick=True).check()


@pytest.mark.parametrize("target", DATASETS)
def test_a_fault_of_a_dataset_is_found(target, choice):
    card = testing.certify(*dataset(choice, target), checks=[DATASETS[target]])
    assert card[DATASETS[target]].outcome == "failed"


def test_a_clean_probe_passes(choice):
    testing.certify("probe=planted", choice("probe", "planted", "CleanProbe")).check()


@pytest.mark.parametrize("target", PROBES)
def test_a_fault_of_a_probe_is_found(target, choice):
    card = testing.certify("probe=planted", choice("probe", "planted", target))
    assert PROBES[target] in {check.name for check in card.failures}, card
