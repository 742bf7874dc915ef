"""Parameters are declared once: constructor, checks and documentation follow."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, field, fields
from numbers import Integral, Real
from typing import Annotated, Literal, get_type_hints

import numpy as np
import pytest
import torch
from numpydoc.docscrape import ClassDoc
from numpydoc.validate import validate
from sklearn.base import clone
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from torch import nn
from toy import Toy

import skdeepcluster
from skdeepcluster._estimator import DeepClusterer
from skdeepcluster._parameters import (
    AtLeastTwo,
    Auto,
    Count,
    Declared,
    ImageShape,
    NonNegative,
    Positive,
    RandomState,
    Share,
    Verbosity,
    constraints,
    header,
)
from skdeepcluster.gcc import Generated

ESTIMATORS = [
    cls
    for name in skdeepcluster.__all__
    if isinstance(cls := getattr(skdeepcluster, name), type)
    and issubclass(cls, DeepClusterer)
]
each_class = pytest.mark.parametrize(
    "cls", [*ESTIMATORS, Generated, Toy], ids=lambda cls: cls.__name__
)

Angle = Annotated[float, Interval(Real, -180, 180, closed="right")]


class Plain(Declared):
    """What a base class declares.

    More about it.

    Parameters
    ----------
    size
        Number of parts.

        A second paragraph.
    rate
        Speed of the base.

    Attributes
    ----------
    parts_ : list
        The parts.
    speed_ : float
        The speed.

    See Also
    --------
    Turned : What inherits.
    """

    size: Count = field(default=8, kw_only=False)
    rate: Positive | Auto = "auto"


class Turned(Plain):
    """What a subclass adds.

    Parameters
    ----------
    angle
        Turn of the parts.
    rate
        Speed of the turn.

    Attributes
    ----------
    angle_ : float
        Turn that was made.
    speed_ : float, radians
        Speed that was reached.

    Notes
    -----
    A note with a rule below a word:

    Word
    ----
    """

    angle: Angle = 90.0
    rate: Positive = 0.5


class Bare(Turned):
    flag: bool = True


# -- constructor -----------------------------------------------------------------------


def test_constructor():
    parameters = inspect.signature(Turned).parameters
    assert {name: p.default for name, p in parameters.items()} == {
        "size": 8,
        "rate": 0.5,
        "angle": 90.0,
    }
    kinds = [p.kind.name for p in parameters.values()]
    assert sorted(kinds) == ["KEYWORD_ONLY", "KEYWORD_ONLY", "POSITIONAL_OR_KEYWORD"]
    turned = Turned(3, angle=10)
    assert (turned.size, turned.rate, turned.angle) == (3, 0.5, 10)
    assert (Plain().rate, Bare().flag) == ("auto", True)


@each_class
def test_only_the_number_of_clusters_has_a_place(cls):
    parameters = inspect.signature(cls).parameters
    places = [name for name, p in parameters.items() if p.kind != p.KEYWORD_ONLY]
    assert places == (["n_clusters"] if issubclass(cls, DeepClusterer) else [])
    assert all(p.default is not p.empty for p in parameters.values())


@each_class
def test_an_unknown_keyword_is_named(cls):
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        cls(learning_rate=0.1)


def test_an_estimator_is_itself_alone():
    one, other = Turned(angle=10), Turned(angle=10)
    assert one != other and len({one, other}) == 2
    assert repr(one) == "Turned(angle=10)"  # what differs, as in scikit-learn


@each_class
def test_get_params_clone_and_pickle(cls):
    parameters = inspect.signature(cls).parameters
    made = cls()
    own = made.get_params(deep=False)
    assert own == {name: p.default for name, p in parameters.items()}
    for twin in (clone(made), cls(**own), pickle.loads(pickle.dumps(made))):
        assert twin is not made and twin.get_params(deep=False) == own
    first = next(iter(parameters))
    assert made.set_params(**{first: 5}).get_params()[first] == 5
    with pytest.raises(ValueError, match="Invalid parameter 'learning_rate'"):
        made.set_params(learning_rate=0.1)


# -- constraints and headers -----------------------------------------------------------

ANNOTATIONS = [
    (Count, 8, "int >= 1, default=8", [1, np.int64(3)], [0, 2.0, "1", None]),
    (AtLeastTwo, 2, "int >= 2, default=2", [2], [1]),
    (Positive, 0.002, "float > 0, default=0.002", [1e-9, 3], [0, -1, "a", np.nan]),
    (NonNegative, 0.0, "float >= 0, default=0.0", [0, 1.5], [-1e-9]),
    (Share, 0.5, "float in [0, 1], default=0.5", [0, 1, 0.3], [-0.1, 1.1]),
    (Angle, 90.0, "float in (-180, 180], default=90.0", [180], [-180, 181]),
    (
        Annotated[int, Interval(Integral, 1, 9, closed="left")],
        5,
        "int in [1, 9), default=5",
        [1, 8],
        [0, 9],
    ),
    (
        Annotated[float, Interval(Real, None, None, closed="neither")],
        0.5,
        "float, default=0.5",
        [-3, 0.1],
        ["a"],
    ),
    (int, -1, "int, default=-1", [3], [0.5]),
    (bool, True, "bool, default=True", [False, np.True_], [2, "yes"]),
    (str, "a", 'str, default="a"', ["b"], [1]),
    (dict | None, None, "dict or None, default=None", [{}, None], [[]]),
    (list | None, None, "list or None, default=None", [[1]], [()]),
    (Count | None, None, "int >= 1 or None, default=None", [None, 3], [0]),
    (Count | Auto, "auto", 'int >= 1 or "auto", default="auto"', ["auto", 1], ["a"]),
    (Literal["a", "b"], "a", '{"a", "b"}, default="a"', ["b"], ["c", None]),
    (
        Literal["a", "b"] | Count | None,
        "a",
        '{"a", "b"}, int >= 1 or None, default="a"',
        ["b", 7, None],
        ["c", 0],
    ),
    (
        str | nn.Module,
        "auto",
        'str or Module, default="auto"',
        ["mlp", nn.Identity()],
        [nn.Identity, 3],
    ),
    (str | Callable, "auto", 'str or callable, default="auto"', ["a", abs], [3]),
    (
        str | torch.device,
        "auto",
        'str or torch.device, default="auto"',
        ["cpu", torch.device("cpu")],
        [0],
    ),
    (
        ImageShape | None,
        None,
        "tuple (C, H, W) or None, default=None",
        [(1, 8, 8), [1, 8, 8], None],
        [8, "1x8x8"],
    ),
    (
        RandomState,
        None,
        "int, RandomState instance or None, default=None",
        [0, None, np.random.RandomState(0)],
        ["seed", 0.5],
    ),
    (Verbosity, 0, "int, default=0", [0, 1, True], ["yes"]),
    (
        Count | Annotated[Sequence[int], "array-like", "one int a facet"],
        8,
        "int >= 1 or one int a facet, default=8",
        [3, [3, 4], np.array([3])],
        [0, None],
    ),
]


@pytest.mark.parametrize(
    ("annotation", "default", "text", "good", "bad"),
    ANNOTATIONS,
    ids=[text for _, _, text, _, _ in ANNOTATIONS],
)
def test_an_annotation_is_a_check_and_a_header(annotation, default, text, good, bad):
    assert header(annotation, default) == text
    checks = {"name": constraints(annotation)}
    for value in [default, *good]:
        validate_parameter_constraints(checks, {"name": value}, "Turned")
    for value in bad:
        with pytest.raises(InvalidParameterError, match="'name' parameter of Turned"):
            validate_parameter_constraints(checks, {"name": value}, "Turned")


def test_constraints_are_those_of_scikit_learn():
    assert list(map(str, constraints(Count | Auto))) == [
        "an int in the range [1, inf)",
        "a str among {'auto'}",
    ]
    (options,) = constraints(Literal["a", "b"])
    assert isinstance(options, StrOptions) and options.options == {"a", "b"}
    assert constraints(str | Callable | None) == [str, callable, None]
    assert constraints(RandomState) == ["random_state"]
    assert constraints(ImageShape) == [tuple, list]


def test_a_subclass_declares_again_without_changing_its_base():
    assert list(Turned._parameter_constraints) == ["size", "rate", "angle"]
    assert len(Plain._parameter_constraints["rate"]) == 2
    assert len(Turned._parameter_constraints["rate"]) == 1
    assert list(Plain._parameter_constraints) == ["size", "rate"]
    for cls, good in ((Plain, True), (Turned, False)):
        made = cls(rate="auto")
        if good:
            made._validate_params()
        else:
            with pytest.raises(InvalidParameterError, match="'rate' parameter of Tur"):
                made._validate_params()


@each_class
def test_every_field_has_a_check_that_its_default_passes(cls):
    names = [f.name for f in fields(cls)]
    assert list(cls._parameter_constraints) == names
    assert all(f.default is not MISSING for f in fields(cls))
    cls()._validate_params()


# -- documentation ---------------------------------------------------------------------


def test_a_docstring_is_completed():
    assert inspect.getdoc(Plain) == inspect.cleandoc(
        """What a base class declares.

        More about it.

        Parameters
        ----------
        size : int >= 1, default=8
            Number of parts.

            A second paragraph.
        rate : float > 0 or "auto", default="auto"
            Speed of the base.

        Attributes
        ----------
        parts_ : list
            The parts.
        speed_ : float
            The speed.

        See Also
        --------
        Turned : What inherits.
        """
    )


def test_a_docstring_inherits_and_overrides_in_place():
    assert inspect.getdoc(Turned) == inspect.cleandoc(
        """What a subclass adds.

        Parameters
        ----------
        size : int >= 1, default=8
            Number of parts.

            A second paragraph.
        rate : float > 0, default=0.5
            Speed of the turn.
        angle : float in (-180, 180], default=90.0
            Turn of the parts.

        Attributes
        ----------
        parts_ : list
            The parts.
        speed_ : float, radians
            Speed that was reached.
        angle_ : float
            Turn that was made.

        Notes
        -----
        A note with a rule below a word:

        Word
        ----
        """
    )


def test_without_a_docstring_none_is_made_up():
    # as under python -OO, which strips them
    assert Bare.__doc__ is None
    assert list(Bare._parameter_constraints) == ["size", "rate", "angle", "flag"]

    class Again(Bare):
        """Has one again.

        Parameters
        ----------
        flag
            Whether there is a flag.
        """

    texts = {p.name: " ".join(p.desc) for p in ClassDoc(Again)["Parameters"]}
    assert list(texts) == ["size", "rate", "angle", "flag"]
    assert texts["rate"] == "Speed of the turn."
    assert texts["flag"] == "Whether there is a flag."


def test_a_class_without_fields_of_its_own_is_documented():
    class Same(Turned):
        """The same."""

    assert Same.__doc__.startswith("The same.\n\nParameters\n----------\nsize : int")
    assert [p.name for p in ClassDoc(Same)["Attributes"]][-1] == "angle_"


def documented(cls, section="Parameters"):
    return {p.name: p for p in ClassDoc(cls)[section]}


@each_class
def test_every_parameter_is_documented_with_type_and_default(cls):
    hints = get_type_hints(cls, include_extras=True)
    headers = {f.name: header(hints[f.name], f.default) for f in fields(cls)}
    parameters = documented(cls)
    assert {name: p.type for name, p in parameters.items()} == headers
    assert all("".join(p.desc).strip() for p in parameters.values())


@each_class
def test_own_texts_are_of_own_parameters(cls):
    # a text of a name that is no field would be dropped without a word
    for base in cls.__mro__:
        if issubclass(base, Declared) and base is not Declared:
            texts = base._documented["Parameters"]
            assert set(texts) <= {f.name for f in fields(base)}, base


RIDDLES = re.compile(
    r"^(Its|How|Of|Likewise|The same|As above|Ditto|That|Their|This|It|Also)\b"
    r"|\bits (temperature|weight|rate|width|share|number)\b|\bas above\b|\blikewise\b"
    r"|\b(the (former|latter)|see above|respectively)\b"
)


@each_class
def test_the_text_of_a_parameter_stands_alone(cls):
    for name, parameter in documented(cls).items():
        text = " ".join(parameter.desc)
        riddle = RIDDLES.search(text)
        assert not riddle, f"{name}: {riddle[0]!r} needs a sentence before it: {text}"
        assert re.match(r"[A-Z0-9`]", text) and text.endswith("."), f"{name}: {text}"


@each_class
def test_help_shows_what_was_completed(cls):
    doc = inspect.getdoc(cls)
    for field_ in fields(cls):
        assert re.search(rf"^{field_.name} : .*default=", doc, re.M)
    assert max(map(len, doc.splitlines())) <= 88


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_numpydoc_finds_no_fault(cls):
    doc = validate(f"{cls.__module__}.{cls.__qualname__}")
    assert not doc["errors"]


def test_a_default_without_annotation_is_refused():
    with pytest.raises(TypeError, match="sets the parameter lr without an annotation"):
        type("Mine", (skdeepcluster.DigPro,), {"lr": 1e-2, "__doc__": "Mine."})


def test_a_documented_name_that_is_no_parameter_is_refused():
    doc = "Mine.\n\nParameters\n----------\ngroup_weigth\n    Weight.\n"
    with pytest.raises(TypeError, match="'Mine.' documents parameters .* group_weigth"):
        type("Mine", (skdeepcluster.DigPro,), {"__doc__": doc})


def test_the_signature_shows_defaults_not_annotations():
    assert str(inspect.signature(skdeepcluster.DigPro)).startswith(
        "(n_clusters=8, *, image_shape="
    )
