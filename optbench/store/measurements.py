"""The measurements of a run's probes: arrays in NAME-STEP.npz, and an index with a line for each measurement."""

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.store import history
from optbench.store.files import component, read_bytes, reporting, write_atomically

if TYPE_CHECKING:
    import numpy as np

_OF_A_MEASUREMENT = re.compile(r"(\w+)-(\d+)\.\w+")


class Measurements:
    """The folder ``probes`` of a run directory; it is made when the first measurement is written.

    index.jsonl has one line for each measurement: probe, step, file (the file name of its arrays, null if it has none),
    seconds, values and options. A probe has one measurement at a step: a new one replaces it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def index(self) -> Path:
        """The path of the index, which may not exist yet."""
        return self.path / "index.jsonl"

    def write(
        self,
        probe: str,
        step: int,
        values: Mapping[str, float],
        arrays: Mapping[str, "np.ndarray"],
        seconds: float,
        options: Mapping[str, Any],
    ) -> str | None:
        """Write one measurement: its arrays atomically, then its line; returns the name of the file of arrays, if any.

        Raises `StoreError` when the file system refuses.
        """
        with reporting("create", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._drop(probe, step)
        file = None
        if arrays:
            import numpy as np

            file = f"{probe}-{step}.npz"
            content = io.BytesIO()
            np.savez(content, **arrays)  # type: ignore[arg-type]
            write_atomically(self.path / file, content.getvalue())
        row = {"probe": probe, "step": step, "file": file, "seconds": seconds}
        history.append_row(self.index, row | {"values": dict(values), "options": dict(options)})
        return file

    def _drop(self, probe: str, step: int) -> None:
        rows = self.rows()
        kept = [row for row in rows if (row.get("probe"), row["step"]) != (probe, step)]
        if len(kept) < len(rows):
            history.rewrite(self.index, kept)
        for path in self.path.glob(f"{probe}-{step}.*"):
            with reporting("remove", path):
                path.unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of the index, in the order in which they were measured."""
        return history.read_rows(self.index)

    def arrays(self, file: str) -> "dict[str, np.ndarray]":
        """The arrays in ``file``; loading cannot run code."""
        import numpy as np

        path = self.path / component(file, f"{self.index}: file")
        with reporting("read", path):
            content = read_bytes(path)
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            return dict(loaded)

    def files(self) -> list[Path]:
        """The files of arrays, in the order of the index."""
        return [self.path / component(row["file"], f"{self.index}: file") for row in self.rows() if row.get("file")]

    def missing(self, history_rows: Iterable[Mapping[str, Any]]) -> str | None:
        """The first measurement named in a row of the history that is missing or damaged here; None if there is none."""
        spoken_of = [row for row in history_rows if row.get("event") == "probe" and "problem" not in row]
        if not spoken_of:
            return None
        indexed = {(row.get("probe"), row["step"]) for row in self.rows()}
        for row in spoken_of:
            probe, step, file = row.get("probe"), row["step"], row.get("probe_file")
            if (probe, step) not in indexed:
                return f"{probe} at step {step} in {self.index}"
            if file is not None and not _is_whole(self.path / Path(file).name):
                return str(self.path / Path(file).name)
        return None

    def truncate(self, after_step: int) -> None:
        """Remove the measurements of the steps after ``after_step``: a resumed run takes them again."""
        if not self.path.is_dir():
            return
        history.truncate(self.index, after_step)
        with reporting("remove measurements from", self.path):
            for path in self.path.iterdir():
                match = _OF_A_MEASUREMENT.fullmatch(path.name)
                if match is not None and int(match[2]) > after_step:
                    path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    """True if ``path`` is a zip archive, such as NumPy's, and all its parts match their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises many types: struct.error, EOFError, NotImplementedError, ...
        return False
