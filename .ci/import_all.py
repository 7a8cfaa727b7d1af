"""Import every module of the installed package: none may need what only developers have."""

import importlib
import pkgutil

import evae

modules = [m.name for m in pkgutil.walk_packages(evae.__path__, "evae.")]
for module in modules:
    importlib.import_module(module)
for name in evae.__all__:
    getattr(evae, name)
print(f"imported {len(modules)} modules of {evae.__file__}")  # noqa: T201
