"""Read a large JSON file piece by piece, and say where it is broken."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHUNK_BYTES = 1 << 20

#: A value that ends this close to what has been read may go on in what has not.
_TAIL = 16

_BLANK = " \t\r\n"


class JsonReader:
    """Walk through a JSON text without holding more of it than one value and a chunk.

    The caller asks for what it expects next: `members` of an object, `elements` of an array, or a whole `value`.

    Parameters
    ----------
    handle : binary file
        The text, UTF-8, with or without a byte order mark.
    name : str
        The file, for messages.

    Examples
    --------
    >>> import io
    >>> reader = JsonReader(io.BytesIO(b'{"unit": "px", "cells": [{"a": 1}, {"a": 2}]}'), "cells.json")
    >>> for key in reader.members():
    ...     print(key, [reader.value() for _ in reader.elements()] if key == "cells" else reader.value())
    unit px
    cells [{'a': 1}, {'a': 2}]
    """

    def __init__(self, handle: IO[bytes], name: str) -> None:
        self._handle, self._name = handle, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._text, self._at, self._done = "", 0, False
        self._lines, self._characters = 0, 0  # before the first character of the text that is held
        self._last_newline = -1  # character number of the last line break before it

    def error(self, problem: str, what: str = "") -> ValueError:
        """Return an error that names the file and the place that the reader has come to.

        Parameters
        ----------
        problem : str
            What is wrong, and what to do.
        what : str
            Which part of the file, for example "feature 3".

        Returns
        -------
        ValueError

        Examples
        --------
        >>> import io
        >>> JsonReader(io.BytesIO(b"[]"), "a.json").error("has no id", "feature 1")
        ValueError('a.json, feature 1 (line 1, character 1): has no id')
        """
        return self._error_at(self._at, problem, what)

    def _error_at(self, at: int, problem: str, what: str = "") -> ValueError:
        before = self._text[:at]
        line = self._lines + before.count("\n") + 1
        last = before.rfind("\n")
        column = at - last if last >= 0 else self._characters + at - self._last_newline
        place = f"line {line}, character {column}"
        return ValueError(
            f"{self._name}, {what} ({place}): {problem}" if what else f"{self._name}, {place}: {problem}"
        )

    def _fill(self) -> bool:
        """Drop what was read and read on, at least as much as is left; return whether there was more."""
        if self._done:
            return False
        dropped = self._text[: self._at]
        self._lines += dropped.count("\n")
        last = dropped.rfind("\n")
        if last >= 0:
            self._last_newline = self._characters + last
        self._characters += self._at
        self._text, self._at = self._text[self._at :], 0
        try:
            data = self._handle.read(max(CHUNK_BYTES, len(self._text)))
            new = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise self._error_at(len(self._text), f"is not UTF-8 text ({error.reason})") from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self._error_at(
                len(self._text), f"the compressed file is cut off or damaged ({error}); copy it again"
            ) from error
        self._done = not data
        self._text += new
        return bool(new) or self._fill()

    def peek(self) -> str:
        """Return the next character that is not blank, or "" at the end of the file.

        Examples
        --------
        >>> import io
        >>> JsonReader(io.BytesIO(b"  [1]"), "a.json").peek()
        '['
        """
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _BLANK:
                at += 1
            self._at = at
            if at < len(text):
                return text[at]
            if not self._fill():
                return ""

    def _take(self, expected: str, what: str) -> str:
        found = self.peek()
        if not found:
            raise self.error(f"the file ends here, expected {what}; it is cut off")
        if found not in expected:
            raise self.error(f"expected {what}, found {found!r}")
        self._at += 1
        return found

    def value(self) -> Any:
        """Return the next value whole, as `json.loads` would.

        Raises
        ------
        ValueError
            The text is not JSON, or ends in the middle of the value.

        Examples
        --------
        >>> import io
        >>> JsonReader(io.BytesIO(b'[1, {"a": null}]'), "a.json").value()
        [1, {'a': None}]
        """
        if not self.peek():
            raise self.error("the file ends here, expected a value; it is cut off")
        while True:
            try:
                found, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                open_ended = (
                    error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _TAIL
                )
                if open_ended and not self._done:
                    self._fill()
                    continue
                problem = "the file ends here; it is cut off" if open_ended else f"not JSON: {error.msg}"
                raise self._error_at(min(error.pos, len(self._text)), problem) from None
            except RecursionError:
                raise self.error("brackets are nested too deeply to be read") from None
            if end >= len(self._text) - _TAIL and not isinstance(found, dict | list | str):
                if not self._done:
                    self._fill()  # a number may go on
                    continue
                if self._text[end : end + 1] and self._text[end] in ".eE":
                    raise self._error_at(end, "the file ends here; it is cut off")
            self._at = end
            return found

    def elements(self) -> Iterator[int]:
        """Go through an array; at each step the caller reads the element that comes next.

        Yields
        ------
        int
            Number of the element, from 0.

        Examples
        --------
        >>> import io
        >>> reader = JsonReader(io.BytesIO(b"[3, 4]"), "a.json")
        >>> [(number, reader.value()) for number in reader.elements()]
        [(0, 3), (1, 4)]
        """
        self._take("[", "'[', the start of an array")
        if self.peek() == "]":
            self._at += 1
            return
        number = 0
        while True:
            yield number
            if self._take(",]", "',' or ']' after an element") == "]":
                return
            number += 1

    def members(self) -> Iterator[str]:
        """Go through an object; at each step the caller reads the value that comes next.

        Yields
        ------
        str
            The key.

        Examples
        --------
        >>> import io
        >>> reader = JsonReader(io.BytesIO(b'{"a": 3}'), "a.json")
        >>> [(key, reader.value()) for key in reader.members()]
        [('a', 3)]
        """
        self._take("{", "'{', the start of an object")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() not in ('"', ""):
                raise self.error(f"expected a key in quotes, found {self.peek()!r}")
            key = self.value()
            self._take(":", "':' after a key")
            yield key
            if self._take(",}", "',' or '}' after a value") == "}":
                return

    def end(self) -> None:
        """Check that nothing comes after the last value.

        Raises
        ------
        ValueError
            There is more.

        Examples
        --------
        >>> import io
        >>> JsonReader(io.BytesIO(b"  "), "a.json").end()
        """
        if self.peek():
            raise self.error(f"expected the end of the file, found {self.peek()!r}")


@contextmanager
def open_json(path: str | os.PathLike[str]) -> Iterator[JsonReader]:
    """Open a JSON file, compressed with gzip or not (told by its first bytes).

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Yields
    ------
    JsonReader

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is a folder, empty, or not text.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.json").write_text("[1]")
    ...     with open_json(Path(folder) / "a.json") as reader:
    ...         print(reader.value())
    [1]
    """
    path = check_file(path)
    with path.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        source: Any = gzip.GzipFile(fileobj=handle) if packed else handle
        reader = JsonReader(source, str(path))
        if not reader.peek():
            raise ValueError(f"{path} is empty; expected JSON")
        yield reader


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is there and not empty.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is a folder, or has no byte.

    Examples
    --------
    >>> check_file("nowhere.json")
    Traceback (most recent call last):
    ...
    FileNotFoundError: nowhere.json: no such file
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    return path
