"""Every parameter is read by its method, and nothing is read that is none."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from estimators import ESTIMATORS
from toy import Toy

import skdeepcluster
from skdeepcluster import _estimator, _settings
from skdeepcluster._engine import checkpoint, protocol
from skdeepcluster._estimator import DeepClusterer
from skdeepcluster._input import files
from skdeepcluster.gcc import Generated
from skdeepcluster.pretrained import backbone

METHODS = [*map(type, ESTIMATORS), Toy]
each_method = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)


def sources(cls):
    """Syntax trees of the folder, or the file, that holds the method."""
    path = Path(inspect.getfile(cls))
    alone = path.parent == Path(skdeepcluster.__file__).parent or cls is Toy
    paths = [path] if alone else sorted(path.parent.glob("*.py"))
    return [ast.parse(path.read_text()) for path in paths]


def reads(cls):
    """Names that the method reads of a resolved estimator: ``self.p.name``, ``p.name``.

    Those of the estimator itself count too, but for what only replaces an ``"auto"``.
    """
    own = {base.__name__ for base in cls.__mro__}
    found = {"p": set(), "self": set()}
    for tree in sources(cls):
        for scope in ast.walk(tree):
            if isinstance(scope, ast.FunctionDef):
                bound = binds_p(scope, cls)
                for value, name in attributes(scope):
                    if value.endswith(".p") or (value == "p" and bound):
                        found["p"].add(name)
            if isinstance(scope, ast.ClassDef) and scope.name in own:
                for part in scope.body:
                    if getattr(part, "name", "_resolve") != "_resolve":
                        found["self"] |= {n for v, n in attributes(part) if v == "self"}
    return found


def attributes(tree):
    """Attributes that are read, each behind the source of what it is read from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield ast.unparse(node.value), node.attr


def binds_p(function, cls):
    """Whether ``p`` is the resolved estimator in a function, and no probability."""
    for argument in function.args.args:
        if argument.arg == "p":
            kind = ast.unparse(argument.annotation) if argument.annotation else ""
            return kind in ("", cls.__name__)
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple):
                values = getattr(node.value, "elts", [node.value])
                pairs = zip(node.targets[0].elts, values, strict=False)
            for target, value in pairs:
                if ast.unparse(target) == "p" and ast.unparse(value).endswith(".p"):
                    return True
    return False


@each_method
def test_every_parameter_that_is_read_is_declared(cls):
    read, names = reads(cls)["p"], {f.name for f in fields(cls)}
    assert read and read <= names, sorted(read - names)


@each_method
def test_every_parameter_of_a_method_is_read(cls):
    found = reads(cls)
    own = {f.name for f in fields(cls)} - {f.name for f in fields(DeepClusterer)}
    read = found["p"] | found["self"]
    assert own <= read, sorted(own - read)


def test_every_shared_parameter_is_read():
    modules = (_estimator, _settings, protocol, checkpoint, files, backbone)
    trees = [ast.parse(Path(module.__file__).read_text()) for module in modules]
    names = ("p", "self", "estimator")
    read = {n for tree in trees for v, n in attributes(tree) if v in names}
    assert {f.name for f in fields(DeepClusterer)} <= read


def test_every_parameter_of_a_bank_is_read():
    read = {name for tree in sources(Generated) for _, name in attributes(tree)}
    assert {f.name for f in fields(Generated)} <= read
