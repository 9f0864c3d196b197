"""A wish for privacy fails closed: what wandb would take for offline or disabled is never online, nor what nobody can read."""

import os
import subprocess
import sys

import pytest

from optbench import trackers
from optbench.errors import UserError
from optbench.trackers.wandb_login import USERS_DIR, wished_mode
from optbench.trackers.wandb_mirror import resolve_mode

WANDB = {"_target_": "optbench.trackers.wandb_mirror.WandbMirror", "name": "wandb"}


@pytest.fixture(autouse=True)
def _could_be_online(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr("optbench.trackers.wandb_mirror.server_answers", lambda: True)
    for name in ("WANDB_DISABLED", "WANDB_DIR", USERS_DIR):
        monkeypatch.delenv(name, raising=False)


def settings(folder, content, section="default"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings").write_text(f"[{section}]\n{content}\n")


def wandbs_own():
    """The mode that wandb itself finds here, None where it fails; in a process of its own, as it looks only once."""
    program = (
        "import os, wandb\nfrom wandb.sdk import wandb_setup\n"
        "print('mode', wandb_setup.singleton().settings.mode, wandb_setup.singleton().settings._offline, "
        "wandb_setup.singleton().settings._noop)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("mode ")]
    if not lines:
        return None
    _, mode, offline, disabled = lines[0]
    return "disabled" if disabled == "True" else "offline" if offline == "True" else mode.replace("run", "online")


# The environment; the folder's and the user's settings file; what is asked for; and whether wandb itself says the same.
WISHES = {
    "nothing": ({}, None, None, None, True),
    "offline": ({"WANDB_MODE": "offline"}, None, None, "offline", True),
    "disabled": ({"WANDB_MODE": "disabled"}, None, None, "disabled", True),
    "former word": ({"WANDB_MODE": "dryrun"}, None, None, "offline", True),
    "former word for online": ({"WANDB_MODE": "run"}, None, None, "online", True),
    "folder": ({}, "mode = offline", None, "offline", True),
    "folder before user": ({}, "mode = disabled", "mode = online", "disabled", True),
    "folder before user, online": ({}, "mode = online", "mode = offline", "online", True),
    "user": ({}, "project = p", "mode = offline", "offline", True),
    "environment before files": ({"WANDB_MODE": "offline"}, "mode = online", "mode = online", "offline", True),
    "environment before files, online": ({"WANDB_MODE": "online"}, "mode = offline", None, "online", True),
    # wandb fails at these, or takes the file for empty and is online.
    "capitals": ({"WANDB_MODE": "Offline"}, None, None, "offline", False),
    "capitals for disabled": ({"WANDB_MODE": " DISABLED "}, None, None, "disabled", False),
    "no mode": ({"WANDB_MODE": "oflin"}, None, None, "offline", False),
    "no word": ({"WANDB_MODE": ""}, None, None, "offline", False),
    "no mode in the folder": ({}, "mode = private", None, "offline", False),
    "file with another mistake": ({}, "mode = offline\nfoo = bar", None, "offline", False),
    "damaged file": ({}, "=\n[[[", None, "offline", False),
    "former switch": ({"WANDB_DISABLED": "true"}, None, None, "disabled", False),
    "former switch, off": ({"WANDB_DISABLED": "false"}, None, None, None, False),
}


def arrange(tmp_path, monkeypatch, name):
    environment, folder, user, wished, same = WISHES[name]
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    if folder is not None:
        settings(tmp_path / "wandb", folder)
    if user is not None:
        settings(tmp_path / "home" / "wandb_config", user)
    return wished, same


@pytest.mark.parametrize("name", WISHES)
def test_a_wish_is_found_and_never_overridden(tmp_path, monkeypatch, capsys, name):
    wished, _ = arrange(tmp_path, monkeypatch, name)
    found, why = wished_mode()
    assert found == wished
    expected = "online" if wished in (None, "online") else wished
    assert resolve_mode("auto") == resolve_mode("online") == expected
    assert (resolve_mode("offline"), resolve_mode("disabled")) == ("offline", "disabled")
    shown = capsys.readouterr().out.splitlines()
    assert shown == ([] if expected == "online" else [f"wandb: {expected}, because {why}"] * 2)


@pytest.mark.slow  # each starts a process that imports wandb
@pytest.mark.parametrize("name", WISHES)
def test_wandb_itself_resolves_it_alike_or_less_privately(tmp_path, monkeypatch, name):
    wished, same = arrange(tmp_path, monkeypatch, name)
    own = wandbs_own()
    if same:
        assert own == (wished or "online")
    else:
        assert own in (None, "online")


@pytest.mark.parametrize("inherited", ["WANDB_DIR", USERS_DIR])
def test_the_users_own_folder_of_wandb_counts(tmp_path, monkeypatch, inherited):
    settings(tmp_path / "elsewhere" / "wandb", "mode = offline")
    monkeypatch.setenv(inherited, str(tmp_path / "elsewhere"))
    assert resolve_mode("auto") == "offline"
    (tmp_path / "elsewhere" / ".wandb").mkdir()
    assert resolve_mode("auto") == "online"  # wandb looks only there then
    settings(tmp_path / "elsewhere" / ".wandb", "mode = disabled")
    assert resolve_mode("auto") == "disabled"


def test_the_process_of_the_mirror_is_told_of_it(make_run, recorder, tmp_path, monkeypatch):
    from optbench.trackers import process

    seen = {}

    def spawn(command, env, **_):
        seen.update(env)
        raise OSError("enough")

    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setattr(process.subprocess, "Popen", spawn)
    trackers.start(make_run(), WANDB)
    assert seen[USERS_DIR] == str(tmp_path)
    assert "WANDB_DIR" not in seen


def test_online_against_the_wish_is_refused_and_an_unclear_wish_is_told(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UserError, match=r"tracker.mode=online: WANDB_MODE is 'offline', so that nothing is sent"):
        trackers.check({**WANDB, "mode": "online"})
    trackers.check({**WANDB, "mode": "auto"})
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("WANDB_MODE", "oflin")
    trackers.check({**WANDB, "mode": "auto"})
    assert capsys.readouterr().err.splitlines() == [
        "optbench: wandb: offline, because WANDB_MODE is 'oflin', which is no mode of wandb (online, offline, disabled)"
    ]


def test_a_file_that_may_not_be_read_may_ask_for_privacy(tmp_path):
    (tmp_path / "wandb" / "settings").mkdir(parents=True)
    assert wished_mode()[0] == "offline"
    assert "cannot be read" in wished_mode()[1]
    assert resolve_mode("auto") == "offline"
    assert os.environ["WANDB_API_KEY"]
