"""A sorting that is killed at any point can be gone on with, and undone."""

import json
import os
import signal
import sys
import time

import numpy as np
import pytest
from sorted_files import (
    DISKS,
    LABELS,
    LINK,
    between_file_systems,
    contents,
    files,
    photos,
    tree,
)

from skdeepcluster.sorting import _transfer, sort_into_folders, undo_sorting

__all__ = ["photos"]
KILLS = int(os.environ.get("KILLS", 2))  # moves killed on each kind of disk
CHANGES = {"open", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rename"}


def killed(function, *args, after=np.inf, seconds=None):
    """Run a function in a process that is killed after so many changes of files.

    With ``seconds`` it is killed then, wherever it stands. Returns whether it came so
    far.
    """
    child = os.fork()
    if not child:
        count = 0

        def kill(event, args):
            nonlocal count
            if event in CHANGES or event == "os.rmdir":
                count += 1
                if count > after:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(kill)
            function(*args)
        finally:
            os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def many(folder, n):
    """Files of 10 names in each of some folders, and their labels."""
    names = [f"photos/{i // 10}/{i % 10}.jpg" for i in range(n)]
    return files(folder, *names), np.arange(n) // 3 % 5 - 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("seed", range(KILLS))
@pytest.mark.parametrize("disk", DISKS)
def test_a_move_that_is_killed(tmp_path, monkeypatch, disk, seed):
    monkeypatch.setattr(os, "link", DISKS[disk])
    monkeypatch.setattr(os, "fsync", lambda file: None)  # a kill is no power cut
    monkeypatch.setattr(_transfer, "BATCH", 16)
    rng = np.random.default_rng(seed)
    paths, labels = many(tmp_path, 200)
    before, bytes_before = tree(tmp_path), contents(tmp_path)
    dest = tmp_path / "photos" / "sorted"
    sort = (sort_into_folders, paths, labels, dest, "move")
    steps = {"one": 410, "two": 810, "no links": 410}[disk]
    for _ in range(2):  # killed, then killed again while it goes on
        assert killed(*sort, after=rng.integers(30, steps // 2))
        assert contents(tmp_path) == bytes_before
    if seed % 2:
        places = sort_into_folders(*sort[1:])
        assert contents(dest) == bytes_before
        assert len(set(places)) == 200 and not any(map(os.path.exists, paths))
    if killed(undo_sorting, dest, after=rng.integers(steps // 4)):
        assert contents(tmp_path) == bytes_before
        undo_sorting(dest)
    assert tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_move_that_is_killed_at_any_moment(tmp_path, monkeypatch, seed):
    if seed % 2:
        monkeypatch.setattr(os, "link", between_file_systems)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    rng = np.random.default_rng(seed)
    paths, labels = many(tmp_path, 200)
    before, bytes_before = tree(tmp_path), contents(tmp_path)
    dest = tmp_path / "sorted"
    for _ in range(3):
        seconds = rng.uniform(0, 0.1)
        killed(sort_into_folders, paths, labels, dest, "move", seconds=seconds)
        assert contents(tmp_path) == bytes_before
        if (dest / "sorting.jsonl").exists():
            killed(undo_sorting, dest, seconds=rng.uniform(0, 0.1))
            assert contents(tmp_path) == bytes_before
    sort_into_folders(paths, labels, dest, "move")
    assert contents(dest) == bytes_before
    undo_sorting(dest)
    if dest.exists():  # made by a process that was killed before it could write so
        dest.rmdir()
    assert tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_copies_and_links_that_are_killed(tmp_path, monkeypatch, how, seed):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    rng = np.random.default_rng(seed)
    paths, labels = many(tmp_path, 50)
    before = tree(tmp_path)
    dest = tmp_path / "sorted"
    sort = (sort_into_folders, paths, labels, dest, how)
    for _ in range(2):
        assert killed(*sort, after=rng.integers(10, 35))
        assert tree(tmp_path / "photos").items() <= before.items() | {
            (k[7:], v) for k, v in before.items()
        }
    if seed % 2:
        places = sort_into_folders(*sort[1:])
        assert [os.path.samefile(a, b) for a, b in zip(paths, places, strict=True)] == [
            how != "copy"
        ] * 50
    if killed(undo_sorting, dest, after=rng.integers(10)):
        undo_sorting(dest)
    assert tree(tmp_path) == before


def test_what_is_moved_is_in_the_journal_on_the_disk(photos, tmp_path, monkeypatch):
    journal, on_disk = tmp_path / "sorted" / "sorting.jsonl", b""
    fsync, moved = os.fsync, []

    def recorded(file):
        nonlocal on_disk
        fsync(file)
        if journal.exists() and os.path.samestat(os.fstat(file), journal.stat()):
            on_disk = journal.read_bytes()

    def checked(source, target, **options):
        lines = map(json.loads, on_disk.splitlines())
        assert source in [line["from"] for line in lines if "to" in line]
        moved.append(source)
        LINK(source, target, **options)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(os, "link", checked)
    sort_into_folders(photos, LABELS, tmp_path / "sorted", "move")
    assert moved == photos


def test_what_was_left_half_written_is_removed(photos, tmp_path):
    before, dest = tree(tmp_path), tmp_path / "sorted"
    sort_into_folders(photos, LABELS, dest, "move")
    after = tree(tmp_path)
    token = json.loads((dest / "sorting.jsonl").read_text().splitlines()[0])["token"]
    files(dest / "00", f".sorting-{token}.part")
    sort_into_folders(photos, LABELS, dest, "move")
    assert tree(tmp_path) == after
    files(dest / "01", f".sorting-{token}.part")
    files(tmp_path / "photos" / "a", f".sorting-{token}.part")
    undo_sorting(dest)
    assert tree(tmp_path) == before


def test_a_line_that_was_cut_is_written_again(photos, tmp_path):
    before, dest = tree(tmp_path), tmp_path / "sorted"
    places = sort_into_folders(photos[:3], LABELS[:3], dest, "move")
    journal = dest / "sorting.jsonl"
    with open(journal, "ab") as file:
        file.write(b'{"from": "/ha')
    assert sort_into_folders(photos, LABELS, dest, "move")[:3] == places
    with open(journal, "ab") as file:
        file.write(b'{"from": "/ha')
    undo_sorting(dest)
    assert tree(tmp_path) == before
