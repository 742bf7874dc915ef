"""Parameters as annotated fields: they become constructor, checks and documentation."""

from __future__ import annotations

import contextlib
import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

# the first entry beside the type is scikit-learn's constraint, or a tuple of them; the
# second is what the documentation calls it
Positive = Annotated[float, Interval(Real, 0, None, closed="neither")]
NonNegative = Annotated[float, Interval(Real, 0, None, closed="left")]
Share = Annotated[float, Interval(Real, 0, 1, closed="both")]
Count = Annotated[int, Interval(Integral, 1, None, closed="left")]
AtLeastTwo = Annotated[int, Interval(Integral, 2, None, closed="left")]
Auto = Literal["auto"]
HUGE = 2**24  # no network, bank or batch is as large
ImageShape = Annotated[tuple[int, int, int], (tuple, list), "tuple (C, H, W)"]
RandomState = Annotated[Any, "random_state", "int, RandomState instance or None"]
Verbosity = Annotated[int, "verbose", "int"]


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
class Declared(BaseEstimator):
    """Base of what declares its parameters as annotated fields.

    A subclass is a dataclass without equality: each annotated field of its body is a
    keyword of the constructor. The annotation gives the check of
    scikit-learn's parameter validation, and the type in the documentation. The class
    docstring has a section *Parameters* with the bare name and the text of each field
    of its own; what a base class documents is added to it, likewise of *Attributes*.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        inherited: tuple = fields(cls) if is_dataclass(cls) else ()
        for f in inherited:
            if f.name in vars(cls) and f.name not in inspect.get_annotations(cls):
                raise TypeError(
                    f"{cls.__name__} sets the parameter {f.name} without an "
                    "annotation, which changes nothing. Write "
                    f"{f.name}: type = default."
                )
        doc = cls.__dict__.get("__doc__")  # before the dataclass makes one up
        dataclass(kw_only=True, eq=False, repr=False)(cls)
        cls.__init__.__annotations__.clear()  # for people, the documentation has types
        hints = get_type_hints(cls, include_extras=True)
        cls._parameter_constraints = {
            f.name: constraints(hints[f.name]) for f in fields(cls)
        }
        headers = {f.name: header(hints[f.name], f.default) for f in fields(cls)}
        cls.__doc__, cls._documented = document(doc, cls._documented, headers)

    _documented: ClassVar[dict] = {"Parameters": {}, "Attributes": {}}
    _parameter_constraints: ClassVar[dict] = {}

    def _with_plain_values(self) -> Self:
        """Return a copy, in which numbers and strings are Python's own."""
        return type(self)(**self._plain_values())

    def _plain_values(self) -> dict:
        """Return the parameters, each number of the type that was declared."""
        return {
            name: as_declared(plain(value), name, self._parameter_constraints[name])
            for name, value in self.get_params(deep=False).items()
        }

    def _validate_params(self):
        """Check each parameter against its annotation."""
        inner = getattr(self, "estimator", None)
        if isinstance(inner, type):  # which has the methods that are asked for, too
            raise TypeError(
                f"estimator={inner.__name__} is a class; an object was expected. Pass "
                f"{inner.__name__}(...)."
            )
        validate_parameter_constraints(
            self._parameter_constraints, self._plain_values(), type(self).__name__
        )


def as_declared(value, name: str, allowed: list):
    """Turn a plain number into one of the type declared: torch tells them apart.

    Parameters
    ----------
    value : object
        Anything but a number, or a list of some, comes back as it is.
    name : str
        Of the parameter.
    allowed : list
        Its constraints.

    Returns
    -------
    value : object

    Raises
    ------
    ValueError
        If the number does not fit 64 bits.
    """
    if type(value) in (tuple, list):
        return type(value)(as_declared(one, name, [Integral, Real]) for one in value)
    types = [getattr(one, "type", one) for one in allowed]
    real = isinstance(value, Real)
    if not real or (isinstance(value, bool) and "boolean" in types):
        return value
    whole = isinstance(value, Integral) and Integral in types
    if whole and not -(2**63) <= value < 2**63:
        _raise_too_large(name)
    try:
        return int(value) if whole else float(value) if Real in types else value
    except OverflowError:
        _raise_too_large(name)


def _raise_too_large(name) -> NoReturn:
    raise ValueError(f"{name} is a number that does not fit 64 bits. Pass another one.")


