"""The commands: each takes what was parsed, and returns an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._input.formats import use_plugins
from .._input.paths import counted
from .._storage.container import replacing
from .clustering import cluster_images, embed_images
from .images import Skipped, find_images, lines, none_can, tell_skipped
from .learning import check_device
from .maps import place
from .reports import write_run_report
from .results import REPORT, Result
from .shown import Console, as_command, show
from .tables import Table, import_polars, write_rows

DONE = 0
HOW: dict[str, Literal["copy", "hardlink", "symlink", "move"]] = {
    "copy": "copy",
    "link": "hardlink",
    "symlink": "symlink",
    "move": "move",
}


def cluster(args: Namespace) -> int:
    """Cluster the images of folders, and write RESULT.

    Parameters
    ----------
    args : Namespace
        Of the parser of the command line.

    Returns
    -------
    code : int
        130 or 143 if a signal ended the training early.
    """
    console = Console(args.quiet, args.verbose)
    with console.gathering():
        result = Result.create(args.out, args.overwrite)
        try:
            return cluster_images(args, console, result)
        finally:
            result.discard()  # only an empty one goes


def predict(args: Namespace) -> int:
    """Assign new images to the clusters of RESULT, and write a table of them."""
    console = Console(args.quiet, args.verbose)
    with console.gathering():
        as_parquet = _check_out(args.out, args.overwrite)
        check_device(args.device)
        result = Result.open(args.result)
        known, embedding = result.table(), result.embedding()
        with console.stage("Images") as said:
            listing = find_images(args.folders, args.strict, args.any_ending)
            said.append(str(listing))
        found, bad = embed_images(args, console, result, listing.paths)
        skipped = listing.skipped + bad
        where = None if args.out is None else _unreadable(args.out)
        tell_skipped(
            console, skipped, len(found.paths), None if where is None else str(where)
        )
        positions = place(found.embedding, embedding, known.positions)
        table = Table(found.paths, found.clusters, found.confidences, positions)
        _write(table, args.out, as_parquet)
        if where is not None:
            _write_unreadable(skipped, where)
        if args.out is not None:
            console.say(f"Written: {args.out}, {counted(len(table), 'image')}")
    return DONE


def report(args: Namespace) -> int:
    """Write the report of RESULT again."""
    use_plugins()
    console = Console(args.quiet, args.verbose)
    with console.gathering():
        result = Result.open(args.result)
        table, embedding = result.table(), result.embedding()
        run = dict(result.run)
        if args.title is not None:
            run["title"] = args.title
        there = np.array([Path(path).is_file() for path in table.paths])
        if not there.all():
            _tell_gone(console, table.only(~there).paths, len(table), result.run)
            table, embedding = table.only(there), embedding[there]
        with console.stage("Report"), result.writing(run) as staging:
            history = result.model("cpu").history_
            write_run_report(staging / REPORT, table, embedding, history, run)
        path = result.folder / REPORT
        show(str(path))
        if args.open:
            import webbrowser

            webbrowser.open(path.resolve().as_uri())
    return DONE


def _tell_gone(console, gone: list[str], n: int, run: dict[str, Any]) -> None:
    """Warn of images that are gone; it is an error if all of them are."""
    named = lines([(path, "is no file") for path in gone])
    what = f"{len(gone)} of {counted(n, 'image')} are not where they were"
    back = _how_back(gone, run)
    if len(gone) == n:
        raise FileNotFoundError(
            f"{what}:{named}\n{back}\nOtherwise put them back, or cluster again."
        )
    console.warn(f"{what}, and are left out of the report:{named}\n{back}")


def sort(args: Namespace) -> int:
    """Sort the images of RESULT into a folder for each cluster."""
    from ..sorting import sort_into_folders

    console = Console(args.quiet, args.verbose)
    with console.gathering():
        result = Result.open(args.result)
        table = result.table()
        ((how, dest),) = [
            (how, dest)
            for name, how in HOW.items()
            if (dest := getattr(args, name)) is not None
        ]
        _check_same_way(how, dest)
        table = _sortable(console, table, how, dest, result.run, args.strict)
        if how == "move":  # for what reads the table when its files are gone
            with contextlib.suppress(OSError):
                with result.writing({**result.run, "moved_to": os.path.abspath(dest)}):
                    pass
        with console.stage("Sorted") as said:
            sort_into_folders(
                table.paths, table.clusters, dest, how, verbose=console.verbosity
            )
            said.append(f"{counted(len(table), 'image')} into {dest!r}")
        console.say(f"To undo it: {as_command('undo', dest)}")
    return DONE


def _check_same_way(how: str, dest: str) -> None:
    """Refuse a folder that was sorted into in another way, in words of the options."""
    from ..sorting._journal import Journal

    with Journal(Path(os.path.realpath(Path(dest).expanduser()))) as journal:
        before = how if journal.head is None else journal.head["how"]
    if before != how:
        (option,) = [name for name, value in HOW.items() if value == before]
        raise ValueError(
            f"{dest!r} holds what sort --{option} wrote. Pass another folder, or first "
            f"undo that: {as_command('undo', dest)}"
        )


def _sortable(
    console, table: Table, how: str, dest: str, run: dict[str, Any], strict: bool
) -> Table:
    """Leave out images that cannot be sorted, and list them.

    With ``strict`` they are an error. Files that an earlier call moved to ``dest`` are
    gone, and stay in.
    """
    from ..sorting._sort import looked_at

    reasons = [looked_at(path, how)[0] for path in table.paths]
    if how == "move" and any(reasons):
        reasons = [
            None if there else reason
            for reason, there in zip(reasons, _moved(table.paths, dest), strict=True)
        ]
    both = zip(table.paths, reasons, strict=True)
    bad = [(path, reason) for path, reason in both if reason is not None]
    if not bad:
        return table
    gone = [path for path, _ in bad if not os.path.lexists(path)]
    back = f"\n{_how_back(gone, run)}" if gone else ""
    if len(bad) == len(table):
        raise ValueError(f"{none_can(len(bad), 'image')} be sorted:{lines(bad)}{back}")
    what = f"{len(bad)} of {counted(len(table), 'image')} cannot be sorted, and"
    if strict:
        raise ValueError(
            f"{what} none was touched:{lines(bad)}{back}\nWithout --strict, such "
            "images are left out."
        )
    left_out = f"{'is' if len(bad) == 1 else 'are'} left out"
    console.warn(f"{what} {left_out}:{lines(bad)}{back}")
    return table.only(np.array([reason is None for reason in reasons]))


def _moved(paths: list[str], dest: str) -> list[bool]:
    """Tell which files an earlier call moved, or began to move, to a folder."""
    from ..sorting._asked import canonical
    from ..sorting._journal import Journal

    with Journal(Path(os.path.realpath(Path(dest).expanduser()))) as journal:
        moved = {entry.source for entry in journal.entries}
    return [source in moved for source in canonical(paths)]


def _how_back(gone: list[str], run: dict[str, Any]) -> str:
    """Say how files that are gone come back, if ``sort`` moved them."""
    dest = run.get("moved_to")
    if dest is not None:
        with contextlib.suppress(OSError, ValueError):  # of a journal of another
            n_moved = sum(_moved(gone, dest))
            if n_moved:
                some = "them" if n_moved == len(gone) else f"{n_moved} of them"
                undo = as_command("undo", dest)
                return f"skdeepcluster sort moved {some}. To put them back: {undo}"
    undo = as_command("undo", dest or "DEST")
    return f"If skdeepcluster sort moved them, {undo} puts them back."


def undo(args: Namespace) -> int:
    """Undo what ``sort`` did in a folder."""
    from ..sorting import undo_sorting

    console = Console(args.quiet, args.verbose)
    with console.gathering(), console.stage("Undone") as said:
        n_files = undo_sorting(args.dest)
        said.append(f"{counted(n_files, 'file')} of {args.dest!r}")
    return DONE


# -- tables of new images --------------------------------------------------------------


def _check_out(out: str | None, overwrite: bool) -> bool:
    """Refuse a name that cannot be written, before the work; tell if it is Parquet."""
    if out is None:
        return False
    path = Path(out)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"--out={out!r} should end in .csv or .parquet.")
    if path.is_dir() or (path.exists() and not overwrite):
        kind = "a folder" if path.is_dir() else "there already"
        raise FileExistsError(
            f"--out={out!r} is {kind}. Pass another name"
            + (", or --overwrite." if path.is_file() else ".")
        )
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"--out={out!r}: there is no folder {os.fspath(path.parent)!r}. Make it "
            "first."
        )
    beside = _unreadable(out)
    ours = beside.is_file() and beside.read_bytes().startswith(b'"path","reason"\n')
    if os.path.lexists(beside) and not (ours and overwrite):
        raise FileExistsError(
            f"{str(beside)!r}, which is to list what cannot be read, is there "
            f"already. Pass another name as --out{', or --overwrite' if ours else ''}."
        )
    as_parquet = path.suffix.lower() == ".parquet"
    if as_parquet:
        import_polars()
    return as_parquet


def _unreadable(out: str) -> Path:
    """Name the file beside a table that lists what is not in it."""
    return Path(out).with_suffix(".unreadable.csv")


def _write_unreadable(skipped: Skipped, path: Path) -> None:
    if skipped:
        with replacing(path) as file:
            write_rows(file, ("path", "reason"), skipped)
    else:  # of an earlier table
        path.unlink(missing_ok=True)


def _write(table: Table, out: str | None, as_parquet: bool) -> None:
    if out is None:
        sys.stdout.flush()
        table.write_csv(sys.stdout.buffer)
        return
    with replacing(Path(out)) as file:
        if as_parquet:
            table.write_parquet(file)
        else:
            table.write_csv(file)
