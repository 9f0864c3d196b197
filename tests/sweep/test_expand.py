"""Grids: the same cells in the same order as Hydra's own sweeper, each equal to what Hydra composes from its overrides."""

import copy
import itertools
import os
import random
import shutil
import time
from collections import Counter

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from optbench import config as configuration
from optbench.config import Chosen, files, identity, resolve, resolving, run_id, search_path
from optbench.config.yaml_text import write_yaml
from optbench.errors import UserError
from optbench.store.config_texts import as_json, as_yaml, texts_of
from optbench.store.files import to_json
from optbench.sweep.grid import expand as module
from optbench.sweep.grid.expand import expand
from optbench.system import file_cache

SMALL = ["dataset=digits", "model=mlp"]
DEMO = """\
# @package _global_
defaults:
  - override /dataset: digits
  - override /model: mlp
  - override /schedule: cosine
base_batch: ${batch}
schedule:
  warmup: 1epoch
hydra:
  sweeper:
    params:
      optimizer: sgd,adam
      batch: 32,64
"""
PARAMS = {"optimizer": "sgd,adam", "batch": "32,64"}


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    """The choices of this checkout and an experiment, without the sweeper plug-in, which these tests do not need."""
    folder = tmp_path_factory.mktemp("expand") / "conf"
    shutil.copytree(configuration.conf_dir(), folder)
    front = (folder / "config.yaml").read_text(encoding="utf-8")
    front = front.replace("  - override hydra/sweeper: optbench\n", "")
    front = front.replace("  - experiment: null\n", "  - experiment: null\n  - extra: null\n")
    (folder / "config.yaml").write_text(front, encoding="utf-8")
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "demo.yaml").write_text(DEMO, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _use_conf(conf, monkeypatch):
    monkeypatch.setattr(search_path, "_PACKAGE", conf.parent)  # these choices, and not ours
    monkeypatch.delenv("OPTBENCH_DATA", raising=False)


@pytest.fixture(scope="module")
def loader(conf):
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture
def compositions(loader, monkeypatch):
    """The number of configurations that Hydra composed."""
    counted = []

    def count(config_name, overrides, run_mode):
        counted.append(overrides)
        return type(loader).load_configuration(loader, config_name, overrides, run_mode)

    monkeypatch.setattr(loader, "load_configuration", count)
    return counted


@pytest.fixture
def unresolved(monkeypatch):
    """Leave cells as they are composed, and keep those that have one run id, so that any override can be looked at."""
    numbers = itertools.count()
    monkeypatch.setattr(configuration, "resolve", lambda config, shared: config)
    monkeypatch.setattr(configuration, "apart", lambda config: config)
    monkeypatch.setattr(configuration, "run_id", lambda config, shared: str(next(numbers)))


def split_by_hydra(loader, words):
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    return BasicSweeper.split_arguments(overrides, None)[0]


def composed_by_hydra(loader, overrides):
    node = type(loader).load_configuration(loader, "config", list(overrides), RunMode.RUN)
    chosen = Chosen.take_from(node)
    return chosen.named(OmegaConf.to_container(node, resolve=True))


# ---- equal to Hydra -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["batch=64,128", "seed=range(3)"],
        ["seed=range(3)", "batch=64,128", "trial=choice(0,4)"],
        ["optimizer=glob(ada*,exclude=adam*)", "model=glob([lenet*,logreg])"],
        ["optimizer.learning_rate=range(0.1,0.5,0.1)"],
        ["seed=sort(3,1,2)", "batch=sort(range(1,4),reverse=true)"],
        ["seed=range(5,0,-2)", "seed=7,8", "dataset=digits"],
        ["batch=choice(64)", "optimizer.learning_rate='0.1',0.1,1e-2"],
        ["seed=1,2", "~optimizer.weight_decay", "+optimizer.extra=3"],
        ["eval_every=1epoch,'5 epochs',100", "seed=int(1.5),2"],
        ["seed=shuffle(range(9))", "batch=shuffle(1,2,3,4,5)"],
        ["batch=64"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("unresolved")
def test_cells_and_their_order_are_those_of_hydras_sweeper(loader, words):
    random.seed(1)
    expected = split_by_hydra(loader, words)
    random.seed(1)
    expansion = expand(loader, words)
    swept = {word.partition("=")[0] for word in words} & expansion.axes.keys()
    assert [list(cell.overrides) for cell in expansion.cells] == [
        [word for word in cell if word.partition("=")[0] in swept] for cell in expected
    ]


# What is swept over, and how often Hydra has to compose.
GRIDS = {
    "plain values": (["batch=64,128", "seed=range(2)", "optimizer.learning_rate=0.1,1e-3"], 1),
    "groups": (["optimizer=sgd,adam", "schedule=cosine,constant", "batch=64,128"], 4),
    "groups last": (["batch=64,128", "optimizer=sgd,adam"], 2),
    "types of values": (["clip_norm=null,1,1.0,true,'1',one,'null','a b',-1e-3,inf,\"it's\""], 1),
    "numbers spelled oddly": (["clip_norm=1_000,1e3,1e+3,.5,0x10,08,+3,-0", "seed=True"], 1),
    "special characters": ([r"eval_every='a,b','$x','\${x}','x\'y',a\,b,'\\','a=b','[1]'"], 4),
    "lists": (["schedule=multistep", "schedule.milestones=[1epochs],[1epochs,'2 epochs'],[]", "batch=1,2"], 3),
    "nested containers": (["schedule=multistep", "schedule.milestones=[{a:1},[1,null]],[[]]", "seed=1,2"], 2),
    "containers and values": (["clip_norm={a:{b:[1,{c:null}]}},3,null", "seed=1,2"], 2),
    "containers over containers": (["optimizer=zoo", "+optimizer.options={a:1},{a:{b:2}}", "seed=1,2"], 2),
    "interpolated": (["batch='${base_batch}',64,'${seed}'", "base_batch=32,16", "seed=1,2"], 3),
    "interpolated by others": (
        ["batch='${base_batch}'", "schedule=cosine", "base_batch=32,16", "schedule.warmup=1,2"],
        1,
    ),
    "interpolated in part": (["results_dir='r/${seed}-${optimizer.name}'", "seed=1,2", "optimizer=sgd,adam"], 2),
    "interpolated mappings": (["clip_norm='${schedule}'", "schedule=cosine", "schedule.warmup=1,2"], 1),
    "from the environment": (["data_dir='${oc.env:HOME}',other", "seed=1,2"], 2),
    "missing": (["batch=???,64", "seed=1,2"], 2),
    "added": (["+optimizer.extra=1,2", "++optimizer.more=1,[2]", "seed=1,2"], 4),
    "deleted": (["~optimizer.weight_decay", "optimizer.learning_rate=1,2"], 1),
    "a deleted group": (["~tracker", "seed=1,2"], 1),
    "set twice": (["batch=1,2", "++batch=3,4"], 4),
    "added, then set": (["optimizer=zoo", "+optimizer.options.a=0", "optimizer.options.a=1,2"], 2),
    "set, then again as a whole": (["optimizer.learning_rate=1,2", "optimizer={learning_rate:7}"], 2),
    "set as a whole, then again": (["optimizer={learning_rate:7}", "optimizer.learning_rate=1,2"], 2),
    "an item of a list": (["schedule=multistep", "schedule.milestones.0=1epochs,2epochs"], 2),
    "a group as a mapping": (["+optimizer={extra:1},{extra:2}", "+optimizer.more=3"], 2),
    "a group and a mapping": (["optimizer=adam,{learning_rate:7}", "seed=1,2"], 2),
    "a package": (["+optimizer@second=sgd,adam", "second.learning_rate=1,2"], 2),
    "an experiment": (["experiment=demo", "batch=32,64", "schedule.final=0.1,0.2"], 1),
    "Hydra's own": (["hydra.job.name=other", "seed=1,2"], 1),
}


@pytest.mark.parametrize(("words", "expected_compositions"), GRIDS.values(), ids=GRIDS)
@pytest.mark.usefixtures("unresolved")
def test_every_cell_equals_what_hydra_composes(loader, compositions, words, expected_compositions):
    expected = [composed_by_hydra(loader, cell) for cell in split_by_hydra(loader, words)]
    # As text, so that 1, 1.0 and True differ, and the order of the keys counts.
    assert [repr(cell.config) for cell in expand(loader, words).cells] == [repr(config) for config in expected]
    assert len(compositions) == expected_compositions


def test_cells_are_resolved(loader):
    cell = expand(loader, [*SMALL, "optimizer=adam", "trial=3,4"]).cells[1]
    words = [*SMALL, "optimizer=adam", "trial=4"]
    assert repr(cell.config) == repr(resolve(composed_by_hydra(loader, words)))
    assert cell.overrides == ("trial=4",)


def test_the_overrides_of_hydra_in_the_master_configuration_hold_in_every_cell(loader, tmp_path):
    (tmp_path / "optimizer").mkdir()
    own = (configuration.conf_dir() / "optimizer" / "sgd.yaml").read_text(encoding="utf-8")
    own = own.replace("name: sgd", "").replace("learning_rate: 0.1", "learning_rate: 0.7")
    (tmp_path / "optimizer" / "own.yaml").write_text(own)
    search = f"hydra.searchpath=[file://{tmp_path}]"
    master = loader.load_configuration("config", [search, "seed=1,2"], RunMode.MULTIRUN)
    words = [*SMALL, "optimizer=own", "seed=1,2"]
    with search_path.forgotten_afterwards():
        configuration.look_where_told([search])  # as the command does
        cells = expand(loader, words, master=master).cells
    assert [cell.config["optimizer"]["learning_rate"] for cell in cells] == [0.7, 0.7]
    assert {cell.config["optimizer"]["name"] for cell in cells} == {"own"}
    with pytest.raises(UserError, match="optimizer=own: no such optimizer"):
        expand(loader, words)


def test_a_group_that_only_the_search_path_of_hydra_has_is_one(loader, tmp_path):
    (tmp_path / "extra").mkdir()
    for seed in (1, 2):
        (tmp_path / "extra" / f"e{seed}.yaml").write_text(f"# @package _global_\nseed: {seed}\n")
    master = loader.load_configuration("config", [f"hydra.searchpath=[file://{tmp_path}]"], RunMode.MULTIRUN)
    cells = expand(loader, [*SMALL, "extra=e1,e2"], master=master).cells
    assert [cell.config["seed"] for cell in cells] == [1, 2]


# ---- params and experiments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "axes"),
    [
        ([], {"optimizer": ["sgd", "adam"], "batch": ["32", "64"]}),
        (["batch=7,8"], {"optimizer": ["sgd", "adam"], "batch": ["7", "8"]}),
        (["optimizer=lamb"], {"batch": ["32", "64"]}),
        (["seed=choice(3)"], {"optimizer": ["sgd", "adam"], "batch": ["32", "64"], "seed": ["3"]}),
    ],
)
def test_a_word_of_the_command_line_takes_the_place_of_one_of_the_experiment(loader, arguments, axes):
    expansion = expand(loader, ["experiment=demo", *arguments], PARAMS)
    assert expansion.axes == axes
    assert list(expansion.axes) == list(axes)
    for cell in expansion.cells:
        assert cell.config["schedule"]["name"] == "cosine"
        assert cell.config["base_batch"] == cell.config["batch"]


def test_params_may_be_any_single_values(loader):
    expansion = expand(loader, SMALL, {"clip_norm": None, "compile": True, "seed": 3, "optimizer.learning_rate": 0.25})
    (cell,) = expansion.cells
    assert (cell.config["clip_norm"], cell.config["compile"], cell.config["seed"]) == (None, True, 3)
    assert cell.config["optimizer"]["learning_rate"] == 0.25
    assert expansion.axes == {}
    assert cell.overrides == ()


# ---- excluding and dropping -----------------------------------------------------------------------------------------


def test_excluded_cells_are_counted_and_not_checked(loader):
    words = [*SMALL, "optimizer=sgd,momentum,adam", "batch=64,1000000"]
    with pytest.raises(UserError, match="cell optimizer=sgd batch=1000000: batch=1000000: larger than"):
        expand(loader, words)
    expansion = expand(loader, words, exclude=["batch > 512", "optimizer == 'adam' and optimizer.momentum == null"])
    assert [cell.overrides for cell in expansion.cells] == [
        ("optimizer=sgd", "batch=64"),
        ("optimizer=momentum", "batch=64"),
    ]
    assert expansion.excluded == 4
    assert expansion.axes == {"optimizer": ["sgd", "momentum", "adam"], "batch": ["64", "1000000"]}


def test_cells_that_the_words_exclude_are_not_composed(loader, compositions):
    words = [*SMALL, "optimizer=sgd,momentum,adam,lamb", "batch=64,128"]
    expansion = expand(
        loader, words, exclude=["optimizer not in ['sgd', 'adam'] or optimizer == 'adam' and batch > 64"]
    )
    kept = [("optimizer=sgd", "batch=64"), ("optimizer=sgd", "batch=128"), ("optimizer=adam", "batch=64")]
    assert [cell.overrides for cell in expansion.cells] == kept
    assert expansion.excluded == 5
    assert {word for overrides in compositions for word in overrides if "optimizer=" in word} == {
        "optimizer=sgd",
        "optimizer=adam",
    }


@pytest.mark.parametrize(
    ("words", "exclude", "kept"),
    [
        # The name of such a choice is one of its options.
        (["optimizer=zoo", "optimizer.name=lion,tiger"], "optimizer == 'zoo'", 2),
        (["optimizer=zoo", "optimizer.name=lion,tiger"], "optimizer == 'lion'", 1),
        (["transform=cautious,none"], "'cautious' in transform", 1),
        (["batch=64", "base_batch=${batch},32"], "base_batch == 64", 1),
    ],
)
def test_conditions_on_values_that_words_do_not_tell_see_the_composed_cell(loader, words, exclude, kept):
    assert len(expand(loader, [*SMALL, *words]).cells) == 2
    assert len(expand(loader, [*SMALL, *words], exclude=exclude, may_be_empty=True).cells) == kept


def test_conditions_see_what_was_asked_for_and_not_what_a_trial_draws(loader):
    words = [*SMALL, "trial=0,1,2"]
    assert expand(loader, words, exclude="optimizer.learning_rate != 0.1").excluded == 0


def test_of_cells_with_the_same_run_id_the_first_is_kept(loader):
    expansion = expand(loader, [*SMALL, "seed=1,2,1", "tracker=none,csv", "optimizer.learning_rate=1,1.0"])
    assert [cell.overrides for cell in expansion.cells] == [
        ("seed=1", "tracker=none", "optimizer.learning_rate=1"),
        ("seed=2", "tracker=none", "optimizer.learning_rate=1"),
    ]
    assert len({run_id(cell.config) for cell in expansion.cells}) == 2
    assert expansion.excluded == 0


def test_choices_of_one_cell_do_not_reach_another(loader):
    cells = expand(loader, [*SMALL, "optimizer=adam", "optimizer.learning_rate=0.1,0.2", "seed=1,2"]).cells
    cells[0].config["optimizer"]["learning_rate"] = 7.0
    assert [cell.config["optimizer"]["learning_rate"] for cell in cells] == [7.0, 0.1, 0.2, 0.2]


# What cells may share: single values, options of choices, whole choices, and what trials draw.
SHARING = {
    "seeds of settings": ["optimizer=sgd,adam", "batch=32,64", "seed=range(3)"],
    "options": ["optimizer=adam", "optimizer.learning_rate=1,1.0,0.1", "schedule.warmup=0,5", "seed=0,1"],
    "trials": ["optimizer=adam,kfac", "trial=0,1,2", "seed=0,1", "scaling=auto,linear", "base_batch=64"],
    "choices": ["optimizer=sgd", "averaging=none,ema", "communication=dense,fp16", "init=default,xavier", "seed=1,0"],
    "data": ["dataset.validation=100,200", "dataset.train_limit=null,500", "seed=0,1"],
    "lists": [
        "transform=[],[cautious]",
        "probe=[spectrum]",
        "probe.spectrum.vectors=2,3",
        "optimizer=adam",
        "seed=0,1",
    ],
}


@pytest.mark.parametrize("words", SHARING.values(), ids=SHARING)
def test_a_cell_is_what_it_is_alone(loader, words):
    """Cells share what was composed, checked and computed; each equals itself without the others, id and frozen text too."""
    for cell in expand(loader, [*SMALL, *words]).cells:
        alone = resolve(copy.deepcopy(cell.asked))
        assert repr(cell.config) == repr(alone)
        assert cell.run_id == run_id(alone)
        parts = texts_of(cell.config)
        assert as_yaml(parts) == write_yaml(alone)
        assert as_json(parts) == to_json(alone)


def test_what_cells_share_is_computed_once(loader, compositions, monkeypatch):
    counts = Counter()

    def count(module, name):
        function = getattr(module, name)

        def counting(*arguments):
            counts[name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, counting)

    for name in ("check_fit", "_check_choice", "identified"):
        count(resolving, name)
    count(identity, "_entry")
    words = [*SMALL, "optimizer=sgd,adam", "optimizer.learning_rate=0.1,0.2,0.3", "batch=32,64", "seed=range(5)"]
    assert len(expand(loader, words).cells) == 60
    assert len(compositions) == 2
    # The settings without the seeds; six optimizers, and of each other group the choice of either composition.
    others = 2 * (len(files.GROUPS) - 1)
    assert counts["check_fit"] == 12
    assert counts["_check_choice"] == 6 + others + 2 * len(files.LIST_GROUPS)
    assert 6 < counts["_entry"] <= 6 + others
    assert counts["identified"] == 2


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=interval(0,1)"], r"^seed=interval\(0,1\): has no values to list; accepted: a,b, choice"),
        (["seed=range(0)"], r"^seed=range\(0\): has no values; accepted: at least one"),
        (["seed=range(0,9,0)"], r"^seed=range\(0,9,0\): never gets from 0 to 9; accepted: a step other than 0"),
        (["seed=range(0,0.9,0)"], r"accepted: a step other than 0"),
        (["optimizer=glob(sdg*)"], r"^optimizer=glob\(sdg\*\): has no values; .*sgd"),
        (["experiment=demo,demo"], r"^experiment=demo,demo: one experiment a sweep; accepted: experiment=NAME"),
        (["experiment=glob(*)"], r"one experiment a sweep"),
        (["hydra.job.name=a,b"], r"^hydra\.job\.name=a,b: what is Hydra's own cannot be swept over"),
        (["seed=1,"], r"^seed=1,: cannot be read .*; accepted: KEY=VALUE"),
        (["optimizer=sgd,adm"], r"^cell optimizer=adm: optimizer=adm: no such optimizer; did you mean adam"),
        (["optimizer=momentum,sgd", "optimizer.momentum=0,1"],
         r"^cell optimizer=momentum optimizer.momentum=1: optimizer.momentum=1: must be float in \[0, 1\)"),
        (["optimizer=momentum,sgd", "optimizer.momentum=0,0.5"],
         r"^cell optimizer=sgd optimizer.momentum=0: optimizer.momentum: unknown key"),
        (["batch=7,0,8", "seed=1,2"], r"^cell batch=0 seed=1: batch=0: must be int >= 1$"),
        (["batch=0"], r"^batch=0: must be int >= 1$"),
        (["batch=choice(0)"], r"^batch=0: must be int >= 1$"),
        (["optimizer=sgd,null"], r"^cell optimizer=null: optimizer=null: must be one choice; accepted: adadelta"),
        (["seed=1,2", "batch='${nonsense}'"], r"^cell seed=1: .*'nonsense' not found"),
        (["bacth=1,2"], r"^cell bacth=1: bacth: unknown key; did you mean batch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_message(loader, words, message):
    with pytest.raises(UserError, match=message):
        expand(loader, [*SMALL, *words])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"exclude": ["seed >= 0"]}, r"^hydra.sweeper.exclude=\['seed >= 0'\]: leaves none of 2 cells"),
        ({"exclude": ["seed >="]}, r"^hydra.sweeper.exclude: seed >=: cannot be read"),
        ({"exclude": ["sede > 0"]}, r"^hydra.sweeper.exclude: sede > 0: sede: unknown key; did you mean seed"),
        ({"params": {"batch": [1, 2]}}, r"^hydra.sweeper.params.batch=\[1, 2\]: must be text; accepted: 'a,b'"),
        ({"params": {"experiment": "demo"}}, r"^hydra.sweeper.params.experiment=demo: an experiment cannot choose"),
    ],
)
def test_a_mistake_in_an_experiment_is_one_message(loader, keywords, message):
    with pytest.raises(UserError, match=message):
        expand(loader, [*SMALL, "seed=1,2"], **keywords)


