"""dataset=table against pandas by hand, and what it refuses by name."""

import gzip

import numpy as np
import pandas as pd
import pytest
import torch

from optbench.data import table
from optbench.data.spec import DataSpec
from optbench.data.splits import fixed_permutation
from optbench.errors import UserError
from optbench.system import saying


def patients(rows=40, seed=0):
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "number": np.arange(rows),
            "age": generator.normal(50, 10, rows),
            "ward": generator.choice(["a", "b", "c"], rows),
            "beds": generator.integers(1, 5, rows),
            "smokes": generator.choice([True, False], rows),
            "outcome": generator.choice(["well", "ill"], rows),
            "cost": generator.normal(2000, 300, rows),
        }
    )


def write(tmp_path, frame, name="patients.csv"):
    path = tmp_path / name
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    return path


def load(path, target="outcome", **options):
    return table.load("nowhere", str(path), target, **options)


def rows_by_hand(count):
    """The rows of (train, validation, test) by the permutations that never change."""
    test = max(count // 10, 1)
    first, second = fixed_permutation(count).numpy(), fixed_permutation(count - test).numpy()
    validation = max((count - test) // 10, 1)
    return first[:-test][second[:-validation]], first[:-test][second[-validation:]], first[-test:]


def by_hand(frame, numbers, categories, training):
    """Numbers by pandas' mean and standard deviation, then categories by its get_dummies."""
    known = frame.iloc[training]
    scaled = (frame[numbers] - known[numbers].mean()) / known[numbers].std(ddof=0)
    dummies = [
        pd.get_dummies(frame[name].astype(str), dtype=float).reindex(columns=sorted(known[name].astype(str).unique()))
        for name in categories
    ]
    return pd.concat([scaled, *dummies], axis=1).to_numpy()


@pytest.mark.parametrize("name", ["patients.csv", "patients.tsv", "patients.csv.gz", "patients.parquet"])
def test_numbers_and_categories_against_pandas(tmp_path, name):
    frame = patients()
    raw = load(write(tmp_path, frame, name), ignore=["number", "cost"])
    rows = rows_by_hand(40)
    expected = by_hand(frame, ["age", "beds"], ["ward", "smokes"], rows[0])
    assert raw.spec == DataSpec("table", (2 + 3 + 2,), 2)
    assert raw.class_names == ["ill", "well"]
    for split, chosen in zip((raw.train, raw.validation, raw.test), rows, strict=True):
        np.testing.assert_allclose(split.inputs.numpy(), expected[chosen], rtol=0, atol=1e-13)
        assert [raw.class_names[target] for target in split.targets.tolist()] == frame["outcome"].iloc[chosen].tolist()


def test_numbers_that_name_categories(tmp_path):
    frame = patients()
    raw = load(write(tmp_path, frame), ignore=["number", "cost", "ward", "smokes"], categorical=["beds"])
    rows = rows_by_hand(40)
    np.testing.assert_allclose(raw.test.inputs.numpy(), by_hand(frame, ["age"], ["beds"], rows[0])[rows[2]], atol=1e-13)


def test_regression(tmp_path):
    frame = patients()
    path = write(tmp_path, frame)
    raw = load(path, "cost", task="regression", ignore=["number"])
    assert raw.spec == DataSpec("table", (2 + 3 + 2 + 2,), 1, "real")
    train, _, test = rows_by_hand(40)
    cost = frame["cost"].to_numpy()
    expected = (cost[test] - cost[train].mean()) / cost[train].std()
    np.testing.assert_allclose(raw.test.targets[:, 0].numpy(), expected, atol=1e-13)
    plain = load(path, "cost", task="regression", normalize_targets=False, normalize=False)
    np.testing.assert_array_equal(plain.test.targets[:, 0].numpy(), cost[test])
    np.testing.assert_array_equal(
        plain.test.inputs[:, :3].numpy(), frame[["number", "age", "beds"]].to_numpy(float)[test]
    )


def test_a_second_file_has_the_test_examples(tmp_path):
    frame, other = patients(), patients(10, seed=1)
    path = write(tmp_path, frame)
    # Its columns may be in another order.
    test_path = write(tmp_path, other[other.columns[::-1]], "more.csv")
    raw = load(path, test_path=str(test_path), ignore=["number", "cost"])
    order = fixed_permutation(40).numpy()
    expected = by_hand(pd.concat([frame, other]), ["age", "beds"], ["ward", "smokes"], order[:-4])
    np.testing.assert_allclose(raw.train.inputs.numpy(), expected[order[:-4]], atol=1e-13)
    np.testing.assert_allclose(raw.test.inputs.numpy(), expected[40:], atol=1e-13)
    assert [raw.class_names[target] for target in raw.test.targets.tolist()] == other["outcome"].tolist()


def test_a_category_that_training_does_not_have_is_all_zeros_and_is_said_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(saying, "_said", set())
    frame, other = patients()[["age", "ward", "outcome"]], patients(10, seed=1)[["age", "ward", "outcome"]]
    other.loc[[3, 6], "ward"] = "new"
    options = {"test_path": str(write(tmp_path, other, "more.csv"))}
    path = write(tmp_path, frame)
    raw = load(path, **options)
    load(path, **options)
    assert raw.test.inputs[:, 1:].sum(1).tolist() == [0.0 if row in (3, 6) else 1.0 for row in range(10)]
    [line] = capsys.readouterr().err.splitlines()
    for part in (f"{tmp_path / 'more.csv'}: column ward: row 3: 'new'", "all zeros", "2 rows"):
        assert part in line


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_missing_values_are_refused_or_filled_in(tmp_path, suffix):
    frame = patients()
    train, _, test = rows_by_hand(40)
    gaps = sorted([int(train[0]), int(test[0])])
    frame.loc[gaps, "age"] = np.nan
    frame.loc[gaps[:1], "ward"] = None
    path = write(tmp_path, frame, f"patients.{suffix}")
    with pytest.raises(UserError) as caught:
        load(path)
    for part in (f"{path}: column age: row {gaps[0]}: is missing (and in 1 more rows)", "dataset.missing=mean"):
        assert part in str(caught.value)
    raw = load(path, missing="mean", ignore=["number", "beds", "smokes", "cost"])
    filled = frame["age"].fillna(frame["age"].iloc[train].mean()).to_numpy()
    expected = (filled[test] - filled[train].mean()) / filled[train].std()
    np.testing.assert_allclose(raw.test.inputs[:, 0].numpy(), expected, atol=1e-13)
    assert torch.cat([part.inputs[:, 1:].sum(1) for part in (raw.train, raw.validation, raw.test)]).sum() == 39


def test_labels_of_numbers_keep_their_names(tmp_path):
    frame = patients().assign(outcome=[10, 2] * 20)
    assert load(write(tmp_path, frame)).class_names == ["2", "10"]


# ---- what is refused ------------------------------------------------------------------------------------------------------


def changed(**columns):
    return patients().assign(**columns)


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (
            patients(),
            {"target": "outcom"},
            r"dataset\.target=outcom: is no column of .*patients\.csv; did you mean outcome",
        ),
        (patients(), {"target": None}, r"dataset\.target=null: must be the column to predict"),
        (patients(), {"ignore": ["agee"]}, r"dataset\.ignore=agee: is no column"),
        (patients(), {"categorical": ["bed"]}, r"dataset\.categorical=bed: is no column"),
        (
            patients(),
            {"categorical": ["outcome"]},
            r"dataset\.categorical=\[outcome\]: is no input; accepted: number, age",
        ),
        (patients()[["age", "outcome"]], {"ignore": ["age"]}, r"dataset\.ignore=\[age\]: leaves no column"),
        (changed(age=1.5), {}, r"column age: is 1\.5 in all training examples.*accepted: dataset\.ignore=\[age\]"),
        (changed(ward="a"), {}, r"column ward: is a in all training examples"),
        (changed(age=[np.inf, *range(39)]), {}, r"patients\.csv: column age: row 0: is inf; accepted: finite numbers"),
        (
            changed(outcome=[None, *["well"] * 39]),
            {},
            r"column outcome: row 0: is missing; a target is never filled in",
        ),
        (
            changed(cost=[np.nan, *range(39)]),
            {"target": "cost", "task": "regression"},
            r"column cost: row 0: is missing",
        ),
        (patients(), {"target": "cost"}, r"column cost: row 0: .* is no class; accepted: .*dataset\.task=regression"),
        (patients(), {"task": "regression"}, r"column outcome: holds texts or booleans, and dataset\.task=regression"),
        (changed(cost=3.0), {"target": "cost", "task": "regression"}, r"column cost: is 3\.0 in all rows"),
        (changed(outcome="well"), {}, r"column outcome: row 0: all labels are well; accepted: two classes"),
        (patients().iloc[:0], {}, r"patients\.csv: has no rows; needs one or more"),
        (patients(), {"test": 40}, r"dataset\.test=40: must be in 1 \.\. 39"),
    ],
)
def test_what_is_refused_by_name(tmp_path, frame, options, message):
    path = write(tmp_path, frame)
    with pytest.raises(UserError, match=message) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"patients\.csv: is empty; accepted: a header"),
        ("age,age,outcome\n1,2,a\n", r"2 columns are called age; accepted: distinct names"),
        ("age,,outcome\n1,2,a\n", r"column 1 \(counted from 0\) has no name"),
        ("age,outcome\n1,a\n2,b,c,d\n", r"patients\.csv: cannot be read: .*line 3"),
        ("age,outcome\n1,a,x\n2,b,x\n", r"patients\.csv: cannot be read: "),
        ("age,outcome\n1,a\n" + "x" * 10 + "\0\n", r"patients\.csv: "),
    ],
)
def test_files_that_are_no_table(tmp_path, content, message):
    (tmp_path / "patients.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "patients.csv")


def test_damaged_and_compressed_files(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"age,outcome\n1,\xff\xfe\n")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"age,outcome\n1,a\n")[:-8])
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    for name in ("a.csv", "a.csv.gz", "a.parquet"):
        with pytest.raises(UserError, match=rf"{name}: cannot be read: "):
            load(tmp_path / name)
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.xlsx is no such file; accepted: a file that ends in \.parquet or \.csv"):
        load(tmp_path / "a.xlsx")


