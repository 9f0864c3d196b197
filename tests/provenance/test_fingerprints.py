"""The fingerprint of the code that computes a run: what it sees, and what not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from optbench import config as configuration
from optbench.provenance import Sources, fingerprint
from optbench.provenance.fingerprints import _ASIDE

PACKAGE = Path(configuration.__file__).parents[1]
ROOT = PACKAGE.parent


@pytest.fixture(scope="module")
def configs():
    names = {"sgd": [], "adam": ["optimizer=adam"], "kfac": ["optimizer=kfac"], "ekfac": ["optimizer=ekfac"]}
    names |= {"mlp": ["model=mlp"], "probe": ["probe=[spectrum]"]}
    return {name: configuration.compose(words) for name, words in names.items()}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(PACKAGE, root / "optbench", ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture
def checkout(copied):
    kept = {path: path.read_bytes() for path in copied.rglob("*.py")}
    yield copied
    for path, content in kept.items():
        path.write_bytes(content)


def stale(configs, root, name, old, new):
    path = root / "optbench" / name
    before = {which: fingerprint(config, root) for which, config in configs.items()}
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return {which for which, config in configs.items() if fingerprint(config, root) != before[which]}


ALL = {"sgd", "adam", "kfac", "ekfac", "mlp", "probe"}


@pytest.mark.parametrize(
    ("name", "old", "new", "concerned"),
    [
        ("optimizers/kfac.py", "    def ", "    x = 1\n\n    def ", {"kfac", "ekfac"}),
        ("optimizers/ekfac.py", "    def ", "    x = 1\n\n    def ", {"ekfac"}),
        ("optimizers/kfac.py", "    def ", "    # a remark\n\n    def ", set()),
        ("optimizers/__init__.py", "__all__ = [", '__all__ = [\n    "More",', set()),
        ("optimizers/__init__.py", "def build(", "x = 1\n\n\ndef build(", ALL),
        ("training/task.py", "import torch\n", "import torch\n\nx = 1\n", ALL),
        ("models/mlp.py", "class ", "x = 1\n\n\nclass ", {"mlp"}),
        ("models/lenet5.py", "class ", "x = 1\n\n\nclass ", ALL - {"mlp"}),
        ("curvature/density.py", "import torch", "x = 1\nimport torch", {"probe"}),
        ("config/derived.py", "def horizon", "x = 1\n\n\ndef horizon", ALL),
        ("config/files.py", "def options", "x = 1\n\n\ndef options", set()),
        ("analysis/study.py", "import math", "import math\n\nx = 1\n", set()),
        ("system/terminal.py", "def ", "x = 1\n\n\ndef ", set()),
        ("store/history.py", "def ", "x = 1\n\n\ndef ", set()),
    ],
)
def test_a_change_concerns_the_runs_that_it_computes(configs, checkout, name, old, new, concerned):
    assert stale(configs, checkout, name, old, new) == concerned


def test_the_place_does_not_enter(configs, checkout):
    assert fingerprint(configs["kfac"], checkout) == fingerprint(configs["kfac"])


def test_what_an_optimizer_without_code_of_ours_needs_is_the_same_for_all(configs):
    assert fingerprint(configs["sgd"]) == fingerprint(configs["adam"]) != fingerprint(configs["kfac"])


def test_modules_that_are_set_aside_exist():
    for name in _ASIDE:
        path = PACKAGE.joinpath(*name.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


def test_no_torch_is_needed():
    program = (
        "import sys; from optbench.provenance import fingerprint; from optbench.config import compose\n"
        "assert len(fingerprint(compose(['optimizer=kfac']))) == 16; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


# ---- code of the user's own ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A package of a user with an optimizer that needs a neighbour, a library, and one that only its package hands on."""
    files = {
        "ours_tiny/__init__.py": "from ours_tiny.first import First\nfrom ours_tiny.second import Second\n",
        "ours_tiny/first.py": "import torch\nfrom . import help\n\n\nclass First(torch.optim.SGD):\n    x = help.value()\n",
        "ours_tiny/second.py": "import torch\n\n\nclass Second(torch.optim.SGD):\n    pass\n",
        "ours_tiny/help.py": "from .deep.below import y\n\n\ndef value():\n    return y\n",
        "ours_tiny/deep/below.py": "y = 1\n",
        "alone_tiny.py": "import ours_tiny.help\nimport yaml\n\n\ndef make(model):\n    return ours_tiny.help.value()\n",
    }
    for name, content in files.items():
        path = tmp_path / "place" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path / "place"))
    return tmp_path / "place"


def named(target):
    return {"optimizer": {"_target_": target, "name": "mine"}}


def users_own(code):
    return {name for name in code.modules if "tiny" in name}


@pytest.mark.parametrize(
    ("target", "modules"),
    [
        ("ours_tiny.First", {"ours_tiny", "ours_tiny.first", "ours_tiny.help", "ours_tiny.deep.below"}),
        ("ours_tiny.first.First", {"ours_tiny", "ours_tiny.first", "ours_tiny.help", "ours_tiny.deep.below"}),
        ("ours_tiny.Second", {"ours_tiny", "ours_tiny.second"}),
        ("alone_tiny.make", {"alone_tiny", "ours_tiny", "ours_tiny.help", "ours_tiny.deep.below"}),
    ],
)
def test_outside_targets_are_followed_by_name(tiny, target, modules):
    assert users_own(Sources().code(named(target))) == modules
    assert "ours_tiny" not in sys.modules


def test_installed_libraries_are_not(tiny):
    assert not [name for name in Sources().code(named("alone_tiny.make")).modules if name.startswith(("yaml", "torch"))]


def test_an_edit_of_the_users_own_code_is_seen(tiny):
    before = {target: fingerprint(named(target)) for target in ("ours_tiny.First", "ours_tiny.Second")}
    (tiny / "ours_tiny" / "deep" / "below.py").write_text("y = 2\n")
    assert fingerprint(named("ours_tiny.First")) != before["ours_tiny.First"]
    assert fingerprint(named("ours_tiny.Second")) == before["ours_tiny.Second"]


def test_a_process_keeps_what_it_has_read(tiny):
    sources = Sources()
    before = sources.code(named("ours_tiny.Second")).modules["ours_tiny.second"]
    (tiny / "ours_tiny" / "second.py").write_text("x = 1\n")
    assert (
        sources.code({**named("ours_tiny.Second"), "model": {"_target_": "alone_tiny.make"}}).modules[
            "ours_tiny.second"
        ]
        == before
    )


def test_code_that_is_gone_is_no_longer_the_same(tiny):
    before = fingerprint(named("alone_tiny.make"))
    (tiny / "alone_tiny.py").unlink()
    assert fingerprint(named("alone_tiny.make")) != before


def test_a_tiny_package_has_the_same_fingerprint_everywhere(tiny):
    """Golden: neither the place, nor the Python, nor the rest of the package enters a module's digest."""
    modules = Sources().code(named("ours_tiny.First")).modules
    assert {name: digest for name, digest in modules.items() if "tiny" in name} == {
        "ours_tiny": "cb98ad486fa0",
        "ours_tiny.deep.below": "4183da4884fb",
        "ours_tiny.first": "11dcedde2fc9",
        "ours_tiny.help": "054c22990b36",
    }
