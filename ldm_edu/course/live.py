"""`%load_ext ldm_edu.course.live`: edit a function or class of the package in a notebook, and the package obeys.

A cell's top-level `def` or `class` with a public name of the package (see sync.py) is executed in the module it belongs
to, and the package's own object takes over what it says: other modules, registries, subclasses and models built before
use the edit from then on. A definition equal to the package's, comments and layout aside, changes nothing, or undoes an
edit; so does restarting the kernel. Names are looked up in the module, then in the notebook, so an edit can fill a list
of yours. Constants are not live: the package has read them already.
"""
from __future__ import annotations

import ast
import builtins
import gc
import importlib
import sys
from collections import ChainMap
from types import CellType, FunctionType, GetSetDescriptorType, MemberDescriptorType

from .sync import Definition, package

_package: dict[str, Definition] = {}    # the functions and classes that an edit can replace
_cells: list[ast.stmt] = []             # definitions of such names in the cells run so far
_edited: set[str] = set()
_outside = ChainMap(vars(builtins))     # where edits look after their module: Python, then the notebook


class _Divert(ast.NodeTransformer):
    """Turns a cell's definitions of public names into calls of `define`."""

    def visit_Module(self, cell):
        for i, node in enumerate(cell.body):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in _package:
                call = f"{node.name} = __import__({__name__!r}, fromlist=['']).define({len(_cells)})"
                cell.body[i] = ast.copy_location(ast.parse(call).body[0], node)
                _cells.append(node)
        return cell


_divert = _Divert()


def define(number: int):
    """Let definition `number` of the cells take effect; return the package's object, for the cell to bind."""
    node = _cells[number]
    home, original = _package[node.name].module, _original(node.name)
    if ast.dump(node) != ast.dump(original):
        _put(home, node, filename=sys._getframe(1).f_code.co_filename)
        _edited.add(node.name)
        print(f"live: {node.name} replaces {home}.{node.name} until the kernel restarts")
    elif node.name in _edited:
        _put(home, original)
        _edited.remove(node.name)
        print(f"live: {node.name} is {home}.{node.name} again")
    return getattr(importlib.import_module(home), node.name)


def _original(name: str) -> ast.stmt:
    node, = ast.parse(_package[name].source).body
    return ast.increment_lineno(node, _package[name].start)    # the lines that an error names


def _put(home: str, node: ast.stmt, filename: str | None = None) -> None:
    """Execute `node` in the module `home` and hand the result to the object of that name there."""
    module = importlib.import_module(home)
    code = compile(ast.Module([node], type_ignores=[]), filename or module.__file__, "exec")
    pythons = module.__builtins__
    module.__builtins__ = _outside  # a function keeps the builtins of the moment it is made
    try:
        exec(code, vars(module), scope := {})
    finally:
        module.__builtins__ = pythons
    old, new = getattr(module, node.name), scope[node.name]
    old = old.__wrapped__ if hasattr(old, "cache_clear") else old  # functools.cache calls that one
    if isinstance(old, type) and isinstance(new, type):
        _refill(old, new)
    elif isinstance(old, FunctionType) and not isinstance(new, type):
        _forward(old, new)
    else:
        kinds = type(new).__name__, type(old).__name__
        raise TypeError(f"{node.name}: got a {kinds[0]}, expected a {kinds[1]} as in {home}")
    for module in [module for name, module in sys.modules.items() if name.startswith("ldm_edu.")]:
        for value in list(vars(module).values()):
            getattr(value, "cache_clear", lambda: None)()  # a cache may hold results of the old definition


def _forward(old: FunctionType, new) -> None:
    """Make `old` call `new`, whatever decorators either of them has."""
    closure = "".join(f"{name}, " for name in old.__code__.co_freevars)  # fixed: the new code must have the same ones
    exec(f"def make({closure}):\n"
         f"  def {old.__name__}(*args, _new, **kwargs):\n"
         f"    return _new(*args, **kwargs)\n"
         f"    ({closure})\n"
         f"  return {old.__name__}", scope := {})
    old.__code__ = scope["make"](*old.__code__.co_freevars).__code__
    old.__defaults__, old.__kwdefaults__ = None, {"_new": new}
    old.__wrapped__, old.__doc__ = new, new.__doc__  # for help() and signatures


def _refill(old: type, new: type) -> None:
    """Give the class `old` the bases and attributes of `new`: instances and subclasses of `old` follow."""
    if old.__bases__ != new.__bases__:
        old.__bases__ = new.__bases__
    for holder in gc.get_referrers(new):
        if isinstance(holder, CellType):  # where super() finds its class
            holder.cell_contents = old
    tied = GetSetDescriptorType, MemberDescriptorType  # __dict__, __weakref__ and slots serve one class only
    for name in vars(old).keys() - vars(new).keys():
        if not isinstance(vars(old)[name], tied):
            delattr(old, name)
    for name, value in list(vars(new).items()):
        if not isinstance(value, tied):
            setattr(old, name, value)


def load_ipython_extension(ip) -> None:
    """`%load_ext ldm_edu.course.live`"""
    _package.update({name: definition for name, definition in package().items() if not definition.constant})
    _outside.maps[1:] = [ip.user_ns]
    ip.ast_transformers.append(_divert)


def unload_ipython_extension(ip) -> None:
    """`%unload_ext ldm_edu.course.live`: restore the package."""
    ip.ast_transformers.remove(_divert)
    while _edited:
        name = _edited.pop()
        _put(_package[name].module, _original(name))
