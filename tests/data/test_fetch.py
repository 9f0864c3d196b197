import gzip
import hashlib
import io
import subprocess
from pathlib import Path

import pytest
from fixtures import offline

from optbench.data import fetch as fetching
from optbench.data import locate
from optbench.data.locate import RemoteFile, Source
from optbench.errors import UserError

CONTENT = b"a data set"
SOURCE = Source(
    "toy", ("toy",), (RemoteFile("a", hashlib.md5(CONTENT).hexdigest(), gzipped=True),), "https://example.org/toy/"
)


@pytest.fixture
def data_dir(monkeypatch, tmp_path):
    monkeypatch.setitem(fetching.SOURCES, "toy", SOURCE)
    monkeypatch.setitem(fetching.DEBIAN_PACKAGES, "toy", "dataset-toy")
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    return offline(monkeypatch, tmp_path)


def write(folder, content=CONTENT):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.gz").write_bytes(gzip.compress(content))


def debian(monkeypatch, content=CONTENT):
    """apt-get and dpkg that do what the real ones do to the scratch folder."""

    def run(command, folder):
        if command[:2] == ["apt-get", "download"]:
            (Path(folder) / "dataset-toy_1.0_all.deb").write_bytes(b"!<arch>")
        elif command[:2] == ["dpkg", "-x"]:
            write(Path(folder, command[3], "usr/share/datasets/toy"), content)

    monkeypatch.setattr(fetching.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(fetching, "_run", run)


def fetched(data_dir):
    return gzip.decompress((data_dir / "toy" / "a.gz").read_bytes())


def test_already_there(data_dir):
    write(data_dir / "toy")
    assert fetching.fetch("toy", data_dir) == f"toy was already in {data_dir / 'toy'}."


def test_what_is_there_is_checked(data_dir):
    write(data_dir / "toy", b"other")
    with pytest.raises(UserError, match="not the official a"):
        fetching.fetch("toy", data_dir)


def test_copied_from_another_place(data_dir, tmp_path):
    write(tmp_path / "system" / "toy")
    assert "was copied from" in fetching.fetch("toy", data_dir)
    assert fetched(data_dir) == CONTENT


def test_from_debian(monkeypatch, data_dir):
    debian(monkeypatch)
    assert "unpacked from Debian's package dataset-toy" in fetching.fetch("toy", data_dir)
    assert fetched(data_dir) == CONTENT
    assert [path.name for path in (data_dir / "toy").iterdir()] == ["a.gz"]


def test_debian_fails_then_the_official_address(monkeypatch, data_dir):
    def fail(command, folder):
        raise subprocess.CalledProcessError(100, command)

    debian(monkeypatch)
    monkeypatch.setattr(fetching, "_run", fail)
    monkeypatch.setattr(locate, "open_url", lambda url: io.BytesIO(gzip.compress(CONTENT)))
    assert fetching.fetch("toy", data_dir) == f"toy was downloaded from {SOURCE.url} to {data_dir / 'toy'}."
    assert fetched(data_dir) == CONTENT


def test_everything_fails(data_dir):
    with pytest.raises(UserError, match=r"fetch toy: there is no apt-get; the download from .* failed: no network"):
        fetching.fetch("toy", data_dir)


def test_command_line(data_dir, capsys):
    write(data_dir / "toy")
    assert fetching.main(["toy", "--data-dir", str(data_dir)]) == 0
    assert "already" in capsys.readouterr().out
    assert fetching.main(["digits"]) == 0
    assert "needs no download" in capsys.readouterr().out
    assert fetching.main(["imagenet", "--data-dir", str(data_dir)]) == 1
    assert "accepted: fashion_mnist, mnist, cifar10, cifar100, ptb" in capsys.readouterr().err
