"""The log of a training run: one CSV row per epoch, and TensorBoard if wanted."""

import csv
from pathlib import Path
from typing import Any

from histograph.atomic import atomic_path

NAME = "log.csv"


class TrainingLog:
    """Keep the rows of epochs in ``log.csv``, and in TensorBoard event files.

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
        self.rows = list(history)
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        if history:
            self._write()

    def add(self, row: dict[str, Any]) -> None:
        """Write the row of an epoch.

        Parameters
        ----------
        row : dict
            Column name to number, with ``"epoch"``; the same names every time.
        """
        self.rows.append(row)
        self._write()
        if self.board is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.board.add_scalar(name, value, row["epoch"])
            self.board.flush()

    def close(self) -> None:
        """Finish the event files."""
        if self.board is not None:
            self.board.close()

    def _write(self) -> None:
        """Write all rows anew, so that another run in this folder leaves none of its own between them."""
        if self.path is None:
            return
        with atomic_path(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


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
