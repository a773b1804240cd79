"""Every writer leaves the old file or the new one: killed, on a full disk, wherever it writes."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.whole_writers import KILOBYTE, WRITERS, kill
from unifreeze import _whole_files
from unifreeze._whole_files import _UNFINISHED, whole_file, write_text, writing_hint
from unifreeze.errors import UnifreezeError


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_is_killed_leaves_a_whole_file(name, tmp_path):
    started, _ = kill(name, tmp_path, 6)
    assert started >= 6


@contextmanager
def small_files():
    """Limit the size of files, as a full disk does; the test's own report is such a file too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30 * KILOBYTE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_without_room_keeps_the_old_file(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](path, 2 * KILOBYTE)
    before = path.read_bytes()
    reason = r"File too large(.|\n)*hint: the system limits"
    with pytest.raises(UnifreezeError, match=reason), small_files():
        WRITERS[name](path, 80 * KILOBYTE)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named(name, tmp_path, monkeypatch):
    path = tmp_path / name
    WRITERS[name](path, 2 * KILOBYTE)
    before = path.read_bytes()

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_whole_files.os, "fsync", full)
    with pytest.raises(UnifreezeError, match=r"No space left(.|\n)*hint: make room"):
        WRITERS[name](path, 80 * KILOBYTE)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_may_not_be_written_is_named(name, tmp_path, monkeypatch):
    path = tmp_path / name
    WRITERS[name](path, KILOBYTE)

    def refused(*_):  # permissions do not stop root, who runs tests in containers
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(_whole_files.os, "open", refused)
    with pytest.raises(UnifreezeError, match="Permission denied"):
        WRITERS[name](path, KILOBYTE)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_permissions_links_and_the_longest_names_are_kept(name, tmp_path):
    suffix = name[name.index(".") :]
    real = tmp_path / ("ü" * ((250 - len(suffix)) // 2) + suffix)
    WRITERS[name](real, KILOBYTE)
    fresh = stat.S_IMODE(real.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    assert fresh == 0o666 & ~umask
    real.chmod(0o600)
    link = tmp_path / f"link{suffix}"
    link.symlink_to(real.name)
    WRITERS[name](link, 2 * KILOBYTE)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert real.stat().st_size > KILOBYTE
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_to_nothing_gets_its_file(tmp_path):
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "file").read_text() == "text"
    assert (tmp_path / "link").is_symlink()


def test_what_another_writer_is_writing_is_not_a_left_over(tmp_path):
    (tmp_path / f"{_UNFINISHED}1.dead").write_bytes(b"left by a writer that was killed")
    with whole_file(tmp_path / "slow") as slow:
        slow.write(b"slow")
        write_text(tmp_path / "quick", "quick")
        left = [file.name for file in tmp_path.iterdir() if file.name.startswith(_UNFINISHED)]
        assert len(left) == 1, "the file that is being written, and not the left-over"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["quick", "slow"]
    assert (tmp_path / "slow").read_bytes() == b"slow"


def test_pipes_and_devices_are_written_to_as_they_are(tmp_path):
    write_text(Path(os.devnull), "text")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    with pytest.raises(OSError, match="not an ordinary file"), whole_file(Path(os.devnull)):
        pass


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EFBIG, errno.ENOENT, errno.EACCES, errno.ELOOP, None]
)
def test_every_reason_has_a_hint(number):
    assert writing_hint(OSError(number, "why") if number else ValueError("why"))
