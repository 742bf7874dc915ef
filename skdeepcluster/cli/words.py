"""What the library says, in words of the command line: options for parameters."""

from __future__ import annotations

import re

OPTIONS = {
    "backbone": "--pretrained",
    "batch_size": "--batch-size",
    "cache": "--cache",
    "dest": "DEST",
    "device": "--device",
    "image_shape": "--size",
    "image_size": "--size",
    "max_epochs": "--epochs",
    "model": "--pretrained",
    "n_clusters": "--n-clusters",
    "random_state": "--seed",
    "shape": "shape",  # of an array: no parameter
    "weights": "--weights",
}
PHRASES = (  # where another word for the parameter is not enough
    (r"extensions='any'", "--any-ending"),
    (r"Pass on_error='skip'", "Leave out --strict"),
    (r"how='(copy|move|symlink)'", r"--\1"),
    (r"how='hardlink'", "--link"),
    (r"(call )?undo_sorting\((.*)\)", r"run skdeepcluster undo \2"),
    (r"Undo it by undo_sorting", "Undo it by skdeepcluster undo"),
    (r"which sort_into_folders writes", "which skdeepcluster sort writes"),
    (r"call again", "run it again"),
    (r"names= or another dest", "another DEST"),
    (r"another dest\b", "another DEST"),
    (r"n_clusters goes up to", "--range goes up to"),
    (r"\bn_samples ?= ?1\b", "1 image"),
    (r"\bn_samples ?= ?(\d+)", r"\1 images"),
    (r"The '(\w+)' parameter of \w+ must", r"\1 must"),
    (r"Pass another model, image_size, or X", "Pass another --pretrained or --size"),
    (r"rows of X\b", "images"),
    (r"(other|more|all) samples\b", r"\1 images"),
    (r"the samples\b", "the images"),
    (r"pass numbers beyond", "pass a --range that goes beyond"),
    (r"Pass numbers up to (\d+)", r"Pass a --range up to \1"),
    (r"; or an nn\.Module", ""),
    (r"weights=None", "--weights none"),
    (r"or None\.", "or leave it out."),
)
# what is quoted is of the user, as are words that hold a slash, such as paths and
# addresses; options are right as they are
KEPT = (
    r"(?<!\w)'(?:\\.|[^'\\\n])*'|(?<!\w)\"(?:\\.|[^\"\\\n])*\""
    r"|(?<!\S)[^\s'\"]*[/\\]\S*|--[\w-]+"
)
BARE = "|".join(name for name in OPTIONS if "_" in name)
BEGINS, ENDS = r"(?<![^\s(])", r"(?=[.,:;)]*(?:\s|$))"  # of a whole word
TOKEN = re.compile(
    f"(?P<kept>{KEPT})|(?P<phrase>{'|'.join(pattern for pattern, _ in PHRASES)})"
    rf"|{BEGINS}(?P<given>[a-z][a-z0-9_]*)=(?=\S)"
    rf"|{BEGINS}(?:(?P<bare>{BARE})|(?P<input>X)){ENDS}"
)


def in_options(text: str) -> str:
    """Name the options of the command line instead of the parameters of Python.

    Parameters
    ----------
    text : str
        Of an error or a warning of the library: sentences of the command line itself
        name options, and commands and paths that are not to be changed.

    Returns
    -------
    text : str
        What it quotes, and words that hold a slash, stay as they are. Parameters that
        have no option are said to be some of Python.
    """
    of_python: dict[str, None] = {}

    def word(match: re.Match) -> str:
        if match["kept"]:
            return match[0]
        if match["phrase"]:
            return _of_phrase(match[0])
        if match["input"]:
            first = match.start() == 0 or text[match.start() - 2] in ".\n"
            return "The input" if first else "the input"
        name = match["given"] or match["bare"]
        if name not in OPTIONS:
            of_python[name] = None
        return OPTIONS.get(name, name) + (" " if match["given"] else "")

    said = TOKEN.sub(word, text)
    if of_python:
        said += f"\n(No options, but parameters in Python: {', '.join(of_python)}.)"
    return said


def _of_phrase(phrase: str) -> str:
    matches = ((re.fullmatch(pattern, phrase), words) for pattern, words in PHRASES)
    found = next(match.expand(words) for match, words in matches if match)
    return re.sub(rf"^(?:{BARE})\b", lambda match: OPTIONS[match[0]], found)
