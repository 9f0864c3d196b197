"""Whether wandb can be used online: is there a login, and does the server answer."""

import configparser
import netrc
import os
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

_ANSWER_SECONDS = 3.0


def is_logged_in() -> bool:
    """Whether wandb would find a key, looked for in the places where wandb looks; contacts no network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or user_settings().get("api_key"):
        return True
    try:
        logins = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser())
    except (OSError, netrc.NetrcParseError):
        return False
    login = logins.authenticators(urlsplit(server()).netloc)
    return login is not None and bool(login[2])


def server_answers() -> bool:
    """Whether the server accepts a connection within a few seconds.

    Without this, wandb tries for half a minute, at every run on a compute node without a network. Behind a proxy the
    answer is yes: only wandb itself can tell.
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
    """What `wandb login`, `wandb offline` and the like have written to the user's settings file."""
    parser = configparser.ConfigParser(interpolation=None)
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    try:
        parser.read(folder / "settings", encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}
