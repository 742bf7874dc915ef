"""One file copied, linked or moved, to a name that nothing has yet.

No function here replaces a file, and none leaves a half-written one under the name that
was asked for, whenever the process ends.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# what a file system answers that has no hard links, or none to files of others
NO_LINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
COULD_NOT_SET = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP}

BATCH = 512  # files that are brought to the disk at once
THREADS = 16  # each waits for the disk most of the time
CHANGED = "it changed while it was copied"


def sync(path: str | Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if os.name != "posix" and os.path.isdir(path):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(paths: list[str]) -> None:
    """Bring files and their names to the disk, many at a time: it waits for each."""
    if paths:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(sync, paths))
            list(pool.map(sync, {os.path.dirname(path) for path in paths}))


def rename_new(source: str, target: str) -> None:
    """Rename a file within a file system.

    Parameters
    ----------
    source, target : str

    Raises
    ------
    FileExistsError
        If something has the name already.
    OSError
        EXDEV between file systems.
    """
    if os.name == "nt":  # where this refuses to replace
        os.rename(source, target)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # what is replaced is the empty file that was made here, and no other
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(source, target)
        except OSError:  # and nothing else: after an interrupt it may be done
            os.unlink(target)
            raise
    else:
        _remove_source(source, target)


def _remove_source(source: str, target: str) -> None:
    """Remove a file that has another name, or a copy, now; else remove that."""
    try:
        os.unlink(source)
    except FileNotFoundError:  # someone else did, and the target is all there is
        return
    except OSError:
        if os.path.lexists(source):
            os.unlink(target)
        raise


def copy_new(source: str, target: str, part: str) -> tuple[int, ...]:
    """Copy a file with its times and permissions.

    Parameters
    ----------
    source, target : str
        A link is followed.
    part : str
        Name that the file has while it is written, beside the target. What has it was
        left by a process that was killed.

    Returns
    -------
    version : tuple of int
        What changes if the source does.

    Raises
    ------
    FileExistsError
        If something has the name already.
    OSError
        If it cannot be copied, or changes meanwhile.
    """
    if os.path.lexists(target):  # saves the copying; rename_new is what refuses
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    try:
        before = os.stat(source)
        with open(source, "rb") as read, open(part, "xb") as written:
            shutil.copyfileobj(read, written, 2**20)
        version = _version(before)
        if _version(os.stat(source)) != version or (
            os.stat(part).st_size != before.st_size
        ):
            raise OSError(errno.EBUSY, CHANGED, source)
        os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
        try:
            shutil.copystat(source, part)
        except OSError as error:  # permissions that the file system does not have
            if error.errno not in COULD_NOT_SET:
                raise
        rename_new(part, target)
        return version
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


class Mover:
    """Moves files; between file systems, many at a time.

    There, a file is removed when its copy is on the disk. To wait for the disk once a
    file would take minutes for 50 000 of them.

    Attributes
    ----------
    n_left : int
        Files that stayed where they were, although they had been copied.
    """

    def __init__(self) -> None:
        self.n_left = 0
        self.copied: list[tuple[str, str, tuple[int, ...]]] = []

    def move(self, source: str, target: str, part: str) -> None:
        """Move a file, or copy it for :meth:`settle` to remove the source.

        Parameters
        ----------
        source, target : str
        part : str
            Name that a copy has while it is written, beside the target.

        Raises
        ------
        FileExistsError
            If something has the name already.
        OSError
            If it cannot be moved: then it is where it was.
        """
        try:
            rename_new(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self.copied.append((source, target, copy_new(source, target, part)))
            if len(self.copied) >= BATCH:
                self.settle()

    def settle(self) -> None:
        """Remove what was copied, when the copies are on the disk.

        Raises
        ------
        OSError
            If a file changed since it was copied, or cannot be removed: it stays, and
            its copy is removed.
        """
        copied, self.copied = self.copied, []
        try:
            sync_all([target for _, target, _ in copied])
        except OSError:
            self.n_left += len(copied)
            raise
        with ThreadPoolExecutor(THREADS) as pool:
            errors = [error for error in pool.map(_remove_copied, copied) if error]
        if errors:
            self.n_left += len(errors)
            raise errors[0]


def _remove_copied(copied: tuple[str, str, tuple[int, ...]]) -> OSError | None:
    """Remove a file that was copied, or its copy; return what is wrong."""
    source, target, version = copied
    try:
        if os.path.lexists(source) and _version(os.lstat(source)) != version:
            os.unlink(target)
            raise OSError(errno.EBUSY, CHANGED, source)
        _remove_source(source, target)
    except OSError as error:
        return error
    return None


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def same_content(source: str, target: str, trust_times: bool = False) -> bool:
    """Whether a file, or what a link leads to, is another file or has its bytes.

    Parameters
    ----------
    source : str
        A link is followed.
    target : str
        Not a link.
    trust_times : bool
        Whether files of one size and one time of change are the same, unread.
    """
    one, other = os.stat(source), os.lstat(target)
    if not stat.S_ISREG(one.st_mode) or not stat.S_ISREG(other.st_mode):
        return False
    if os.path.samestat(one, other):
        return True
    if one.st_size != other.st_size:
        return False
    if trust_times and one.st_mtime_ns == other.st_mtime_ns:
        return True
    filecmp.clear_cache()  # it would not see a change within the clock's resolution
    return filecmp.cmp(source, target, shallow=False)


def remove_twin(path: str, other: str) -> None:
    """Remove a file of which ``other`` has the bytes.

    Parameters
    ----------
    path, other : str
        Two names; of one file if that has both.

    Raises
    ------
    OSError
        If they are one name of one file, by two ways.
    """
    one, two = os.lstat(path), os.stat(other)
    if os.path.samestat(one, two) and one.st_nlink < 2:
        raise OSError(errno.EINVAL, f"it is the same file as {other!r}", path)
    os.unlink(path)