@pytest.mark.parametrize(
    "words",
    [["seed=range(1000)", "trial=range(101)"], ["seed=range(10000000000000)"], ["seed=shuffle(range(10000000000000))"],
     ["optimizer.learning_rate=range(0,1,1e-9)"]],
    ids=" ".join,
)  # fmt: skip
def test_a_grid_that_is_too_large_is_refused_before_anything_is_composed(loader, compositions, words):
    with pytest.raises(UserError, match=r"accepted: at most 100,000 (cells )?in one sweep"):
        expand(loader, words)
    assert compositions == []


def test_a_grid_at_the_limit_is_not_refused(loader, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 6)
    assert len(expand(loader, [*SMALL, "seed=range(3)", "batch=1,2"]).cells) == 6
    with pytest.raises(UserError, match="seed, batch: a grid of 8 cells; accepted: at most 6"):
        expand(loader, [*SMALL, "seed=range(4)", "batch=1,2"])


# ---- what was read before -------------------------------------------------------------------------------------------


def test_a_choice_that_was_read_is_not_shared(conf):
    first = configuration.read_choice("optimizer", "sgd")
    first["info"]["schema"]["learning_rate"] = "changed"
    configuration.choices("optimizer").clear()
    configuration.front_page()["defaults"].clear()
    assert configuration.read_choice("optimizer", "sgd")["info"]["schema"]["learning_rate"] == "float >= 0"
    assert "sgd" in configuration.choices("optimizer")
    assert configuration.front_page()["defaults"]


