"""Import modules and files that the command line names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from unifreeze._files import is_file, is_folder
from unifreeze._protocol import backend_names, is_installed, missing_framework
from unifreeze._wrong_files import likely, meant
from unifreeze.errors import TargetError, UnifreezeError, listing, nearest


def split_target(target: str) -> tuple[str, str, str]:
    """Split at the colon before the factory, not at the colon after a drive letter."""
    match = re.match(r"(.+?\.py):(.*)", target, re.DOTALL)
    return (match[1], ":", match[2]) if match else target.partition(":")


def target_hint(target: str) -> str:
    """Return the hint on how to name a model."""
    place = target.partition(":")[0]
    file = Path(place if place.endswith(".py") else f"{place}.py")
    if is_file(file):
        return f"name a function in it: {_as_written(file)}:{listing(_functions(file), limit=3)}"
    module, _, name = target.rpartition(".")
    file = Path(f"{module}.py")
    if is_file(file) and name in _functions(file):
        return f"a colon comes before the function: {_as_written(file)}:{name}"
    return "package.module:factory or ./file.py:factory; with arguments factory(key=literal, …)"


def _as_written(file: Path) -> str:
    return file.as_posix() if len(file.parts) > 1 else f"./{file.as_posix()}"


def _functions(file: Path) -> list[str]:
    """Return the names that a file defines, without running it."""
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        return ["factory"]
    named = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in named if not name.startswith("_")] or ["factory"]


def import_target(name: str, target: str) -> Any:
    """Import a module by its name, or by the path of its file.

    Args:
        name: A module name, or the path of a file.
        target: The whole target, for messages.

    Raises:
        TargetError: The module does not exist, or its import fails.
        MissingFrameworkError: Its framework is not installed.
    """
    here = str(_current_folder())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        if name.endswith(".py"):
            return _import_file(Path(name))
        if re.search(r"[/\\]|^\.", name):
            raise ModuleNotFoundError(name=name)
        return importlib.import_module(name)
    except TargetError:
        raise
    except ModuleNotFoundError as error:
        if error.name:
            raise missing_module(error, target) from None
        raise TargetError(f"{name} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"{name} cannot be imported: {type(error).__name__}: {error}", hint=_cure_of(error)
        ) from error


def _cure_of(error: BaseException) -> str:
    """Return what may help: what is imported may have been built for another framework."""
    if re.search(r"operator \w+::\w+ does not exist|undefined symbol", str(error)):
        return (
            "a package was built for another build of its framework; install both from one index, "
            "in one command"
        )
    return "import it in Python to see where it fails"


def _current_folder() -> Path:
    """Return the current folder.

    Raises:
        TargetError: Somebody has deleted it.
    """
    try:
        return Path.cwd()
    except OSError:
        raise TargetError(
            "the current folder does not exist any more", hint="cd into one that does"
        ) from None


def _import_file(file: Path) -> Any:
    """Import a file by its path, as if it were run from its folder."""
    path = file.expanduser().resolve()
    if not is_file(path):
        raise TargetError(
            f"there is no file {file}",
            context=f"looked in {path.parent}",
            hint=meant(file.expanduser(), (".py",)),
        )
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    name = (
        path.stem if known is None and path.stem.isidentifier() else f"unifreeze_file_{path.stem}"
    )
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{file} cannot be imported")
    sys.path.insert(0, str(path.parent))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def missing_module(error: ModuleNotFoundError, target: str) -> UnifreezeError:
    """Return the error for a missing module, or a missing framework."""
    root = (error.name or "").partition(".")[0]
    if root in backend_names() and not is_installed(root):
        return missing_framework(root)
    return TargetError(
        f"{target}: there is no module {error.name!r}",
        context=f"looked in {_current_folder()} and in the installed packages",
        hint=_missing_hint(target),
    )


def _missing_hint(target: str) -> str:
    """Return the hint on how to name a file, if the module is one; or where to run from."""
    place, _, call = split_target(target)
    files = Path(f"{place}.py"), Path(f"{place.replace('.', '/')}.py")
    near = (likely(file, (".py",)) for file in files if is_folder(file.parent))
    for file in (*filter(is_file, files), *filter(None, near)):
        return f"name the file: {_as_written(file)}:{call}"
    return "run from the folder that holds it, install it, or name a file: ./file.py:factory"


def attribute_of(module: Any, name: str, target: str) -> Any:
    """Return an attribute of a module.

    Raises:
        TargetError: There is none of that name; the message lists similar names.
    """
    try:
        return getattr(module, name)
    except AttributeError:
        public = [key for key in vars(module) if not key.startswith("_")]
        close = nearest(name, public)
        raise TargetError(
            f"{module.__name__} has no {name!r} (in {target})",
            context=f"it has: {listing(public, limit=12)}",
            hint=f"did you mean {close[0]!r}?" if close else "",
        ) from None
