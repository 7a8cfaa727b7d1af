"""What modules of evae declare, read from their source: signatures without the seconds that importing torch takes.

``declared("evae.training", "train")`` is a function with the signature and docstring of ``train`` and without its body.
What a signature needs is evaluated, and nothing else: other modules of evae in the same way, the standard library by
importing it, names of other libraries as empty classes. Dataclasses and typed dictionaries are whole, with the checks
of their values.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import evae

_ROOT = Path(evae.__file__).parent
_IMPORTED = ("evae.checks", "evae.errors")  # light, and errors have to be the same classes everywhere
_WHOLE = {"dataclass", "TypedDict"}


def declared(module: str, name: str) -> Any:
    """What ``module`` of evae defines as ``name``: a function or class without its bodies, or the value of a constant.

    Raises:
        AttributeError: the module does not define it.
    """
    found = _declarations(module)
    if not found.has(name):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return found.get(name)


class _Absent(type):
    """The type of what a library defines that is not imported: empty classes, also as attributes, items and results."""

    def __getattr__(cls, name: str) -> "_Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(name)

    def __getitem__(cls, item: object) -> "_Absent":
        return cls

    def __call__(cls, *args: object, **kwargs: object) -> "_Absent":
        return cls


def _absent(name: str) -> _Absent:
    return _Absent(name, (), {})


def is_absent(kind: object) -> bool:
    """Whether it stands for what a library defines that is not imported."""
    return isinstance(kind, _Absent)


class _Declarations:
    """The names of a module, each evaluated when it is first needed."""

    def __init__(self, module: str) -> None:
        path = _source(module)
        self._module, self._path = module, str(path)
        self._names: dict[str, Any] = {"__name__": module}
        self._statements = {name: node for node in _flat(ast.parse(path.read_bytes())) for name in _bound(node)}

    def has(self, name: str) -> bool:
        """Whether the module defines or imports the name."""
        return name in self._names or name in self._statements

    def get(self, name: str) -> Any:
        """The value of a name, None while it is being evaluated."""
        if name in self._statements:
            statement = self._statements.pop(name)  # a name that needs itself ends here
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self._names[name] = self._imported(statement, name)
            else:
                self._evaluate(statement)
        return self._names.get(name)

    def _evaluate(self, statement: ast.stmt) -> None:
        outline = self._outline(statement)
        for node in ast.walk(outline):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self.get(node.id)
        code = compile(ast.Module([outline], []), self._path, "exec")
        exec(code, self._names)  # evae's own source

    def _imported(self, statement: ast.Import | ast.ImportFrom, name: str) -> Any:
        alias = next(alias for alias in statement.names if _name(alias) == name)
        if isinstance(statement, ast.Import):
            return _module(alias.name if alias.asname else alias.name.partition(".")[0])
        module = statement.module or ""
        if module.partition(".")[0] == "evae" and _source(f"{module}.{alias.name}").exists():
            return _module(f"{module}.{alias.name}")
        return getattr(_module(module), alias.name)

    def _outline(self, node: ast.stmt) -> ast.stmt:
        """A definition without what its signature does not need."""
        if isinstance(node, ast.FunctionDef):
            node.decorator_list, node.returns, node.body = [], None, _docstring(node)
        elif isinstance(node, ast.ClassDef) and not _WHOLE & {n.id for n in _heads(node) if isinstance(n, ast.Name)}:
            bases = [base for base in node.bases if not isinstance(self._value(base), _Absent)]
            node.bases, node.decorator_list, node.keywords = bases, [], []
            node.body = [*_docstring(node), *(self._outline(inner) for inner in node.body if _is_declaration(inner))]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            node = ast.copy_location(ast.Assign([node.target], node.value), node)
        return node

    def _value(self, expression: ast.expr) -> Any:
        for node in ast.walk(expression):
            if isinstance(node, ast.Name):
                self.get(node.id)
        return eval(compile(ast.Expression(expression), self._path, "eval"), self._names)


class _Module:
    """A module of evae whose attributes are what it declares."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return declared(self._module, name)


@cache
def _declarations(module: str) -> _Declarations:
    return _Declarations(module)


def _module(path: str) -> Any:
    """A module: as declared where it is evae's, else imported where that is quick, else an empty class."""
    import sys

    root = path.partition(".")[0]
    if root in sys.stdlib_module_names or path in _IMPORTED:
        return import_module(path)
    return _Module(path) if root == "evae" else _absent(path)


def _source(module: str) -> Path:
    """The file of a module of evae, whether it exists or not."""
    path = _ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _flat(tree: ast.Module) -> list[ast.stmt]:
    """A module's statements, with those that are only for type checkers."""
    return [inner for node in tree.body for inner in (node.body if isinstance(node, ast.If) else [node])]


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [_name(alias) for alias in node.names]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _name(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _heads(node: ast.ClassDef) -> list[ast.expr]:
    """A class's bases and decorators, these without their arguments."""
    return [*node.bases, *(d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)]


def _is_declaration(node: ast.stmt) -> bool:
    """Whether a class's signature needs it: its constructor, and values of its attributes."""
    is_value = isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and node.value is not None)
    return is_value or (isinstance(node, ast.FunctionDef) and node.name == "__init__")


def _docstring(node: ast.FunctionDef | ast.ClassDef) -> list[ast.stmt]:
    """A body of the docstring alone."""
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return [first if is_text else ast.copy_location(ast.Pass(), first)]
