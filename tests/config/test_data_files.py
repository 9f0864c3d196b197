"""Data in the identity of a run: other data are another run, the same data in another place are the same run."""

import shutil
import sys
from pathlib import Path

import pytest

from optbench import config
from optbench.config import RunConfig, compose, run_id
from optbench.data import extras, fingerprints
from optbench.errors import UserError
from optbench.training import build
from tests.data.fixtures import cifar_members, offline, random_images, write_cifar, write_image_folder, write_parquet

WORDS = ["model=mlp", "batch=4", "budget.steps=2", "evaluate_train=4", "tracker=none", "progress=false"]
SHARDS = ["dataset=huggingface", *WORDS]


@pytest.fixture
def data_dir(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return offline(monkeypatch, tmp_path)


def shards(folder, seed=0, train=20):
    for split, count in (("train", train), ("test", 6)):
        images = random_images(count, 4, 4, 3, seed=seed)
        write_parquet(folder, split, images, [i % 2 for i in range(count)], ["cat", "dog"])
    return folder


def composed(*words):
    return compose([*SHARDS, *words])


def test_a_relative_an_absolute_and_a_copied_path_are_one_run(data_dir, tmp_path):
    shards(data_dir / "toy")
    shutil.copytree(data_dir / "toy", tmp_path / "copied")
    paths = ["toy", "data/toy", data_dir / "toy", tmp_path / "copied"]
    ids = {run_id(composed(f"dataset.path={path}", "data_dir=data")) for path in paths}
    assert len(ids) == 1
    other = shards(tmp_path / "other", seed=1)
    assert run_id(composed(f"dataset.path={other}")) not in ids


def test_changed_data_are_another_run(data_dir):
    shards(data_dir / "toy")
    before = composed("dataset.path=toy", "data_dir=data")
    shards(data_dir / "toy", seed=1)
    assert run_id(composed("dataset.path=toy", "data_dir=data")) != run_id(before)
    with pytest.raises(UserError) as caught:
        build.load_data(RunConfig.of(before))
    now = composed("dataset.path=toy", "data_dir=data")["dataset"]["fingerprint"]
    for part in (str(data_dir / "toy"), before["dataset"]["fingerprint"], now, "accepted: "):
        assert part in str(caught.value)
    shards(data_dir / "toy")
    assert len(build.load_data(RunConfig.of(before)).train) == 18


def test_the_ids_of_official_and_shipped_data_are_what_they_were(data_dir):
    for name in ("digits", "fashion_mnist", "cifar10"):
        dataset = compose([f"dataset={name}", "model=mlp"])["dataset"]
        assert "fingerprint" not in dataset
    (data_dir / "cifar-10-python.tar.gz").write_bytes(b"anything")
    default = compose(["dataset=cifar10", "model=mlp", "data_dir=data"])
    assert run_id(default) == run_id(compose(["dataset=cifar10", "model=mlp", "data_dir=nowhere"]))
    assert run_id(compose(["dataset=digits", "model=mlp"])) == "sgd-mlp-digits-b128-s0-27aaf161f5"


def test_without_a_check_of_hashes_the_content_is_in_the_id(data_dir):
    ids = []
    for examples in (20, 21):
        write_cifar(data_dir / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar_members(10, examples)[0])
        ids.append(run_id(compose(["dataset=cifar10", "dataset.check_hash=false", "model=mlp", "data_dir=data"])))
    assert len({*ids, run_id(compose(["dataset=cifar10", "model=mlp"]))}) == 3


def test_data_that_are_not_here_may_be_named_by_their_fingerprint(data_dir):
    with pytest.raises(UserError, match=r"dataset\.path=toy: not found"):
        composed("dataset.path=toy", "data_dir=data")
    there = composed(f"dataset.path={shards(data_dir / 'elsewhere')}")
    named = f"+dataset.fingerprint='{there['dataset']['fingerprint']}'"
    assert run_id(composed("dataset.path=toy", "data_dir=data", named)) == run_id(there)
    shards(data_dir / "toy", seed=1)
    with pytest.raises(UserError, match=there["dataset"]["fingerprint"]):
        composed("dataset.path=toy", "data_dir=data", named)


def test_a_sweep_reads_a_folder_once(data_dir, monkeypatch, capsys):
    from optbench.__main__ import main

    shards(data_dir / "toy")
    looked = []
    hashed = fingerprints._hash
    monkeypatch.setattr(fingerprints, "_hash", lambda files: looked.append(files) or hashed(files))
    words = [*SHARDS, "dataset.path=toy", "data_dir=data", "seed=range(5)", "optimizer=sgd,adam", "dry_run=true"]
    assert main(["-m", *words]) == 0
    assert "10 runs: 10 new" in capsys.readouterr().out
    assert len(looked) == 1


def own_dataset(monkeypatch, tmp_path, body, info=""):
    """A dataset of the user's own: theirs.py, and its choice in a copy of conf/."""
    shutil.copytree(config.conf_dir(), tmp_path / "conf")
    (tmp_path / "theirs.py").write_text(
        "import torch\nfrom pathlib import Path\nfrom optbench.data.raw import RawData, Split\n"
        "from optbench.data.spec import DataSpec\n\n"
        "def load(data_dir):\n"
        "    inputs = [torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8) for n in (12, 4, 4)]\n"
        "    targets = [torch.arange(n) % 2 for n in (12, 4, 4)]\n"
        f"    {body}\n"
        "    splits = [Split(*pair) for pair in zip(inputs, targets)]\n"
        "    return RawData(*splits, DataSpec('image', (1, 4, 4), 2))\n"
    )
    (tmp_path / "conf" / "dataset" / "theirs.yaml").write_text(
        "_target_: theirs.load\nname: theirs\ninfo:\n  about: theirs\n  kind: image\n  target: class\n  schema: {}\n"
        + info
    )
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)


