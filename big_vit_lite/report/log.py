"""Log: one call a row, to metrics.jsonl, TensorBoard, Weights & Biases and the terminal."""

import contextlib
import importlib
import tempfile
from collections.abc import Mapping
from typing import Any

from big_vit_lite import storage
from big_vit_lite.config import InputError, RunError
from big_vit_lite.report.board import Board
from big_vit_lite.report.progress import Progress
from big_vit_lite.report.rows import Rows, writing
from big_vit_lite.storage import Place


class Log:
    """Where a run's numbers go. A context manager.

    Values are turned into numbers when a row is given, not later in another thread: a row holds
    what its step was, whatever becomes of the arrays and dicts it came from.
    """

    def __init__(
        self,
        workdir: str | Place,
        progress: Progress | None = None,
        tensorboard: bool = True,
        wandb: str | None = None,
        name: str = "",
        config: Mapping[str, Any] | None = None,
    ):
        """Opens WORKDIR/metrics.jsonl; the other writers open with the first row.

        Args:
            workdir: the run's folder, here or on gs://; made if need be.
            progress: lines for a person; None: none.
            tensorboard: whether to write WORKDIR/tensorboard, too.
            wandb: Weights & Biases project to write to, too.
            name: the run's name there.
            config: the run's configuration, stored there.

        Raises:
            InputError: if `wandb` is set and not installed, or the folder cannot be written to.
        """
        self.workdir = storage.place(workdir)
        self._wandb_project, self._name, self._config = wandb, name, config
        if wandb:
            _import_wandb()
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            self._rows = Rows(self.workdir / "metrics.jsonl")
        except OSError as error:
            raise InputError(f"cannot write metrics to {self.workdir}: {error}") from None
        self._progress = progress
        self._tensorboard = tensorboard
        self._resumed: int | None = None
        self._board: Board | None = None
        self._wandb: Any = None

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind, *exception) -> None:
        # What went wrong first is what a person needs to know.
        with contextlib.suppress(RunError) if kind else contextlib.nullcontext():
            self.close()

    def resume(self, step: int) -> None:
        """Says which step the run goes on from, before the first row: rows after it are dropped.

        A run that starts anew says 0, which the first row does for it otherwise.

        Raises:
            RunError: if the folder cannot be written to; so do the methods below.
        """
        self._rows.resume(step)
        self._resumed = step
        if self._tensorboard:
            self._board = Board(self.workdir / "tensorboard", step)
        if self._wandb_project:
            self._wandb = self._open_wandb()

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Writes metrics of a step, in finished steps; several rows of a step become one line.

        Raises:
            ValueError: if a later step was written before.
        """
        if self._resumed is None:
            self.resume(0)
        values = {key: v if isinstance(v, int) else float(v) for key, v in values.items()}
        self._rows.add(step, values)
        if self._board is not None:
            self._board.add(step, values)
        if self._wandb is not None:
            self._wandb.log(values, step=step)
        if self._progress is not None:
            self._progress.row(step, values)

    def progress(self, step: int) -> None:
        """Moves the progress line on to a step."""
        if self._progress is not None:
            self._progress.update(step)

    def say(self, text: str) -> None:
        """Prints a line for a person, with the time since the start."""
        if self._progress is not None:
            self._progress.say(text)

    def flush(self) -> None:
        """Returns when the rows so far are on the disk; to be called before a checkpoint is."""
        self._rows.flush()
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Flushes and closes every writer."""
        with contextlib.ExitStack() as each:  # also when one of them fails
            if self._progress is not None:
                each.callback(self._progress.close)
            if self._wandb is not None:
                each.callback(self._wandb.finish)
            if self._board is not None:
                each.callback(self._board.close)
            each.callback(self._rows.close)

    def _open_wandb(self) -> Any:
        """A Weights & Biases run, the same one again after a resume: its id is kept in a file."""
        wandb = _import_wandb()
        note = self.workdir / "wandb_id"
        known = note.read_text().strip() if note.is_file() and self._resumed else None
        run = wandb.init(
            project=self._wandb_project,
            name=self._name or None,
            dir=tempfile.mkdtemp() if storage.is_store(self.workdir) else str(self.workdir),
            config=dict(self._config or {}),
            id=known,
            resume="allow",
        )
        with writing(note):
            storage.replace(note, run.id.encode())
        return run


class Silent(Log):
    """The Log of a process that leaves files and lines to the first one: all its methods pass."""

    def __init__(self, workdir: str | Place):
        self.workdir = storage.place(workdir)

    def resume(self, step: int) -> None:
        pass

    def row(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def progress(self, step: int) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _import_wandb() -> Any:
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise InputError(
            "report.wandb is set, but wandb is not installed: "
            'run pip install "wandb>=0.19,<1", or leave report.wandb unset'
        ) from None


def open(
    workdir: str | Place,
    steps: int,
    tensorboard: bool = True,
    wandb: str | None = None,
    name: str = "",
    config: Mapping[str, Any] | None = None,
) -> Log:
    """The Log of a run of `steps` steps that also tells a person how it goes, on stderr."""
    return Log(workdir, Progress(steps), tensorboard, wandb, name, config)
