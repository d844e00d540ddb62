"""The stub names what the extension module has."""

import ast
import inspect
from pathlib import Path

import kilotok
from kilotok import _core

STUB = Path(kilotok.__file__).with_name("_core.pyi")


def members(body):
    """Public names that statements of a stub define."""
    names = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_") or name == "__version__"}


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def test_names():
    tree = ast.parse(STUB.read_text())
    assert members(tree.body) == public(_core) | {"__version__"}


def test_members_and_arguments():
    tree = ast.parse(STUB.read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            native = getattr(_core, node.name)
            assert members(node.body) == public(native), node.name
            functions = [(native, f) for f in node.body if isinstance(f, ast.FunctionDef)]
        elif isinstance(node, ast.FunctionDef):
            functions = [(_core, node)]
        else:
            continue
        for owner, function in functions:
            found = inspect.getattr_static(owner, function.name)
            if not callable(found):
                continue
            names = [argument.arg for argument in function.args.args + function.args.kwonlyargs]
            assert list(inspect.signature(found).parameters) == names, function.name
