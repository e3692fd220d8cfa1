"""A file is written whole or not at all."""

import os

import pytest

from histograph.atomic import atomic_path


def test_new_file_appears_with_its_content(tmp_path):
    with atomic_path(tmp_path / "a") as part:
        part.write_text("whole")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "whole"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_old_file_stays_when_writing_fails(error, tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(error), atomic_path(tmp_path / "a") as part:
        part.write_text("half")
        raise error
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_path(tmp_path / "nowhere" / "a"):
        pass


def test_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="folder"), atomic_path(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions_are_those_of_the_umask(tmp_path):
    with atomic_path(tmp_path / "a") as part:
        part.unlink()
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))  # as some writers make their files
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
