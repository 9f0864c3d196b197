"""mode=auto: online where there is a login and the server answers, offline otherwise."""

import socket
from pathlib import Path

import pytest

from optbench.trackers import process, wandb_login
from optbench.trackers.wandb_mirror import resolve_mode

LOGINS = {
    "nothing": (lambda home, patch: None, False),
    "key": (lambda home, patch: patch.setenv("WANDB_API_KEY", "k"), True),
    "identity token": (lambda home, patch: patch.setenv("WANDB_IDENTITY_TOKEN_FILE", "/token"), True),
    "netrc": (lambda home, patch: netrc(home / ".netrc", "api.wandb.ai"), True),
    "netrc elsewhere": (lambda home, patch: patch.setenv("NETRC", str(netrc(home / "logins", "api.wandb.ai"))), True),
    "netrc of others": (lambda home, patch: netrc(home / ".netrc", "github.com"), False),
    "damaged netrc": (lambda home, patch: (home / ".netrc").write_text("machine"), False),
    "settings": (lambda home, patch: settings(home, "api_key = k"), True),
    "other settings": (lambda home, patch: settings(home, "project = %(p"), False),
    "damaged settings": (lambda home, patch: settings(home, "=\n[[["), False),
    "own server": (lambda home, patch: (netrc(home / ".netrc", "wandb.test:8"), own_server(patch)), True),
    "other server": (lambda home, patch: (netrc(home / ".netrc", "api.wandb.ai"), own_server(patch)), False),
    "offline by environment": (lambda home, patch: (key(patch), patch.setenv("WANDB_MODE", "offline")), False),
    "offline by settings": (lambda home, patch: (key(patch), settings(home, "mode = offline")), False),
}


def key(patch):
    patch.setenv("WANDB_API_KEY", "k")


def own_server(patch):
    patch.setenv("WANDB_BASE_URL", "https://wandb.test:8")


def netrc(file, machine):
    file.write_text(f"machine {machine}\n  login user\n  password k\n")
    return file


def settings(home, line):
    (home / "wandb_config").mkdir()
    (home / "wandb_config" / "settings").write_text(f"[default]\n{line}\n")


@pytest.mark.parametrize("login", LOGINS)
def test_auto_is_online_where_there_is_a_login(tmp_path, monkeypatch, login):
    prepare, online = LOGINS[login]
    prepare(tmp_path / "home", monkeypatch)
    monkeypatch.setattr("optbench.trackers.wandb_mirror.server_answers", lambda: True)
    assert resolve_mode("auto") == ("online" if online else "offline")


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_a_mode_that_is_named_is_taken(mode):
    assert resolve_mode(mode) == mode


def test_auto_is_offline_where_the_server_does_not_answer(monkeypatch, unused_port, listening_port):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    modes = []
    for port in (unused_port, listening_port):
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        modes.append(resolve_mode("auto"))
    assert modes == ["offline", "online"]


@pytest.fixture
def listening_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return port


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_folder_has_no_login_and_no_settings(tmp_path, monkeypatch):
    for name in ("NETRC", "WANDB_CONFIG_DIR", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert wandb_login.is_logged_in() is False
    assert wandb_login.user_settings() == {}
    assert wandb_login.server() == "https://api.wandb.ai"


@pytest.mark.usefixtures("homeless")
def test_a_tracker_of_a_user_without_a_home_folder_is_given_one(tmp_path, monkeypatch):
    started = {}
    monkeypatch.setattr(process.subprocess, "Popen", lambda command, **options: started.update(options["env"]))
    process._spawn(tmp_path, {"name": "csv"}, follow=False)
    assert Path(started["HOME"]).is_dir()
