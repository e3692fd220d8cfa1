"""The log of a training run: one CSV row per epoch, and TensorBoard if wanted."""

import csv
from pathlib import Path
from typing import Any

NAME = "log.csv"


class TrainingLog:
    """Append the rows of epochs to ``log.csv``, and to TensorBoard event files.

    Rows in the file that the run does not know (epochs after the checkpoint it goes on from) are dropped.

    Parameters
    ----------
    folder : Path or None
        The folder of the run; None writes nothing.
    history : list of dict
        Rows of the epochs done so far.
    tensorboard : bool
        Whether to write event files too, into ``folder / "tensorboard"``.

    Raises
    ------
    ImportError
        If TensorBoard is wanted and not installed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = TrainingLog(Path(folder), [])
    ...     log.add({"epoch": 0, "loss": 2.5})
    ...     log.close()
    ...     (Path(folder) / "log.csv").read_text().split()
    ['epoch,loss', '0,2.5']
    """

    def __init__(self, folder: Path | None, history: list[dict[str, Any]], tensorboard: bool = False) -> None:
        self.path = None if folder is None else folder / NAME
        self.board = None
        if tensorboard and folder is not None:
            self.board = _summary_writer(folder / "tensorboard", purge_step=len(history))
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        for row in history:
            self._append(row)

    def add(self, row: dict[str, Any]) -> None:
        """Write the row of an epoch.

        Parameters
        ----------
        row : dict
            Column name to number, with ``"epoch"``; the same names every time.
        """
        self._append(row)
        if self.board is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.board.add_scalar(name, value, row["epoch"])
            self.board.flush()

    def close(self) -> None:
        """Finish the event files."""
        if self.board is not None:
            self.board.close()

    def _append(self, row: dict[str, Any]) -> None:
        if self.path is None:
            return
        fresh = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)


def require_tensorboard() -> None:
    """Import TensorBoard, or say how to install it.

    Raises
    ------
    ImportError
        If it is not installed.

    Examples
    --------
    >>> try:
    ...     require_tensorboard()
    ... except ImportError as error:
    ...     assert "pip install tensorboard" in str(error)
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError("tensorboard=True needs TensorBoard: pip install tensorboard") from error


def _summary_writer(folder: Path, purge_step: int) -> Any:
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=purge_step or None)