@contextlib.contextmanager
def sizes_fit(params: dict) -> Iterator[None]:
    """Say which parameter is too large, where torch only says that something is.

    Parameters
    ----------
    params : dict
        The parameters that are used inside the block.

    Raises
    ------
    ValueError
        If something fails, and a size among the parameters is huge.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
        sizes = {name: v for name, v in params.items() if name != "random_state"}
        huge = [f"{name}={v!r}" for name, v in sizes.items() if _is_huge(v)]
        if not huge:
            raise
        raise ValueError(
            f"{', '.join(huge)[:500]} is more than the memory holds, or than torch "
            "takes. Pass less."
        ) from error


def _is_huge(value) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_is_huge, value))
    return isinstance(value, (int, np.integer)) and bool(value > HUGE)


def plain(value):
    """Turn numpy's scalars into Python's, within lists and dicts, too.

    Searches give the former, which torch does not take everywhere. All other objects
    stay what they are.
    """
    if isinstance(value, np.longdouble):  # of which item makes no float
        return float(value)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {key: plain(part) for key, part in value.items()}
    return value


def constraints(annotation) -> list:
    """Turn an annotation into scikit-learn's constraints."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return [one for arg in args for one in constraints(arg)]
    if origin is Annotated:
        found = annotation.__metadata__[0]
        return list(found) if isinstance(found, tuple) else [found]
    if origin is Literal:
        return [StrOptions(set(args))]
    named = {
        types.NoneType: None,
        bool: "boolean",
        Callable: callable,
        float: Interval(Real, None, None, closed="neither"),  # which takes an int, too
        int: Interval(Integral, None, None, closed="neither"),
    }
    return [named.get(origin or annotation, origin or annotation)]


def header(annotation, default) -> str:
    """Say type and default, as in ``float in [0, 1], default=0.5``."""
    origin = get_origin(annotation)
    union = origin in (Union, types.UnionType)
    kinds = [_kind(one) for one in (get_args(annotation) if union else [annotation])]
    *first, last = dict.fromkeys(kinds)
    text = f"{', '.join(first)} or {last}" if first else last
    if default is MISSING:
        return text
    shown = f'"{default}"' if isinstance(default, str) else repr(default)
    return f"{text}, default={shown}"


def _kind(annotation) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        constraint, *name = annotation.__metadata__
        return name[0] if name else _interval(constraint)
    if origin is Literal:
        options = ", ".join(f'"{option}"' for option in get_args(annotation))
        return f"{{{options}}}" if "," in options else options
    if annotation is types.NoneType:
        return "None"
    names = {Callable: "callable", torch.device: "torch.device"}
    return names.get(origin or annotation, annotation.__name__)


def _interval(interval) -> str:
    kind = "int" if interval.type is Integral else "float"
    low, high = interval.left, interval.right
    with_low, with_high = (
        interval.closed in (side, "both") for side in ("left", "right")
    )
    if low is None and high is None:
        return kind
    if high is None:
        return f"{kind} {'>=' if with_low else '>'} {low}"
    if low is None:
        return f"{kind} {'<=' if with_high else '<'} {high}"
    return (
        f"{kind} in {'[' if with_low else '('}{low}, {high}{']' if with_high else ')'}"
    )


# -- documentation ---------------------------------------------------------------------

SECTION = re.compile(r"^(\S.*)\n-{3,}\n", re.M)


def document(doc, inherited, headers):
    """Complete a class docstring by what the base classes document.

    Parameters
    ----------
    doc : str or None
    inherited : dict of dict
        Texts of the base class by section, *Parameters* and *Attributes*, and name.
    headers : dict of str
        Type and default of each parameter, in order.

    Returns
    -------
    doc : str or None
    documented : dict of dict
        Texts, for the subclasses of this class.

    Raises
    ------
    TypeError
        If the docstring documents a parameter that there is not.
    """
    if doc is None:
        return None, inherited
    text, *parts = SECTION.split(inspect.cleandoc(doc) + "\n")
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    own = {name: _entries(sections.pop(name, "")) for name in inherited}
    documented = {name: {**inherited[name], **own[name]} for name in inherited}
    unknown = sorted(own["Parameters"].keys() - headers.keys())
    if unknown:
        summary = text.strip().partition("\n")[0]
        raise TypeError(
            f"The docstring that begins with {summary!r} documents "
            f"parameters that are no annotated fields: {', '.join(unknown)}."
        )
    parameters = [
        (f"{name} : {of}", documented["Parameters"].get(name, ("", ""))[1])
        for name, of in headers.items()
    ]
    merged = {"Parameters": parameters, "Attributes": documented["Attributes"].values()}
    bodies = {title: "".join(map("\n".join, rows)) for title, rows in merged.items()}
    # where both sections belong in numpydoc's order: before all others
    whole = {**{t: body for t, body in bodies.items() if body}, **sections}
    rows = [f"{t}\n{'-' * len(t)}\n{body.strip()}" for t, body in whole.items()]
    return "\n\n".join([text.strip(), *rows]) + "\n", documented


def _entries(section):
    """Split a section: a dict from name to header and indented text."""
    entries = re.findall(r"^(\S.*)\n((?:[ \t]+.*\n|\n(?=[ \t]))*)", section, re.M)
    return {head.partition(" :")[0]: (head, text) for head, text in entries}
