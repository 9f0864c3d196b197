"""What the pages tell people to type works: commands are checked or run, and Python is executed, all of it in an empty folder.

A block of Python or YAML with a title is a file of that name. Commands that train are checked with dry_run=true; those in
a block below ``<!-- run -->`` are run.
"""

import importlib.util
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import yaml

from optbench import cli
from optbench import config as configuration
from optbench.__main__ import main

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r'^(<!-- run -->\n)?```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "csv", "python", "yaml", "text"}
LARGE = {"docs/quick-start.md", "docs/how-to/cluster.md", "docs/how-it-works/sweep.md", "docs/how-to/study.md"}
PLANNED: set[tuple[str, ...]] = set()  # commands that were planned already: several pages have the same
QUIET = ["tracker=none", "progress=false"]


def blocks(page):
    """(to be run, language, title, body) of every fenced block of a page."""
    return [(bool(run), *rest) for run, *rest in BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))]


def commands(body):
    """The commands of a block of shell, one list of words each."""
    lines = body.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split(" && ")]
    return [shlex.split(part, comments=True) for part in parts if part and not part.startswith("#")]


def with_blocks_of(language):
    """The pages that have such blocks, those that plan large sweeps marked as slow."""
    pages = [page for page in PAGES if any(block[1] == language for block in blocks(page))]
    return [
        pytest.param(page, marks=pytest.mark.slow) if page in LARGE and language == "bash" else page for page in pages
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, on a machine without settings; what a page says of slurm/ is there."""
    for name in ("OPTBENCH_CONF", "OPTBENCH_DATA", "OPTBENCH_EXPERIMENTS", "RANK", "LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    yield tmp_path
    # Other tests find no modules of this folder.
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None) or "").startswith(f"{tmp_path}/"):
            del sys.modules[name]


def write_files(page, folder):
    for _, _, title, body in blocks(page):
        if title:
            path = folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body, encoding="utf-8")


# ---- commands -------------------------------------------------------------------------------------------------------------


def check_program(words):
    """Check a command that is not optbench's, as far as the checkout can tell."""
    program = words[0]
    if program == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words
    elif program == "pip":
        extras = re.findall(r"\[(\w+)\]", " ".join(words))
        assert extras, words
        assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras), words
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all(Path(word).is_file() for word in words[3:]), words  # which `new` has written
    elif program == "slurm/local.sh":
        assert f"{words[1]})" in (ROOT / program).read_text().replace(" | ", ")"), words
    else:
        assert words in ([".", ".venv/bin/activate"], ["eval", "$(slurm/local.sh env)"]) or program == "export", words


def check_command(words, capsys):
    """Check a command beside training: it exists and has these options."""
    assert words[0] in {*cli.COMMANDS, "certify", "probe", "resume"}, words
    with pytest.raises(SystemExit) as ended:
        main([words[0], "--help"])
    assert ended.value.code == 0
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words
    if words[0] == "probe":
        configuration.compose([word for word in words[1:] if "=" in word])


def check(words, run, capsys):
    if words[:3] != ["python", "-m", "optbench"]:
        check_program(words)
        return
    words = words[3:]
    if "search=optuna" in words and importlib.util.find_spec("optuna") is None:
        return  # the page says which extra it needs
    if words[0] in ("list", "--help") or words == ["status"] or (run and words[0] == "new"):
        assert main(words) == 0, words
    elif words[0].isidentifier():
        check_command(words, capsys)
    elif run:
        assert main([*words, *QUIET]) == 0, words
    else:
        words = [word for word in words if word != "dry_run=true"]
        if tuple(words) not in PLANNED:
            assert main([*words, "dry_run=true"]) == 0, words
            assert "starts nothing" in capsys.readouterr().out, words
            PLANNED.add(tuple(words))


@pytest.mark.parametrize("page", with_blocks_of("bash"))
def test_commands(page, folder, capsys):
    write_files(page, folder)
    for run, language, _, body in blocks(page):
        if language == "bash":
            for words in commands(body):
                check(words, run, capsys)


def test_a_wrong_command_would_be_seen(folder, capsys):
    with pytest.raises(AssertionError):
        check(shlex.split("python -m optbench optimizer=adan"), False, capsys)
    with pytest.raises(AssertionError):
        check(shlex.split("python -m optbench retry first --stales"), False, capsys)
    with pytest.raises(AssertionError):
        check(["make", "supper"], False, capsys)


# ---- Python and YAML ------------------------------------------------------------------------------------------------------


def _stand_in_for_optuna():
    """What the page on Optuna calls, for machines without it: it asks the objective at the middle of each range."""

    class Trial:
        def suggest_float(self, name, low, high, log=False):
            return (low * high) ** 0.5 if log else (low + high) / 2

        def report(self, value, step):
            assert isinstance(value, float)

        def should_prune(self):
            return False

    class Study:
        def __init__(self):
            self.best_params = {}

        def optimize(self, objective, n_trials):
            self.values = [objective(Trial()) for _ in range(n_trials)]
            assert all(isinstance(value, float) for value in self.values)

    module = types.ModuleType("optuna")
    module.create_study = lambda direction: Study()
    return module


@pytest.mark.parametrize("page", with_blocks_of("python"))
def test_python(page, folder, monkeypatch):
    if importlib.util.find_spec("optuna") is None:
        monkeypatch.setitem(sys.modules, "optuna", _stand_in_for_optuna())
    namespace = {"__name__": "page"}
    for _, language, title, body in blocks(page):
        if language == "python" and not title:
            exec(compile(body, page, "exec"), namespace)
    if page == "docs/how-to/study.md":
        check_analysis(namespace["analyse"])


def check_analysis(analyse):
    from optbench.store import load
    from optbench.training.run import execute

    words = ["model=mlp", "dataset=digits", "budget.steps=5", *QUIET]
    for rate in (0.03, 0.3):
        execute(configuration.compose([*words, f"optimizer.learning_rate={rate}"]))
    findings = analyse(types.SimpleNamespace(runs=load("results")))
    assert findings.answer.startswith("1 widths")
    assert len(findings.tables["best"]) == 1


@pytest.mark.parametrize("page", PAGES)
def test_blocks_name_their_language_and_yaml_is_yaml(page):
    assert {language for _, language, _, _ in blocks(page)} <= LANGUAGES
    fences = re.findall(r"^```", (ROOT / page).read_text(encoding="utf-8"), re.M)
    assert len(fences) == 2 * len(blocks(page)), f"{page}: a block that is not seen"
    for _, language, _, body in blocks(page):
        if language == "yaml":
            assert isinstance(yaml.safe_load(body), dict)
