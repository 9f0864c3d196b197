"""Check that wandb can be used online: there is a login, the server answers, and the user's settings allow it."""

import configparser
import contextlib
import netrc
import os
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from optbench.system.home import at_home

_ANSWER_SECONDS = 3.0
#: The variable that gives the process of a mirror the user's WANDB_DIR.
USERS_DIR = "OPTBENCH_WANDB_DIR"
_MODES = {
    "online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"
}  # fmt: skip
_NO = ("", "0", "false", "no", "off", "n", "f")
_UNREADABLE = (OSError, configparser.Error, UnicodeDecodeError)


def is_logged_in() -> bool:
    """True if wandb would find a key, in the places where wandb searches; contacts no network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or user_settings().get("api_key"):
        return True
    try:
        logins = netrc.netrc(at_home(os.environ.get("NETRC") or "~/.netrc"))
    except (OSError, netrc.NetrcParseError):
        return False
    login = logins.authenticators(urlsplit(server()).netloc)
    return login is not None and bool(login[2])


def server_answers() -> bool:
    """True if the server accepts a connection within a few seconds.

    Without this check, wandb tries for half a minute at every run on a compute node without a network. Behind a proxy the
    result is True, because only wandb itself can find out.
    """
    if urllib.request.getproxies():
        return True
    address = urlsplit(server())
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def server() -> str:
    """The address of the wandb server that the user works with."""
    return os.environ.get("WANDB_BASE_URL") or user_settings().get("base_url") or "https://api.wandb.ai"


def user_settings() -> dict[str, str]:
    """The settings files written by `wandb login`, `wandb offline` and so on; the folder's file overrides the user's.

    A file that cannot be read counts as empty here; see `wished_mode` for its effect.
    """
    settings: dict[str, str] = {}
    for file in _settings_files():
        with contextlib.suppress(*_UNREADABLE):
            settings |= _read_settings(file)
    return settings


def wished_mode() -> tuple[str | None, str]:
    """The mode that the user has chosen outside of optbench, or None; and the source of that choice in one line.

    "online", "offline" or "disabled", found as wandb does: WANDB_MODE, or else ./wandb/settings, or else the settings of the
    user; wandb's older words count, in upper or lower case. If a file cannot be read or the mode is unknown, the result is
    "offline", to protect privacy. wandb's former switch WANDB_DISABLED also counts.
    """
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in _NO:
        return "disabled", "WANDB_DISABLED is set"
    found, where = os.environ.get("WANDB_MODE"), "WANDB_MODE"
    if found is None:
        for file in _settings_files():
            try:
                found, where = (
                    (mode, str(file)) if (mode := _read_settings(file).get("mode")) is not None else (found, where)
                )
            except _UNREADABLE:
                return "offline", f"{file} cannot be read, and may ask for it"
        if found is None:
            return None, ""
    mode = _MODES.get(found.strip().lower())
    if mode is None:
        return "offline", f"{where} is {found!r}, which is no mode of wandb (online, offline, disabled)"
    return mode, f"{where} is {found!r}"


def _settings_files() -> list[Path]:
    """The settings files that wandb reads; a later one overrides an earlier one."""
    user = Path(at_home(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb")) / "settings"
    # In a mirror's process WANDB_DIR differs from the user's.
    root = Path(at_home(os.environ.get(USERS_DIR) or os.environ.get("WANDB_DIR") or "."))
    return [user, root / (".wandb" if (root / ".wandb").exists() else "wandb") / "settings"]


def _read_settings(file: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}
