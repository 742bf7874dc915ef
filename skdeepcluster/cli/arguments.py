"""What the command line takes: light to import, so that help comes at once."""

from __future__ import annotations

import argparse
import os
import re

from .._version import __version__

METHODS = {
    "scl": "SCL",
    "digpro": "DigPro",
    "statdec": "StatDEC",
    "mfcvae": "MFCVAE",
    "gcc": "GCC",
}
PRETRAINED = "efficientnet_lite0"
SCRATCH_SIZE = 32  # pixels
RANGE = (2, 15)  # numbers of clusters that auto compares
EXIT_CODES = """\
exit codes: 0 done, files that cannot be read included; 1 failed; 2 wrong usage;
130 Ctrl-C, 143 SIGTERM: what was learnt until then is written."""


def make_parser() -> argparse.ArgumentParser:
    """Build the parser; each command sets ``command`` to its name."""
    parser = argparse.ArgumentParser(
        prog="skdeepcluster",
        description="Cluster the images of folders, and look at what was found.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_cluster(commands)
    _add_predict(commands)
    _add_report(commands)
    _add_sort(commands)
    _add_undo(commands)
    return parser


# -- types -----------------------------------------------------------------------------


def _path(text: str) -> str:
    if not text:  # as of a variable of the shell that is not set
        raise argparse.ArgumentTypeError(
            "a path is expected, and this is empty; '.' is the current folder"
        )
    return os.path.expanduser(text)  # no shell does it behind "--out="


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return number


def _count_or_auto(text: str) -> int | str:
    try:
        return text if text == "auto" else _count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor auto") from None


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no whole number from 0 to {2**32 - 1}"
        )
    return int(text)


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    low, high = map(int, found.groups()) if found else (0, 0)
    if not 2 <= low < high:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no range such as 2-15, from 2 on, the smaller number first"
        )
    return low, high


# -- commands --------------------------------------------------------------------------


def _command(commands, name: str, text: str, **kwargs) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", **kwargs
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "-q", "--quiet", action="store_true", help="show warnings and errors only"
    )
    shown.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show lines with the time left where no bar can be drawn, as in a file",
    )
    parser.add_argument(
        "--debug", action="store_true", help="show where in the code an error arose"
    )
    return parser


def _add_folders(parser) -> None:
    parser.add_argument(
        "folders",
        nargs="+",
        type=_path,
        metavar="FOLDER",
        help="folder of images, looked through with its subfolders; or an image file",
    )
    parser.add_argument(
        "--any-ending",
        action="store_true",
        help="take images whatever their names end in, such as IMG_1234",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail if a file or folder cannot be read, before anything is computed; by "
        "default it is listed and left out",
    )
    parser.add_argument(
        "--cache",
        type=_path,
        metavar="DIR",
        help="folder that keeps the features of images, so that each is encoded once",
    )
    _add_device(parser)


def _add_device(parser) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: auto, a GPU where there is one)",
    )


def _add_cluster(commands) -> None:
    parser = _command(
        commands, "cluster", "cluster the images of folders, and write RESULT"
    )
    _add_folders(parser)
    add = parser.add_argument
    add(
        "-k",
        "--n-clusters",
        type=_count_or_auto,
        required=True,
        metavar="K",
        help="number of clusters; auto looks for it in --range",
    )
    add(
        "--range",
        type=_range,
        metavar="LOW-HIGH",
        help=f"numbers of clusters that auto compares (default: {RANGE[0]}-{RANGE[1]})",
    )
    add(
        "-o",
        "--out",
        type=_path,
        required=True,
        metavar="RESULT",
        help="folder to write, new or empty",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the files of an earlier run in RESULT, and no others",
    )
    add(
        "--method",
        choices=METHODS,
        default="statdec",
        help="method that clusters (default: statdec)",
    )
    add(
        "--pretrained",
        default=PRETRAINED,
        metavar="MODEL",
        help="network that turns images into features: a name of torchvision, "
        "timm:NAME, efficientnet_lite0 to 2, or none to train on the pixels from "
        f"scratch (default: {PRETRAINED})",
    )
    add(
        "--weights",
        default="DEFAULT",
        metavar="FILE",
        help="file of weights, or name of some, of the pretrained network; none for "
        "random ones",
    )
    add(
        "--size",
        type=_count,
        metavar="PIXELS",
        help="side of the square that images are resized to (default: what the "
        f"network was trained at; from scratch {SCRATCH_SIZE})",
    )
    add(
        "--epochs",
        type=_count,
        metavar="N",
        help="passes over the images in training (default: by their number)",
    )
    add(
        "--batch-size",
        type=_count,
        metavar="N",
        help="images in a step of training (default: that of the method)",
    )
    add(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="seed of all that is random (default: 0)",
    )
    add(
        "--map",
        choices=["tsne", "pca"],
        default="tsne",
        help="2-D map of the report and the table (default: tsne)",
    )
    add("--title", help="title of the report (default: the names of the folders)")


def _add_result(parser) -> None:
    parser.add_argument(
        "result",
        type=_path,
        metavar="RESULT",
        help="folder that skdeepcluster cluster wrote",
    )


def _add_predict(commands) -> None:
    parser = _command(
        commands, "predict", "assign new images to the clusters of RESULT"
    )
    _add_result(parser)
    _add_folders(parser)
    parser.add_argument(
        "-o",
        "--out",
        type=_path,
        metavar="FILE",
        help="table to write, .csv or .parquet (default: CSV on the standard output); "
        "what cannot be read is listed beside it, in .unreadable.csv",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace FILE, and the list beside it, if they are there",
    )


def _add_report(commands) -> None:
    parser = _command(commands, "report", "write report.html of RESULT again")
    _add_result(parser)
    parser.add_argument("--title", help="title of the report")
    parser.add_argument(
        "--open", action="store_true", help="open the report in the browser"
    )


def _add_sort(commands) -> None:
    parser = _command(
        commands, "sort", "sort the images of RESULT into a folder for each cluster"
    )
    _add_result(parser)
    ways = parser.add_mutually_exclusive_group(required=True)
    for how, text in (
        ("copy", "copy the images into folder DEST"),
        (
            "link",
            "make hard links in folder DEST, which take no space; it is to be on the "
            "disk of the images",
        ),
        ("symlink", "make symbolic links in folder DEST"),
        (
            "move",
            "move the images into folder DEST; skdeepcluster undo DEST moves them back",
        ),
    ):
        ways.add_argument(f"--{how}", type=_path, metavar="DEST", help=text)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail if an image cannot be sorted, as it is gone or, for --move, a link, "
        "before anything is done; by default it is listed and left out",
    )


def _add_undo(commands) -> None:
    parser = _command(commands, "undo", "undo what skdeepcluster sort did in DEST")
    parser.add_argument(
        "dest", type=_path, metavar="DEST", help="folder that sort wrote"
    )
