"""The grids of a search: the same cells as in a sweep of the whole grid, composed one at a time."""

import pytest

from optbench.config import RunConfig, horizon, training_examples, with_geometric
from optbench.errors import UserError
from optbench.sweep.grid import expand
from optbench.sweep.grid.again import compose_again
from optbench.sweep.grid.lattice import Lattice
from optbench.sweep.search.method import Pick
from tests.search.searched import WORDS


@pytest.fixture(scope="module")
def lattice():
    return compose_again([*WORDS, "search=random"])


@pytest.fixture(scope="module")
def whole():
    return compose_again(WORDS)


def values(cell):
    return dict(word.split("=", 1) for word in cell.overrides)


def steps_of(cell):
    config = RunConfig.of(cell.config)
    return horizon(config, training_examples(config)).steps


def test_its_cells_are_those_of_the_grid(lattice, whole):
    assert isinstance(lattice, Lattice)
    (grid,) = lattice.grids
    assert dict(grid.axes) == {key: tuple(texts) for key, texts in whole.axes.items()}
    assert grid.size == len(whole.cells) == 36
    for cell in whole.cells:
        found = lattice.cell(Pick(values(cell)))
        assert (found.run_id, found.overrides) == (cell.run_id, cell.overrides)


def test_the_totals_are_those_of_the_grid(lattice, whole):
    assert lattice.totals == (36, sum(map(steps_of, whole.cells)))
    assert all(lattice.steps(Pick(values(cell))) == steps_of(cell) for cell in whole.cells)
    assert lattice._deciding[""] == ("batch",)


def test_cells_that_a_condition_excludes_are_not_there():
    experiment = ["experiment=scaling_rules", "scale=smoke", "seed=0"]
    lattice, whole = (compose_again([*experiment, f"search={name}"]) for name in ("random", "grid"))
    cells = {(cell.run_id) for cell in whole.cells}
    assert [grid.name for grid in lattice.grids] == [
        "measured", "sgd", "momentum", "adam", "rmsprop", "lamb", "muon", "kfac", "shampoo",
    ]  # fmt: skip
    measured = lattice.grids[0]
    assert [lattice.exists(Pick({"batch": batch, **{k: v[0] for k, v in measured.axes.items() if k != "batch"}}, "measured"))
            for batch in ("32", "256")] == [True, False]  # fmt: skip
    # One run is in two grids: with the probe in the first, as a cell of momentum's in the third.
    assert lattice.totals[0] == len(cells) + 1
    assert lattice.totals[1] == sum(map(steps_of, whole.cells)) + steps_of(whole.cells[0])


@pytest.mark.parametrize("words", [["seed=0"], ["optimizer=adamw"], ["batch=16"], ["budget.epochs=8"]])
def test_large_grids_are_counted_by_the_axes_that_conditions_name(monkeypatch, words):
    # No cell has the first values of all axes; the length depends on the batch, which a condition names, too.
    experiment = ["experiment=decay_and_warmup", "scale=smoke", *words]
    whole = compose_again([*experiment, "search=grid"])
    expected = len(whole.cells), sum(map(steps_of, whole.cells))
    assert compose_again([*experiment, "search=random"]).totals == expected
    monkeypatch.setattr("optbench.sweep.grid.lattice._COUNTED", 70)
    assert compose_again([*experiment, "search=random"]).totals == expected


def test_only_what_is_asked_for_is_composed(monkeypatch):
    words = ["dataset=digits", "model=mlp", "tracker=none", "seed=range(1000)", "batch=range(1,1001)", "search=random"]
    lattice = compose_again(words)
    assert lattice.grids[0].size == 10**6
    made = []
    resolve = expand.configuration.resolve
    monkeypatch.setattr(expand.configuration, "resolve", lambda *given: made.append(1) or resolve(*given))
    assert lattice.cell(Pick({"seed": "999", "batch": "777"})).config["batch"] == 777
    assert len(made) == 1


