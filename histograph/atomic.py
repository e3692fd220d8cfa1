"""Write a file whole or not at all: a temporary name in the same folder, then a rename."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`, which becomes `path` when the block ends well, or is removed.

    The rename is atomic on one file system, so that a reader sees the old file or the new one, never a part.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write. Its folder must exist.

    Yields
    ------
    Path
        An empty file to write to, in the same folder.

    Raises
    ------
    OSError
        The folder is missing or may not be written to; the message names `path`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(Path(folder) / "note.txt") as part:
    ...         _ = part.write_text("whole")
    ...     [item.name for item in Path(folder).iterdir()]
    ['note.txt']
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder, expected a file name")
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        part.touch(exist_ok=False)
        mode = (
            part.stat().st_mode
        )  # what the user's umask grants; some writers make files of their own, private ones
    except OSError as error:  # the errno picks the subclass: PermissionError, FileNotFoundError, …
        raise OSError(error.errno, f"cannot write here: {error.strerror}", str(path)) from error
    try:
        yield part
        with part.open("r+b") as handle:  # the content must be on disk before the name is
            os.fsync(handle.fileno())
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
