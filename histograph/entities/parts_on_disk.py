"""Finished tiles of a long search, kept on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ..atomic import atomic_path

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask

_ABOUT = "about.json"
_FIELDS, _FIELD_PX = 6, 32  # fields along each side of a slide that tell it from another, and their side

_TRIES = 5  # to make a folder that other runs remove as soon as it is empty
_DONE: ContextVar[list[KeptParts] | None] = ContextVar("_DONE", default=None)


@contextmanager
def kept_until_written() -> Iterator[None]:
    """Keep the tiles of the searches in this block until the block ends well, and not only until all are found.

    What is found may still fail to be written; a second run then has it at once.

    Examples
    --------
    >>> with kept_until_written():
    ...     pass  # nuclei(slide, resume="folder"), and write them
    """
    done: list[KeptParts] = []
    token = _DONE.set(done)
    try:
        yield
    finally:
        _DONE.reset(token)
    for parts in done:
        parts.remove()


@dataclass(frozen=True)
class KeptParts:
    """A folder with the finished tiles of one slide and one set of settings.

    Parameters
    ----------
    folder : Path
        Holds `about.json`, which says what the tiles were made with, and one file a tile.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     parts = KeptParts.open(folder, "a", {"threshold": 0.3})
    ...     first = parts.get("0-0", lambda: {"peak": np.arange(3)})
    ...     again = parts.get("0-0", dict)
    ...     parts.remove()
    >>> again
    {'peak': array([0, 1, 2])}
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | os.PathLike[str], slide_id: str, about: Mapping[str, Any]) -> KeptParts:
        """Open the tiles of a slide, or begin.

        Parameters
        ----------
        folder : str or os.PathLike
            Holds a folder for each slide, named after its id; made if missing.
        slide_id : str
            Name of the slide.
        about : mapping
            All that decides what a tile holds, as JSON data.

        Returns
        -------
        KeptParts

        Raises
        ------
        ValueError
            If the tiles that are there were made with something else, the message says with what; or it is not known.
        OSError
            If the folder cannot be made.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = KeptParts.open(folder, "a", {"threshold": 0.3})
        ...     KeptParts.open(folder, "a", {"threshold": 0.4})
        Traceback (most recent call last):
        ...
        ValueError: resume: ...a.nuclei holds tiles ... made with threshold 0.3, now 0.4; ...
        """
        own = Path(folder) / f"{quote(slide_id, safe=' ')}.nuclei"
        try:
            _make(own)
        except OSError as error:
            raise OSError(
                error.errno, f"resume: cannot make this folder: {error.strerror}", str(own)
            ) from error
        text = json.dumps(about, sort_keys=True, indent=1)
        path = own / _ABOUT
        if path.exists():
            _compare(_known(path), json.loads(text), own)
        elif any(own.glob("tile-*.npz")):
            raise ValueError(
                f"resume: {own} holds tiles but no {_ABOUT}, so that nobody knows what they were made with; delete it "
                "to begin anew"
            )
        else:
            with atomic_path(path) as part:
                part.write_text(text)
        return cls(own)

    def get(self, name: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Return a tile that is kept, or make it and keep it; several threads may ask for different ones.

        Parameters
        ----------
        name : str
            Name of the tile.
        make : callable
            Makes its arrays.

        Returns
        -------
        dict of str to ndarray

        Raises
        ------
        ValueError
            If the file of the tile is damaged.
        OSError
            If it cannot be written; FileNotFoundError if the folder is gone, which another process removes when it has
            found all nuclei of the same slide.
        """
        path = self.folder / f"tile-{name}.npz"
        if path.exists():
            try:
                with path.open("rb") as handle, np.load(handle, allow_pickle=False) as kept:
                    return {key: kept[key] for key in kept.files}
            except (ValueError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(
                    f"resume: {path} is damaged ({error}); delete it and run again: the tile is made anew"
                ) from error
        arrays = make()
        try:
            with atomic_path(path) as part, part.open("wb") as target:
                np.savez(target, **arrays)  # type: ignore[arg-type]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"resume: {self.folder} has been removed while tiles were written to it; if another process works on "
                "the same slide with the same folder, give each its own"
            ) from error
        return arrays

    def remove(self) -> None:
        """Delete the tiles, once what they were for is done, and what a killed run left of a file.

        In a block of `kept_until_written` they are deleted at its end.
        """
        done = _DONE.get()
        if done is not None:
            done.append(self)
            return
        for pattern in ("tile-*.npz", ".tile-*.tmp", f".{_ABOUT}.*.tmp", _ABOUT):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # what is not ours stays; and another process may have removed it
            self.folder.rmdir()


def _make(folder: Path) -> None:
    """Make a folder, also while other runs remove the one above it as soon as that is empty."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


def keep_parts(
    folder: str | os.PathLike[str] | None, slide: Slide, mask: TissueMask | None, about: Mapping[str, Any]
) -> KeptParts | None:
    """Open the finished tiles of a slide; None if none are to be kept.

    Parameters
    ----------
    folder : str, os.PathLike or None
        As of `KeptParts.open`.
    slide : Slide
        The slide; known again by its id, its size, and pixels of 36 places.
    mask : TissueMask, optional
        Where is searched.
    about : mapping
        The settings.

    Returns
    -------
    KeptParts or None

    Raises
    ------
    ValueError, OSError
        As of `KeptParts.open`.

    Examples
    --------
    >>> keep_parts(None, None, None, {}) is None
    True
    """
    if folder is None:
        return None
    masked = None
    if mask is not None:
        masked = hashlib.sha256(np.packbits(mask.mask).tobytes()).hexdigest()[:16]
    about = {
        **about,
        "mask": None if mask is None else [list(mask.mask.shape), np.asarray(mask.mpp).tolist(), masked],
        "slide": slide.slide_id,
        "slide size": [int(side) for side in slide.dimensions],
        "slide mpp": [float(side) for side in slide.mpp],
        "slide bytes": None if slide.path is None else slide.path.stat().st_size,
        "slide pixels": _fingerprint(slide),
        "histograph": version("histograph"),
    }
    return KeptParts.open(folder, slide.slide_id, about)


def _fingerprint(slide: Slide) -> str:
    """Hash small fields spread over the slide, a few tiles' worth of reading whatever its size."""
    width, height = slide.size_um
    mpp = float(np.mean(slide.mpp))
    side = _FIELD_PX * mpp
    digest = hashlib.sha256()
    for y in np.linspace(0, max(height - side, 0), _FIELDS):
        for x in np.linspace(0, max(width - side, 0), _FIELDS):
            digest.update(slide.read_region(float(x), float(y), side, side, mpp).tobytes())
    return digest.hexdigest()[:16]


def _known(path: Path) -> dict[str, Any]:
    """Read what tiles were made with."""
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        raise ValueError(
            f"resume: {path} is damaged ({found}); delete the folder {path.parent} to begin anew"
        )
    return found


def _compare(kept: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise an error that names what differs."""
    names = [name for name in {**kept, **now} if kept.get(name) != now.get(name)]
    if names:
        told = [f"{name} {kept.get(name)!r}, now {now.get(name)!r}" for name in names]
        raise ValueError(
            f"resume: {folder} holds tiles of a run that was stopped, made with {'; '.join(told)}; give the same "
            "again to go on, give another folder, or delete this one to begin anew"
        )