def test_choices_that_change_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(search_path, "_PACKAGE", tmp_path)
    folder = tmp_path / "conf" / "optimizer"
    folder.mkdir(parents=True)
    file = folder / "new.yaml"
    assert configuration.choices("optimizer") == {}
    now = time.time_ns()
    for value in range(3):
        # Of the same size, and within one tick of the file system's clock.
        file.write_text(f"value: {value}")
        os.utime(file, ns=(now, now))
        assert configuration.read_choice("optimizer", "new") == {"value": value}
        (folder / f"choice{value}.yaml").touch()
        os.utime(folder, ns=(now, now))
        assert f"choice{value}" in configuration.choices("optimizer")
    assert configuration.choices("nothing") == {}


def test_a_choice_that_has_not_changed_for_long_is_parsed_once(conf, monkeypatch):
    monkeypatch.setattr(file_cache, "CLOCK_NANOSECONDS", 0)  # the files of this test are seconds old
    configuration.read_choice("optimizer", "adam")
    monkeypatch.setattr(files, "read_yaml", None)
    assert configuration.read_choice("optimizer", "adam")["name"] == "adam"
    monkeypatch.undo()


@pytest.mark.slow
def test_a_thousand_cells_take_seconds(loader):
    start = time.process_time()
    expansion = expand(loader, [*SMALL, "optimizer=sgd,adam,momentum", "batch=64,128,256,512", "trial=range(84)"])
    assert len(expansion.cells) == 1008
    # 3.5 s on one core of 2024; Hydra alone needs a hundred.
    assert time.process_time() - start < 20
