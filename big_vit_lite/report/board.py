"""TensorBoard's event files, written in the caller's thread; to a store as whole objects.

tensorboardX's SummaryWriter writes in a thread of its own: on a full disk that thread dies, and the
run waits for it forever. Its file format is used here without the thread.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from big_vit_lite import storage
from big_vit_lite.report.rows import writing
from big_vit_lite.storage import Place

_FLUSH_EVERY_S = 30


class Board:
    """A new event file of one run, open for writing. A full disk is a RunError."""

    def __init__(self, folder: Place, step: int):
        """Opens a file for the rows after `step`; later ones of earlier files are hidden.

        Args:
            folder: where event files are; made if need be.
            step: the step that the run goes on from.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._path, self._event = folder, Event
        self._copied = None
        with writing(folder):
            again = folder.is_dir()
            folder.mkdir(parents=True, exist_ok=True)
            local = folder
            if storage.is_store(folder):
                self._copied = tempfile.TemporaryDirectory(prefix="tensorboard-")
                local = Path(self._copied.name)
            # Named by the second; the step keeps a quick restart from overwriting a file.
            self._file = EventsWriter(str(local / "events"), f".{step}")
            if again:  # also from step 0: what an earlier process wrote would show twice
                start = SessionLog(status=SessionLog.START)
                self._file.write_event(
                    Event(wall_time=time.time(), step=step + 1, session_log=start)
                )
            self._file.flush()
            self._copy()
        self._flushed = time.monotonic()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values of a step; calls half a minute apart put them on the disk."""
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        with writing(self._path):
            event = self._event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
            self._file.write_event(event)
        if time.monotonic() - self._flushed >= _FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Returns when all values are on the disk."""
        with writing(self._path):
            self._file.flush()
            self._copy()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the file."""
        with writing(self._path):
            self._file.close()
            self._copy()
        if self._copied is not None:
            self._copied.cleanup()

    def _copy(self) -> None:
        """Where events go to a store: writes the object anew, which holds scalars only."""
        if self._copied is not None:
            storage.copy_tree(Path(self._copied.name), self._path)
