import gzip
import hashlib
import io

import pytest
from fixtures import offline

from optbench.data import fetch, fingerprints, folders, locate
from optbench.data.locate import RemoteFile, Source
from optbench.errors import UserError

CONTENTS = {"a": b"first file", "b": b"second file"}
SOURCE = Source(
    "toy",
    ("toy", "TOY/raw"),
    tuple(RemoteFile(name, hashlib.md5(content).hexdigest(), gzipped=True) for name, content in CONTENTS.items()),
    "https://example.org/toy/",
)


def write(folder, names=("a", "b"), gz=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / (f"{name}.gz" if gz else name)
        path.write_bytes(gzip.compress(CONTENTS[name]) if gz else CONTENTS[name])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def serve(monkeypatch, files):
    monkeypatch.setattr(locate, "open_url", lambda url: io.BytesIO(files[url]))


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("below", ["", "toy", "TOY/raw"])
def test_found_in_data_dir(monkeypatch, tmp_path, below, gz):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir / below, gz=gz)
    paths = locate.locate(SOURCE, data_dir)
    assert {file.name: locate.read(file, paths[file.name]) for file in SOURCE.files} == CONTENTS


def test_order_of_places(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    monkeypatch.setenv("OPTBENCH_DATA", str(tmp_path / "env"))
    expected = [data_dir, data_dir / "toy", tmp_path / "env", tmp_path / "env/toy", tmp_path / "system/toy"]
    assert locate.places(("toy",), data_dir) == expected
    for place in reversed(expected):
        write(place)
        assert locate.locate(SOURCE, data_dir)["a"].parent == place


def test_a_place_must_have_all_files(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir, ["a"])
    write(data_dir / "toy")
    assert locate.locate(SOURCE, data_dir)["a"].parent == data_dir / "toy"


def test_not_found_says_everything(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    with pytest.raises(UserError) as caught:
        locate.locate(SOURCE, data_dir)
    message = str(caught.value)
    places = [str(place) for place in locate.places(SOURCE.folders, data_dir)]
    assert len(places) == 5
    for part in ["dataset=toy", "a.gz, b.gz", SOURCE.url, "no network in tests", *places, *locate.NO_DOWNLOAD]:
        assert part in message


def test_read_only_data_dir_is_reported(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    (data_dir / "toy").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"the download from .* failed: .*File exists"):
        locate.locate(SOURCE, data_dir)


def test_download(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    serve(monkeypatch, {f"{SOURCE.url}{name}.gz": gzip.compress(content) for name, content in CONTENTS.items()})
    paths = locate.locate(SOURCE, data_dir)
    assert names(data_dir / "toy") == ["a.gz", "b.gz"]
    assert {file.name: locate.read(file, paths[file.name]) for file in SOURCE.files} == CONTENTS


@pytest.mark.parametrize("check_hash", [True, False])
def test_download_of_another_file(monkeypatch, tmp_path, check_hash):
    data_dir = offline(monkeypatch, tmp_path)
    serve(monkeypatch, {f"{SOURCE.url}{name}.gz": gzip.compress(b"other") for name in CONTENTS})
    if check_hash:
        found, expected = hashlib.md5(b"other").hexdigest(), SOURCE.files[0].md5
        with pytest.raises(UserError, match=rf"a\.gz: not the official a: .*{found}, expected {expected}"):
            locate.locate(SOURCE, data_dir)
        assert names(data_dir / "toy") == []
    else:
        assert locate.locate(SOURCE, data_dir, check_hash=False)["a"].is_file()


def test_interrupted_download_leaves_nothing(monkeypatch, tmp_path):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell():
                raise TimeoutError("timed out")
            return super().read(3)

    data_dir = offline(monkeypatch, tmp_path)
    monkeypatch.setattr(locate, "open_url", lambda url: Broken(b"0123456789"))
    with pytest.raises(UserError, match="failed: timed out"):
        locate.locate(SOURCE, data_dir)
    assert not (data_dir / "toy").exists()


def test_a_failed_download_leaves_the_folders_that_were_there(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    (data_dir / "toy").mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match="failed"):
        locate.locate(SOURCE, data_dir)
    assert (data_dir / "toy").is_dir()


def test_wrong_content_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"other")
    file = SOURCE.files[0]
    with pytest.raises(UserError, match=f"{hashlib.md5(b'other').hexdigest()}, expected {file.md5}"):
        locate.read(file, path)
    assert locate.read(file, path, check_hash=False) == b"other"


def test_hash_is_of_the_decompressed_content(tmp_path):
    # Debian recompresses archives: the same content, other bytes.
    for level in (1, 9):
        path = tmp_path / "a.gz"
        path.write_bytes(gzip.compress(CONTENTS["a"], level, mtime=level))
        assert locate.read(SOURCE.files[0], path) == CONTENTS["a"]


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b"first file")[:-6]], ids=["other", "cut"])
def test_damaged_gzip(tmp_path, content):
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.gz: cannot be read"):
        locate.read(SOURCE.files[0], path)


@pytest.mark.usefixtures("homeless")
def test_data_of_a_user_without_a_home_folder_are_looked_for_and_not_put_into_a_folder_called_tilde(
    monkeypatch, tmp_path
):
    offline(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    assert locate.places(("toy",), "~/x")[:2] == [tmp_path / "~/x", tmp_path / "~/x/toy"]
    with pytest.raises(UserError, match="data_dir=~/x: there is no home folder of ~ here"):
        locate.locate(SOURCE, "~/x")
    with pytest.raises(UserError, match="data_dir=~/x: there is no home folder of ~ here"):
        fetch.fetch("fashion_mnist", "~/x")
    with pytest.raises(UserError, match=r"dataset\.path=~/mine: not found"):
        folders.folder_of_shards("~/mine", tmp_path)
    with pytest.raises(UserError, match="not found: ~/mine"):
        fingerprints._listed({"name": "mine", "where": "~/mine"}, ["{where}"], "~/x")
    assert names(tmp_path) == before
