"""Files to sort, and what can be told of them afterwards."""

import errno
import os
from pathlib import Path

import pytest

ALL = ["copy", "hardlink", "symlink", "move"]
each_way = pytest.mark.parametrize("how", ALL)
LABELS = [0, 1, -1, 0, 1, 1]


def tree(folder):
    """What each path below a folder is, times included."""
    found = {}
    for root, folders, names in os.walk(folder):
        for name in names + folders:
            path = Path(root, name)
            place = str(path.relative_to(folder))
            if path.is_symlink():
                found[place] = os.readlink(path)
            elif not path.is_file():
                found[place] = None
            else:
                found[place] = path.read_bytes(), path.stat().st_mtime_ns
    return found


def files(folder, *names):
    """Files that hold their names, of different ages; their paths."""
    paths = []
    for i, name in enumerate(names):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
        os.utime(path, ns=(10**18 + i, 10**18 + i))
        paths.append(str(path))
    return paths


@pytest.fixture
def photos(tmp_path):
    """Three files in each of two folders, of the same names."""
    return files(tmp_path / "photos", *(f"{d}/{i}.jpg" for d in "ab" for i in range(3)))


LINK = os.link


def contents(folder):
    """Bytes of the files below a folder, but for the journal."""
    return {
        found[0]
        for place, found in tree(folder).items()
        if isinstance(found, tuple) and not place.endswith((".jsonl", ".part"))
    } - {b""}  # which keeps the place of a file


def between_file_systems(source, target, **options):
    """Stands in for ``os.link`` where each folder is on a disk of its own."""
    if os.path.dirname(source) != os.path.dirname(target):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
    LINK(source, target, **options)


def without_links(source, target, **options):
    """Stands in for ``os.link`` on FAT."""
    raise OSError(errno.EPERM, os.strerror(errno.EPERM), source)


DISKS = {"one": os.link, "two": between_file_systems, "no links": without_links}