def test_columns_of_other_types_are_refused(tmp_path):
    times = pd.date_range("2020", periods=40)
    with pytest.raises(
        UserError, match=r"column age: holds datetime\w* values .*; accepted: numbers, texts and booleans"
    ):
        load(write(tmp_path, changed(age=times), "patients.parquet"))
    with pytest.raises(UserError, match=r"column age: holds mixed values"):
        load(write(tmp_path, changed(age=[[1, 2]] * 40), "patients.parquet"))


def test_more_categories_than_can_be_meant(tmp_path):
    frame = pd.DataFrame({"text": [f"t{i}" for i in range(1300)], "outcome": ["a", "b"] * 650})
    with pytest.raises(
        UserError, match=r"column text: has 1053 different values.*at most 1000, or dataset\.ignore=\[text\]"
    ):
        load(write(tmp_path, frame))


def test_the_second_file_must_have_the_same_columns(tmp_path):
    path, other = write(tmp_path, patients()), patients(10, seed=1)
    with pytest.raises(
        UserError, match=r"more\.csv: has no column ward, as .*patients\.csv has; its columns: number, age"
    ):
        load(path, test_path=str(write(tmp_path, other.drop(columns="ward"), "more.csv")))
    with pytest.raises(
        UserError, match=r"more\.csv: column age: holds texts or booleans, and numbers in .*patients\.csv"
    ):
        load(path, test_path=str(write(tmp_path, other.assign(age="old"), "more.csv")))
    with pytest.raises(UserError, match=r"more\.csv: column outcome: row 2: the label dead is not among .*: ill, well"):
        load(
            path,
            test_path=str(write(tmp_path, other.assign(outcome=["ill", "well", "dead", *["ill"] * 7]), "more.csv")),
        )
