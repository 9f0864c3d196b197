"""Targets are looked up by their text: nothing is imported, and what is not there is named before anything runs."""

import sys

import pytest

from optbench.config import compose
from optbench.config.target_files import check_target, own_targets
from optbench.config.targets import imported
from optbench.errors import UserError

MODULE = """\
raise RuntimeError("imported")
import os.path as places
from json import loads as read, dumps
if True:
    class InABranch: ...
else:
    Other = None
try:
    import fast
except ImportError:
    fast = None
for index in range(3): ...
with open("x") as opened: ...
made: int = 1
async def awaited(): ...
def outer(argument):
    inside = 1
class Outer:
    attribute = 1
call = lambda parameter: (walrus := 1)
"""
BOUND = [
    "places",
    "read",
    "dumps",
    "InABranch",
    "Other",
    "fast",
    "index",
    "opened",
    "made",
    "awaited",
    "outer",
    "Outer",
    "call",
]
NOT_BOUND = ["argument", "inside", "attribute", "parameter", "walrus", "loads", "json", "nothing"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "looked_up.py": MODULE,
        "looked_up_broken.py": "class Mine:\n    def __init__(self\n",
        "looked_up_star.py": "from json import *\n",
        "looked_up_lazy.py": "def __getattr__(name): ...\n",
        "looked_up_package/__init__.py": "raise RuntimeError\n",
        "looked_up_package/inner.py": "class Mine: ...\n",
        "looked_up_space/inner.py": "class Mine: ...\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    assert not [name for name in sys.modules if name.startswith("looked_up")]


def check(target):
    check_target({"_target_": target}, "optimizer")


def test_names_that_a_module_binds_are_found_without_importing_it():
    for name in BOUND:
        check(f"looked_up.{name}")
    for name in NOT_BOUND:
        with pytest.raises(
            UserError, match=rf"_target_=looked_up\.{name}: cannot be imported \(.*binds no name {name}\)"
        ):
            check(f"looked_up.{name}")


@pytest.mark.parametrize(
    "target",
    [
        "looked_up_package.inner.Mine",
        "looked_up_space.inner.Mine",
        "looked_up_star.loads",
        "looked_up_lazy.anything",
        "torch.optim.AdamW",
        "torch.nn.Linear",
        "optbench.optimizers.KFAC",
        "collections.OrderedDict",
        "math.sqrt",
        "os.system",
        "importlib.metadata.version",
        "numpy.random.default_rng",
    ],
)
def test_what_can_be_imported_is_never_refused(target):
    check(target)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("Mine", "it is no dotted path"),
        (3, "it is no dotted path"),
        ("not_there.Mine", "there is no module not_there on the import path"),
        ("looked_up_package.other.Mine", "there is no module looked_up_package.other on the import path"),
        ("looked_up_broken.Mine", r"looked_up_broken\.py, line 2: '\(' was never closed"),
        ("json.Decoder", "json has no Decoder"),
    ],
)
def test_what_cannot_be_imported_says_why(target, why):
    with pytest.raises(
        UserError, match=rf"optimizer\._target_={target}: cannot be imported \(.*{why}.*\); accepted: MODULE"
    ):
        check(target)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import not_there_at_all\n", r"No module named 'not_there_at_all'"),
        ("\n1 / 0\n", r"ZeroDivisionError: division by zero, in .*fails_when_imported\.py, line 2"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3, in .*fails_when_imported\.py, line 2"),
    ],
)
def test_importing_says_what_went_wrong_in_one_message(text, why, folder):
    (folder / "fails_when_imported.py").write_text(text)
    with pytest.raises(UserError, match=why):
        imported("fails_when_imported.Mine", "optimizer")


def test_only_targets_of_own_choices_are_looked_up_where_a_configuration_is_composed(folder, monkeypatch):
    (folder / "mine" / "optimizer").mkdir(parents=True)
    for name, target in {"found": "looked_up_package.inner.Mine", "lost": "looked_up_package.inner.Other"}.items():
        (folder / "mine" / "optimizer" / f"{name}.yaml").write_text(f"defaults: [sgd]\n_target_: {target}\n")
    monkeypatch.setenv("OPTBENCH_CONF", str(folder / "mine"))
    own = compose(["dataset=digits", "model=mlp", "optimizer=found"])
    assert own_targets(own) == {"optimizer": "looked_up_package.inner.Mine"}
    assert own_targets(compose(["dataset=digits", "model=mlp", "optimizer=sgd"])) == {}
    with pytest.raises(UserError, match=r"optimizer\._target_=looked_up_package\.inner\.Other: cannot be imported"):
        compose(["dataset=digits", "model=mlp", "optimizer=lost"])
