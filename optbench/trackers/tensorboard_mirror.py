"""TensorBoard event files in the folder tensorboard/ of the run directory, written without torch or TensorFlow."""

import json
import math
import shutil
from collections.abc import Mapping
from typing import Any

from optbench.config.yaml_text import write_yaml
from optbench.store import RunDirectory
from optbench.trackers.base import Tracker


class TensorBoardMirror(Tracker):
    """Writes a scalar for each number in a row, at the row's step, and the configuration and the summary as text.

    The wall time of an event is the time at which the run was planned plus the row's "seconds", so that TensorBoard's
    relative axis shows training time, independently of the time of mirroring.
    """

    package = "tensorboard"
    install = "pip install 'optbench[tensorboard]'"

    def __init__(self, run: RunDirectory) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = run.path / "tensorboard"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = EventFileWriter(str(self._folder), flush_secs=5)
        self._start = (run.path / "config.yaml").stat().st_mtime
        self._seconds = 0.0
        self._step = 0
        self._add([_text("config", f"```yaml\n{write_yaml(run.config())}```")])

    def log(self, index: int, row: Mapping[str, Any]) -> None:
        """Write the numbers of the row, without NaN and infinity, which the store holds as null."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._step = int(row.get("step", index))
        self._seconds = float(row.get("seconds") or self._seconds)
        self._add([Summary.Value(tag=name, simple_value=value) for name, value in row.items() if _is_number(value)])

    def finish(self, summary: Mapping[str, Any], state: str) -> str:
        """Write the summary and close the file."""
        self._add([_text("summary", f"```json\n{json.dumps({'status': state, **summary}, indent=2)}\n```")])
        self._writer.close()
        return str(self._folder)

    def _add(self, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        wall_time = self._start + self._seconds
        self._writer.add_event(Event(wall_time=wall_time, step=self._step, summary=Summary(value=values)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(tag: str, markdown: str) -> Any:
    """A value of TensorBoard's text plug-in: a string tensor of shape (1,)."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    return Summary.Value(
        tag=tag,
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
        tensor=TensorProto(
            dtype=DT_STRING,
            string_val=[markdown.encode()],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        ),
    )
