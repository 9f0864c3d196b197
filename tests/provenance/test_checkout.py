"""Which code a job runs: what the fingerprint sees, what is recorded, and that a snapshot is a package to run from."""

import os
import subprocess
import sys

import pytest

from optbench.config import search_path
from optbench.provenance import checkout as code
from optbench.store import StoreError


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout that takes the place of the real one."""
    top = tmp_path / "checkout"
    files = {
        "optbench/__init__.py": "",
        "optbench/store/files.py": "x = 1\n",
        "optbench/data/text.xz": "data",
        "optbench/__pycache__/files.cpython-311.pyc": "compiled",
        "hydra_plugins/optbench_sweeper/__init__.py": "",
        "hydra_plugins/somebody_elses/__init__.py": "",
        "conf/config.yaml": "batch: 1\n",
        "conf/model/mlp.yaml": "name: mlp\n",
    }
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(code, "PACKAGE", top / "optbench")
    monkeypatch.setattr(search_path, "_PACKAGE", top / "optbench")
    return top


def git(folder, *words):
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def work_tree(checkout, monkeypatch):
    git(checkout, "init", "-q")
    (checkout / ".gitignore").write_text("__pycache__\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "all")
    monkeypatch.setattr(code, "git_commit", lambda: {"commit": git(checkout, "rev-parse", "HEAD"), "changed": True})
    return checkout


class TestFingerprint:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("optbench/store/files.py", "x = 2\n"),
            ("optbench/new.py", ""),
            ("conf/model/mlp.yaml", "name: mlp2\n"),
            ("conf/model/new.yaml", ""),
        ],
    )
    def test_sees_python_files_and_choices(self, checkout, name, content):
        before = code.fingerprint()
        (checkout / name).write_text(content)
        assert code.fingerprint() != before

    def test_sees_what_moves_from_one_file_to_another(self, checkout):
        before = code.fingerprint()
        (checkout / "optbench" / "store" / "files.py").rename(checkout / "optbench" / "store" / "other.py")
        assert code.fingerprint() != before

    @pytest.mark.parametrize("name", ["optbench/__pycache__/files.cpython-311.pyc", "results/a.py", "README.md"])
    def test_sees_nothing_else(self, checkout, name):
        before = code.fingerprint()
        path = checkout / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("something else")
        assert code.fingerprint() == before

    def test_is_that_of_the_files_wherever_they_are(self, checkout, monkeypatch, tmp_path):
        before = code.fingerprint()
        moved = checkout.rename(tmp_path / "elsewhere")
        monkeypatch.setattr(code, "PACKAGE", moved / "optbench")
        monkeypatch.setattr(search_path, "_PACKAGE", moved / "optbench")
        assert code.fingerprint() == before


class TestRecord:
    def test_outside_of_a_work_tree(self, checkout, tmp_path, monkeypatch):
        monkeypatch.setattr(code, "git_commit", lambda: None)
        assert code.record(tmp_path / "plan") == {
            "fingerprint": code.fingerprint(),
            "commit": None,
            "changed": None,
            "package": str(checkout / "optbench"),
        }
        assert not (tmp_path / "plan" / "code.diff").exists()

    def test_the_diff_leads_from_the_commit_to_the_code(self, work_tree, tmp_path):
        (work_tree / "optbench" / "store" / "files.py").write_text("x = 2\n")
        (work_tree / "optbench" / "new.py").write_text("secret = 3\n")
        recorded = code.record(tmp_path)
        assert recorded["commit"] == git(work_tree, "rev-parse", "HEAD")
        difference = (tmp_path / "code.diff").read_text()
        assert "# not tracked: optbench/new.py\n" in difference
        assert "secret" not in difference
        git(work_tree, "checkout", "-q", ".")
        git(work_tree, "apply", str(tmp_path / "code.diff"))
        assert (work_tree / "optbench" / "store" / "files.py").read_text() == "x = 2\n"

    def test_an_old_diff_does_not_outlive_the_change(self, work_tree, tmp_path):
        (tmp_path / "code.diff").write_text("old")
        code.record(tmp_path)
        assert not (tmp_path / "code.diff").exists()

    def test_a_huge_diff_is_cut(self, work_tree, tmp_path, monkeypatch):
        monkeypatch.setattr(code, "_DIFF_LIMIT", 300)
        (work_tree / "optbench" / "store" / "files.py").write_text("x = 2\n" * 100_000)
        code.record(tmp_path)
        difference = (tmp_path / "code.diff").read_text()
        assert len(difference.removesuffix("\n# cut here, at 300 bytes\n")) == 300


class TestChangedSince:
    @pytest.mark.parametrize("information", [{}, {"code": None}, {"code": {}}, {"code": {"fingerprint": None}}])
    def test_where_nothing_was_recorded_there_is_nothing_to_say(self, checkout, information):
        assert code.changed_since(information) is None

    def test_warns_only_of_other_code(self, checkout, tmp_path):
        information = {"code": code.record(tmp_path)}
        assert code.changed_since(information) is None
        then = code.fingerprint()
        (checkout / "optbench" / "new.py").write_text("")
        warning = code.changed_since(information)
        assert f"{then} then, {code.fingerprint()} now" in warning
        assert "\n" not in warning


class TestSnapshot:
    def test_holds_the_package_its_plug_in_and_its_choices_only(self, checkout, tmp_path):
        (checkout / "optbench" / "conf").mkdir()  # as in a wheel
        folder = code.snapshot(tmp_path)
        assert folder == tmp_path / "code" / code.fingerprint()
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
            "conf/config.yaml",
            "conf/model/mlp.yaml",
            "hydra_plugins/optbench_sweeper/__init__.py",
            "optbench/__init__.py",
            "optbench/data/text.xz",
            "optbench/store/files.py",
        ]
        assert not (folder / "optbench" / "conf").exists()

    def test_is_made_once_and_kept_when_the_code_changes(self, checkout, tmp_path, monkeypatch):
        first = code.snapshot(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(code.shutil, "copytree", None)  # nothing is copied again
            assert code.snapshot(tmp_path) == first
        (checkout / "optbench" / "store" / "files.py").write_text("x = 2\n")
        second = code.snapshot(tmp_path)
        assert second != first
        assert (first / "optbench" / "store" / "files.py").read_text() == "x = 1\n"
        assert sorted((tmp_path / "code").iterdir()) == sorted([first, second])

    def test_two_commands_at_the_same_moment(self, checkout, tmp_path, monkeypatch):
        copytree = code.shutil.copytree

        def somebody_is_faster(*arguments, **options):
            monkeypatch.setattr(code.shutil, "copytree", copytree)
            code.snapshot(tmp_path)
            return copytree(*arguments, **options)

        monkeypatch.setattr(code.shutil, "copytree", somebody_is_faster)
        folder = code.snapshot(tmp_path)
        assert list((tmp_path / "code").iterdir()) == [folder]

    def test_is_named_for_what_was_copied(self, checkout, tmp_path, monkeypatch):
        copytree = code.shutil.copytree

        def an_editor_saves(*arguments, **options):
            monkeypatch.setattr(code.shutil, "copytree", copytree)
            (checkout / "optbench" / "store" / "files.py").write_text("x = 3\n")
            return copytree(*arguments, **options)

        monkeypatch.setattr(code.shutil, "copytree", an_editor_saves)
        assert code.snapshot(tmp_path).name == code.fingerprint()

    def test_own_choices_are_copied_and_those_of_installed_packages_are_not(self, checkout, tmp_path, monkeypatch):
        for place in ("one", "two", "installed/conf"):
            (tmp_path / place / "model").mkdir(parents=True)
            (tmp_path / place / "model" / f"of_{place[:3]}.yaml").write_text("defaults: [mlp]\n")
        (tmp_path / "one" / "notes.txt").write_text("not a choice")
        monkeypatch.setenv("OPTBENCH_CONF", f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}")
        plugin = search_path.Plugin("installed", "installed", "1", tmp_path / "installed")
        monkeypatch.setattr(search_path, "_plugins", lambda import_path: (plugin,))
        search_path._places.cache_clear()
        here = code.fingerprint()
        folder = code.snapshot(tmp_path / "plan")
        assert folder.name == here
        own = sorted(str(path.relative_to(folder)) for path in (folder / "own").rglob("*.*"))
        assert own == ["own/0/model/of_one.yaml", "own/1/model/of_two.yaml"]
        copied = code.copied_choices(folder)
        assert copied == {"OPTBENCH_CONF": f"{folder / 'own' / '0'}{os.pathsep}{folder / 'own' / '1'}"}
        # In the job, with the copies in their place, nothing has changed; here an edit has.
        monkeypatch.setenv("OPTBENCH_CONF", copied["OPTBENCH_CONF"])
        assert code.fingerprint() == here
        assert code.snapshot(tmp_path / "plan") == folder
        (folder / "own" / "0" / "model" / "of_one.yaml").write_text("defaults: [other]\n")
        assert code.fingerprint() != here
        search_path._places.cache_clear()

    def test_a_full_disk_is_a_store_error(self, checkout, tmp_path):
        (tmp_path / "code").write_text("in the way")
        with pytest.raises(StoreError, match="cannot write"):
            code.snapshot(tmp_path)

    def test_the_real_package_runs_from_it(self, tmp_path):
        folder = code.snapshot(tmp_path)
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        program = "from optbench.provenance import checkout as code; print(code.PACKAGE, code.fingerprint())"
        said = subprocess.run(
            [sys.executable, "-P", "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout
        assert said.split() == [str(folder / "optbench"), code.fingerprint()]
