"""Sorting that is killed, or meets full disks and odd files, loses nothing."""

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from sorted_files import (
    ALL,
    DISKS,
    LABELS,
    between_file_systems,
    contents,
    each_way,
    files,
    photos,
    tree,
)

from skdeepcluster.sorting import _journal, _transfer, sort_into_folders, undo_sorting
from skdeepcluster.sorting._journal import Journal

__all__ = ["photos"]
# -- full, read-only, gone -------------------------------------------------------------


@pytest.mark.parametrize("how", ["copy", "move"])
def test_a_full_disk(photos, tmp_path, monkeypatch, how):
    monkeypatch.setattr(os, "link", between_file_systems)
    before, dest = tree(tmp_path), tmp_path / "sorted"
    copy = shutil.copyfileobj

    def full(source, target, *args):
        if source.name.endswith("b/0.jpg"):
            target.write(b"hal")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, target, *args)

    monkeypatch.setattr(shutil, "copyfileobj", full)
    match = (
        r"'.*b/0\.jpg' cannot be (copied|moved) to '.*00/0 \(2\)\.jpg' \(No space left "
        r"on device\)\. Before that, 3 of 6 files were \1\. Mend the cause and call "
        r"again to go on, or call undo_sorting\('.*sorted'\)\."
    )
    with pytest.raises(OSError, match=match) as caught:
        sort_into_folders(photos, LABELS, dest, how)
    assert caught.value.errno == errno.ENOSPC
    assert contents(dest) == {b"a/0.jpg", b"a/1.jpg", b"a/2.jpg"}
    assert contents(tmp_path) == contents(tmp_path / "photos") | contents(dest)
    assert os.path.exists(photos[0]) == (how == "copy")
    assert os.path.exists(photos[3])
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    if how == "move":
        sort_into_folders(photos, LABELS, dest, how)
    undo_sorting(dest)
    assert tree(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KB, of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("how", ["copy", "move"])
def test_a_disk_that_is_full_indeed(small_disk, tmp_path, how):
    paths = files(tmp_path, *(f"photos/{i}.jpg" for i in range(20)))
    for path in paths:
        Path(path).write_bytes(os.urandom(50_000))
    before = tree(tmp_path / "photos")
    with pytest.raises(OSError, match="No space left on device") as caught:
        sort_into_folders(paths, [0] * 20, small_disk, how)
    assert caught.value.errno == errno.ENOSPC
    assert 5 <= len(contents(small_disk)) < 20
    assert len(contents(tmp_path)) == 20
    undo_sorting(small_disk)
    assert tree(tmp_path / "photos") == before
    assert list(small_disk.iterdir()) == []
    (small_disk / "own").write_bytes(bytes(2**19 - 8192))
    with contextlib.suppress(OSError), open(small_disk / "more", "wb", 0) as file:
        while True:
            file.write(bytes(512))
    with pytest.raises(OSError, match=r"The sorting cannot go on \(No space left"):
        sort_into_folders(paths, [0] * 20, small_disk, "symlink")
    (small_disk / "own").unlink()
    (small_disk / "more").unlink()
    assert len(sort_into_folders(paths, [0] * 20, small_disk, "symlink")) == 20
    undo_sorting(small_disk)
    with pytest.raises(OSError, match="hard links stay within a file system; pass"):
        sort_into_folders(paths, [0] * 20, small_disk, "hardlink")
    undo_sorting(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="Nothing can be written in dest=.*Read-only"):
        sort_into_folders(paths, [0] * 20, small_disk, how)
    assert tree(tmp_path / "photos") == before


def test_a_move_to_another_file_system(tmp_path):
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    paths = files(tmp_path, "a/x.jpg", "b/x.jpg")
    os.chmod(paths[0], 0o440)
    before = tree(tmp_path)
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        places = sort_into_folders(paths, [0, 0], f"{folder}/sorted", "move")
        assert contents(folder) == {b"a/x.jpg", b"b/x.jpg"}
        assert contents(tmp_path) == set()
        assert os.stat(places[0]).st_mode & 0o777 == 0o440
        assert os.stat(places[1]).st_mtime_ns == before["b/x.jpg"][1]
        undo_sorting(f"{folder}/sorted")
        assert os.listdir(folder) == []
    assert tree(tmp_path) == before


def test_a_disk_that_writes_too_little(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "copyfileobj", lambda source, target, *args: target.write(b"a/0")
    )
    with pytest.raises(OSError, match=r"a/0\.jpg' cannot .*it changed while it was"):
        sort_into_folders(photos, LABELS, tmp_path / "sorted")
    assert contents(tmp_path / "sorted") == set()


def test_a_file_that_changes_before_it_is_removed(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", between_file_systems)
    sync_all = _transfer.sync_all

    def edit(paths):
        Path(photos[1]).write_text("edited")
        sync_all(paths)

    monkeypatch.setattr(_transfer, "sync_all", edit)
    match = r"cannot go on \('.*a/1\.jpg': it changed while it was copied\)"
    with pytest.raises(OSError, match=match):
        sort_into_folders(photos, LABELS, tmp_path / "sorted", "move")
    assert Path(photos[1]).read_text() == "edited"
    assert len(contents(tmp_path / "sorted")) == 5
    monkeypatch.setattr(_transfer, "sync_all", sync_all)
    places = sort_into_folders(photos, LABELS, tmp_path / "sorted", "move")
    assert Path(places[1]).read_text() == "edited"


@pytest.mark.parametrize("disk", ["one", "two"])
def test_a_folder_that_keeps_its_files(photos, tmp_path, monkeypatch, disk):
    monkeypatch.setattr(os, "link", DISKS[disk])
    before, unlink = tree(tmp_path / "photos"), os.unlink

    def refuse(path, **options):
        if path == photos[1]:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(
        PermissionError, match=r"a/1\.jpg.*Permission denied\)"
    ) as caught:
        sort_into_folders(photos, LABELS, tmp_path / "sorted", "move")
    n_moved = 1 if disk == "one" else 5
    assert f"Before that, {n_moved} of 6 files were moved" in str(caught.value)
    assert len(contents(tmp_path / "sorted")) == n_moved
    assert len(contents(tmp_path / "photos")) == 6 - n_moved
    undo_sorting(tmp_path / "sorted")
    assert tree(tmp_path / "photos") == before and not (tmp_path / "sorted").exists()


@each_way
def test_a_file_that_vanishes_meanwhile(photos, tmp_path, monkeypatch, how):
    plan = Journal.plan

    def vanish(journal, folders, entries):
        plan(journal, folders, entries)
        os.remove(photos[3])

    monkeypatch.setattr(Journal, "plan", vanish)
    match = r"b/0\.jpg' cannot be .*\(it is no longer there\)\. Before that, 3 of 6"
    if how == "symlink":
        assert len(sort_into_folders(photos, LABELS, tmp_path / "sorted", how)) == 6
    else:
        with pytest.raises(FileNotFoundError, match=match):
            sort_into_folders(photos, LABELS, tmp_path / "sorted", how)
        assert len(contents(tmp_path / "sorted")) == 3
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"b/0\.jpg': does not exist"):
        sort_into_folders(photos, LABELS, tmp_path / "sorted", how)


@each_way
def test_a_name_that_another_process_takes_first(photos, tmp_path, monkeypatch, how):
    plan, before = Journal.plan, tree(tmp_path)

    def race(journal, folders, entries):
        plan(journal, folders, entries)
        if folders:
            files(tmp_path / "sorted", "00/0.jpg", "00/0 (3).jpg")

    monkeypatch.setattr(Journal, "plan", race)
    places = sort_into_folders(photos, LABELS, tmp_path / "sorted", how)
    assert [os.path.basename(place) for place in places[::3]] == [
        "0 (4).jpg",
        "0 (2).jpg",
    ]
    assert (tmp_path / "sorted/00/0.jpg").read_text() == "00/0.jpg"
    assert (tmp_path / "sorted/00/0 (3).jpg").read_text() == "00/0 (3).jpg"
    assert undo_sorting(tmp_path / "sorted") == 6
    for place in ("00/0.jpg", "00/0 (3).jpg"):
        (tmp_path / "sorted" / place).unlink()
    (tmp_path / "sorted/00").rmdir()
    assert {k: v for k, v in tree(tmp_path).items() if k != "sorted"} == before


# -- files and folders of other kinds --------------------------------------------------


@each_way
def test_files_that_cannot_be_sorted_are_all_named(photos, tmp_path, how):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    bad = ["pipe.jpg", "nowhere.jpg", "loop.jpg", "photos", "gone.jpg", "a\0b.jpg"]
    paths = photos + [str(tmp_path / name) for name in bad]
    before = tree(tmp_path)
    with pytest.raises(ValueError) as caught:
        sort_into_folders(paths, [0] * 12, tmp_path / "sorted", how)
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 of 12 files cannot be sorted, and none was touched:"
    assert lines[1].endswith("pipe.jpg': is no regular file")
    moved = "is a link; move what it leads to, or copy"
    assert lines[2].endswith(moved if how == "move" else "is a link to nothing")
    assert lines[3].endswith(moved if how == "move" else "symbolic links)")
    assert lines[4].endswith("photos': is a folder")
    assert lines[5].endswith("gone.jpg': does not exist")
    assert "cannot be looked at" in lines[6] and "null" in lines[6]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_a_link_to_a_file(photos, tmp_path, how):
    link = tmp_path / "link.jpg"
    link.symlink_to("photos/a/0.jpg")
    before = tree(tmp_path)
    (place,) = sort_into_folders([link], [0], tmp_path / "sorted", how)
    assert Path(place).read_text() == "a/0.jpg"
    assert os.path.islink(place) == (how == "symlink")
    assert sort_into_folders([link], [0], tmp_path / "sorted", how) == [place]
    assert undo_sorting(tmp_path / "sorted") == 1
    assert tree(tmp_path) == before


def test_a_folder_into_which_nothing_can_be_sorted(photos, tmp_path, monkeypatch):
    dest, before = tmp_path / "sorted", tree(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"dest='.*0\.jpg' is a file\. Pass a"):
        sort_into_folders(photos, LABELS, photos[0])
    with pytest.raises(ValueError, match=r"dest is empty\. Pass a folder"):
        sort_into_folders(photos, LABELS, "")
    with pytest.raises(OSError, match=r"none can be made there \(Not a directory\)"):
        sort_into_folders(photos, LABELS, f"{photos[0]}/sorted")
    assert tree(tmp_path) == before
    dest.mkdir()
    (dest / "00").symlink_to(tmp_path / "photos")
    with pytest.raises(ValueError, match="00' is a link, and files would be sorted to"):
        sort_into_folders(photos, LABELS, dest)
    (dest / "00").unlink()
    (dest / "00").write_text("")
    with pytest.raises(NotADirectoryError, match="00' is a file, where a folder is"):
        sort_into_folders(photos, LABELS, dest)
    (dest / "00").unlink()
    (dest / "sorting.jsonl").write_text("{}\n")
    with pytest.raises(
        ValueError, match="is no journal of a sorting, or damaged: line"
    ):
        sort_into_folders(photos, LABELS, dest)
    assert list(dest.iterdir()) == [dest / "sorting.jsonl"]


def test_files_that_lie_in_their_folder(photos, tmp_path):
    places = sort_into_folders(photos, LABELS, tmp_path / "sorted", "move")
    after = tree(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "sorted")
    for dest in (tmp_path / "sorted", tmp_path / "link"):
        with pytest.raises(ValueError, match="6 of 6 .*\n.*lies in its folder already"):
            sort_into_folders(places, LABELS, dest, "move")
    (tmp_path / "link").unlink()
    assert tree(tmp_path) == after
    again = sort_into_folders(places, [2] * 6, tmp_path / "sorted", "move")
    assert undo_sorting(tmp_path / "sorted") == 12
    assert all(map(os.path.exists, photos)) and not any(map(os.path.exists, again))


def test_a_folder_within_the_photographs(photos, tmp_path):
    before = tree(tmp_path)
    places = sort_into_folders(photos, LABELS, tmp_path / "photos", "move")
    assert places[0] == str(tmp_path / "photos/00/0.jpg")
    undo_sorting(tmp_path / "photos")
    assert tree(tmp_path) == before


def test_two_processes_do_not_sort_into_one_folder(photos, tmp_path):
    pytest.importorskip("fcntl")
    sort_into_folders(photos[:3], LABELS[:3], tmp_path / "sorted")
    with Journal(tmp_path / "sorted"):
        for call in (
            lambda: sort_into_folders(photos, LABELS, tmp_path / "sorted"),
            lambda: undo_sorting(tmp_path / "sorted"),
        ):
            with pytest.raises(OSError, match="Another process sorts files into '"):
                call()
    assert len(sort_into_folders(photos, LABELS, tmp_path / "sorted")) == 6


# -- undone ----------------------------------------------------------------------------


def test_what_cannot_be_put_back_is_named(photos, tmp_path):
    dest = tmp_path / "sorted"
    places = sort_into_folders(photos, LABELS, dest, "move")
    files(tmp_path / "photos", "a/0.jpg")
    Path(photos[0]).write_text("new")
    os.unlink(places[1])
    Path(places[2]).write_text("edited")
    match = (
        r"2 files in .* could not be undone, 4 could:\n"
        r"  '00/0\.jpg': it is not the same as '.*a/0\.jpg'\n"
        r"  '01/1\.jpg': it is gone, and so is '.*a/1\.jpg'\n"
        r"Remove what is in the way and call again, or delete 'sorting\.jsonl' there"
    )
    with pytest.raises(OSError, match=match):
        undo_sorting(dest)
    assert Path(photos[0]).read_text() == "new"
    assert Path(photos[2]).read_text() == "edited"
    assert Path(places[0]).read_text() == "a/0.jpg"
    assert sorted(os.listdir(dest)) == ["00", "sorting.jsonl"]
    os.unlink(photos[0])
    with pytest.raises(OSError, match=r"1 file in .* could not be undone, 1 could:"):
        undo_sorting(dest)
    assert Path(photos[0]).read_text() == "a/0.jpg"


@pytest.mark.parametrize("how", ["copy", "hardlink"])
def test_the_last_copy_is_kept(photos, tmp_path, how):
    places = sort_into_folders(photos, LABELS, tmp_path / "sorted", how)
    os.unlink(photos[0])
    match = r"1 file .*, 5 could:\n  '00/0.jpg': '.*a/0.jpg' is gone, and this is"
    with pytest.raises(OSError, match=match):
        undo_sorting(tmp_path / "sorted")
    assert Path(places[0]).read_text() == "a/0.jpg"


def test_folders_that_hold_more_are_kept(photos, tmp_path):
    dest = tmp_path / "sorted"
    sort_into_folders(photos, LABELS, dest)
    files(dest, "00/own.jpg")
    assert undo_sorting(dest) == 6
    assert sorted(tree(dest)) == ["00", "00/own.jpg"]


def test_folders_that_were_removed_or_moved(photos, tmp_path, monkeypatch):
    before, dest = tree(tmp_path), tmp_path / "sorted"
    sort_into_folders(photos, LABELS, dest, "move")
    shutil.rmtree(tmp_path / "photos")
    dest.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    undo_sorting("elsewhere")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"from": "/x", "to": ["..", "y"], "bytes": 1}', r"'\.\.' is no plain name"),
        ('{"from": "/x", "to": ["00", "a/b"], "bytes": 1}', "'a/b' is no plain name"),
        ('{"from": "x", "to": ["00", "y"], "bytes": 1}', "a path is not absolute"),
        ('{"folder": "/etc"}', "is no plain name"),
        ('{"from": "/x"}', "line 5 cannot be read"),
        ("[]", "line 5 cannot be read"),
        ("\x00", "line 5 cannot be read"),
    ],
)
def test_a_journal_that_was_changed(photos, tmp_path, line, match):
    sort_into_folders(photos[:2], [0, 0], tmp_path / "sorted")
    with open(tmp_path / "sorted" / "sorting.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=f"damaged: line 5 .*{match}|{match}"):
        undo_sorting(tmp_path / "sorted")
    assert (tmp_path / "sorted/00/0.jpg").exists()


def test_every_way_is_tested():
    from skdeepcluster.sorting._sort import VERBS

    assert list(VERBS) == ALL and _journal.FORMAT == 1