def test_what_an_own_dataset_reads_from_data_dir_is_in_the_id(data_dir, monkeypatch, tmp_path):
    own_dataset(monkeypatch, tmp_path, "Path(data_dir, 'a.txt').read_text()")
    words = ["dataset=theirs", *WORDS]
    ids = []
    for content, folder in (("one", "data"), ("two", "data"), ("one", "elsewhere")):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "a.txt").write_text(content)
        ids.append(run_id(compose([*words, f"data_dir={folder}"])))
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("targets[0][3] = 2", r"the train split: the targets must be in 0 \.\. 1, but example 3 has 2"),
        ("targets[2][1] = -1", r"the test split: the targets must be in 0 \.\. 1, but example 1 has -1"),
        (
            "inputs[1] = inputs[1].float()",
            r"the validation split: the inputs must be uint8 \(N, 1, 4, 4\), but are float32",
        ),
        ("inputs[1], targets[1] = inputs[1][:0], targets[1][:0]", "the validation split: is empty"),
        ("targets[0] = targets[0][:5]", "the train split: has 5 targets for 12 examples"),
        ("return None", "must return RawData, not NoneType"),
    ],
)
def test_bad_data_are_refused_before_training(data_dir, monkeypatch, tmp_path, body, message):
    from optbench.training import run

    own_dataset(monkeypatch, tmp_path, body)
    chosen = compose(["dataset=theirs", *WORDS, f"results_dir={tmp_path}/results"])
    with pytest.raises(UserError, match=f"^dataset=theirs: .*{message}"):
        run.execute(chosen)
    assert not (tmp_path / "results").exists()


# ---- before the data are read -----------------------------------------------------------------------------------------------


def test_a_validation_set_that_leaves_nothing_is_refused_with_what_it_can_be(data_dir):
    def message(*words):
        with pytest.raises(UserError) as caught:
            compose([*WORDS, "data_dir=data", *words])
        return str(caught.value)

    # 1,293 for training beside the default of 144; that the batch then fits is another question.
    assert "dataset.validation=1437: " in message("dataset=digits", "dataset.validation=1437")
    assert "accepted: 1 to 1436" in message("dataset=digits", "dataset.validation=5000")
    assert compose([*WORDS, "dataset=digits", "dataset.validation=1430"])["dataset"]["validation"] == 1430
    shards(data_dir / "toy")
    assert "accepted: 1 to 19" in message("dataset=huggingface", "dataset.path=toy", "dataset.validation=20")
    for split in ("train", "val"):
        write_image_folder(
            data_dir, split, {"a": [(f"{i}.png", image) for i, image in enumerate(random_images(6, 8, 8, 3))]}
        )
    found = message("dataset=imagenet", "model=resnet18")
    assert "dataset.validation=50000: is taken from the 6 training examples" in found
    assert "accepted: 1 to 5" in found


def test_a_dataset_whose_packages_are_missing_is_refused_when_it_is_chosen(monkeypatch, capsys):
    from optbench.__main__ import main
    from optbench.data.locate import without_download

    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "skimage" else object())
    assert main(["dataset=natpatch", *WORDS]) == 2
    assert capsys.readouterr().err == (
        "optbench: dataset=natpatch: needs skimage, not installed here; pip install 'optbench[natpatch]'\n"
    )
    assert "natpatch" not in without_download()
    assert "text" in without_download()
    assert main(["doctor"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("dataset=natpatch"))
    assert "MISSING: skimage: pip install 'optbench[natpatch]'" in line
    assert main(["list", "datasets"]) == 0
    assert "NOT INSTALLED" in capsys.readouterr().out
    assert main(["dataset=huggingface", "dataset.path=null", *WORDS]) == 2
    assert "dataset.path=null" in capsys.readouterr().err