def test_values_that_no_axis_lists_can_be_chosen(lattice):
    cell = lattice.cell(Pick({"optimizer": "adam", "optimizer.learning_rate": "0.0123", "batch": "32", "seed": "0"}))
    assert cell.config["optimizer"]["learning_rate"] == 0.0123
    added = lattice.cell(
        Pick(
            {
                "optimizer": "adam",
                "optimizer.learning_rate": "0.1",
                "batch": "32",
                "seed": "0",
                "optimizer.beta1": "0.8",
            }
        )
    )
    assert added.config["optimizer"]["beta1"] == 0.8
    assert added.overrides[-1] == "optimizer.beta1=0.8"
    base = {"optimizer": "adam", "optimizer.learning_rate": "0.1", "batch": "32", "seed": "0"}
    assert added.run_id != lattice.cell(Pick(base)).run_id


def test_the_search_space_leaves_out_what_words_set(lattice):
    pick = Pick({"optimizer": "adam", "optimizer.learning_rate": "0.1", "batch": "32", "seed": "0"})
    space = lattice.search_space(pick)
    assert "optimizer.learning_rate" not in space
    assert space["optimizer.beta1"]["distribution"] == "log_uniform_complement"


def test_intervals_are_not_axes():
    words = [
        "dataset=digits",
        "model=mlp",
        "optimizer.learning_rate=tag(log,interval(1e-5,0.1))",
        "batch=int(interval(8,64))",
    ]
    (grid,) = compose_again([*words, "seed=0,1", "search=random"]).grids
    assert dict(grid.axes) == {"seed": ("0", "1")}
    assert grid.intervals["optimizer.learning_rate"] == {"distribution": "log_uniform", "low": 1e-5, "high": 0.1}
    assert grid.intervals["batch"] == {"distribution": "integer", "low": 8, "high": 64}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch=32,0", "seed=0"], "batch=0"),
        (["optimizer.learning_rate=0.1,x"], "optimizer.learning_rate=x"),
        (["optimizer=sgd,adm"], "no such optimizer"),
    ],
)
def test_a_value_that_cannot_run_is_refused_before_anything_starts(words, message):
    with pytest.raises(UserError, match=message):
        compose_again(["dataset=digits", "model=mlp", *words, "search=random"])


def test_geometric_lists_equal_ratios():
    (word,) = with_geometric(["optimizer.learning_rate=geometric(1e-5,10,25)"])
    rates = [float(text) for text in word.partition("=")[2].split(",")]
    assert len(rates) == 25
    assert (rates[0], rates[-1]) == (1e-5, 10)
    assert all(abs(rate / (1e-5 * 10 ** (place / 4)) - 1) < 5e-4 for place, rate in enumerate(rates))
    assert with_geometric(["seed=0,1"]) == ["seed=0,1"]


@pytest.mark.parametrize("arguments", ["0,1,3", "1,2", "1,2,1", "a,2,3", "1,2,3.5"])
def test_geometric_that_lists_nothing_is_refused(arguments):
    with pytest.raises(UserError, match=r"accepted: geometric\(LOW,HIGH,N\)"):
        with_geometric([f"x=geometric({arguments})"])


def test_a_grid_without_a_selected_word_has_no_part():
    """The words of an experiment that hold in a whole grid, without being an axis of it."""
    whole = compose_again(["experiment=generalization_gap", "scale=smoke", "search=random"])
    some = compose_again(["experiment=generalization_gap", "scale=smoke", "search=random", "optimizer=kfac"])
    kept = {grid.name for grid in some.grids}
    assert kept < {grid.name for grid in whole.grids}
    assert {cell.config["optimizer"]["name"] for cell in some.samples} == {"kfac"}


def test_a_selected_word_that_no_grid_has_is_refused_with_those_that_exist():
    for word in ("optimizer=asgd", "optimizer=asgd,sgd"):
        with pytest.raises(
            UserError, match=r"optimizer=asgd: no grid .* accepted: sgd, momentum, adam, lamb, kfac, sam, lars"
        ):
            compose_again(["experiment=generalization_gap", "scale=smoke", "search=random", word])
