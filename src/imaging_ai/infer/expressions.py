"""What a bundle's configuration may compute and build: an allow-list, so that data stays data.

A MONAI configuration holds Python expressions (``$…``) and class names (``_target_``). Here each is checked before
anything is evaluated: expressions may do arithmetic on numbers, strings, references and tensors; classes must be
MONAI's transforms, networks or inferers, or PyTorch's layers.
"""

from __future__ import annotations

import ast
import copy
import importlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import monai
import numpy as np
import torch
from monai.bundle.config_item import ComponentLocator
from monai.inferers.inferer import Inferer
from monai.transforms.transform import Transform

from imaging_ai.errors import BundleInvalid

__all__ = ["GLOBALS", "Allowed"]

GLOBALS: dict[str, ModuleType] = {"monai": monai, "torch": torch, "np": np, "numpy": np, "math": math}
#: What a name of an expression may stand for: these modules, and what is below them.
_ROOTS: dict[str, ModuleType] = {
    **{"monai": monai, "torch": torch, "numpy": np, "math": math},
    **{"copy": copy, "os": os},
}
_USUAL_NAMES = {"monai": "monai", "torch": "torch", "np": "numpy", "numpy": "numpy", "math": "math"}
#: What stands for a reference while an expression is checked.
_PLACEHOLDER = "__reference"
#: The names that stand for functions of ours: one reads a file of the bundle (`weights.py`), one builds what MONAI
#: needs torchvision for (`retinanet.py`).
READER, PYRAMID = "bundle_file", "feature_pyramid"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_REFERENCE = re.compile(r"@\w*(?:(?:::|#)\w*)*")
_BUILTINS = _words(
    "abs all any bool dict enumerate filter float frozenset int isinstance iter len list map max min next range repr "
    "reversed round set slice sorted str sum tuple zip"
)
_NODES = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Store, ast.Attribute, ast.Subscript, ast.Slice),
    *(ast.Call, ast.keyword, ast.Starred, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.List, ast.Tuple, ast.Dict, ast.Set),
    *(ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp, ast.comprehension),
    *(ast.Lambda, ast.arguments, ast.arg, ast.JoinedStr, ast.FormattedValue),
)
#: Attributes of generators, frames, code and tracebacks: from these everything can be reached.
_INNARDS = re.compile(r"_|(gi|cr|ag|f|tb|co|func)_")
#: Methods that read or write outside the value they belong to.
_METHODS = _words(
    "apply apply_ compile ctypes dump dumps format format_map from_file load map_ map2_ mro register_forward_hook "
    "save share_memory_ storage tofile untyped_storage"
)
_TORCH = _words(
    "abs all any arange argmax argmin as_tensor cat clamp concat cuda.device_count cuda.is_available cumsum device "
    "div exp eye flip float_power from_numpy full gt ge isnan isfinite le linspace log logical_and logical_not "
    "logical_or lt max mean min mul nan_to_num no_grad norm ones ones_like permute pow prod relu reshape round sigmoid "
    "Size softmax sqrt squeeze stack std sub sum tensor Tensor topk transpose unique unsqueeze where zeros zeros_like"
)
_NUMPY = _words(
    "all any arange argmax array asarray ceil clip concatenate dtype expand_dims eye flip floor full inf linspace max "
    "mean median min moveaxis nan newaxis ones pi prod round squeeze stack std sum transpose unique where zeros"
)
_OTHERS = _words(
    "copy.copy copy.deepcopy os.path.basename os.path.dirname os.path.exists os.path.join os.path.splitext"
)


class Allowed:
    """The allow-list; with `scripts`, also what is in a bundle's own `scripts` package."""

    def __init__(self, locator: ComponentLocator, *, scripts: bool = False) -> None:
        self._locator = locator
        self._scripts = scripts

    def check(self, config: Any, where: str, names: Mapping[str, str] | None = None) -> None:
        """Check a part of a configuration, and all below it; `names` is what its imports bind.

        Raises
        ------
        BundleInvalid
            If it would do more than compute; the message names the place and the remedy.
        """
        names = {**_USUAL_NAMES, **(names or {})}
        if isinstance(config, dict):
            if "_target_" in config:
                self._check_target(config, where)
            for key, value in config.items():
                self.check(value, f"{where}::{key}", names)
        elif isinstance(config, list):
            for index, value in enumerate(config):
                self.check(value, f"{where}::{index}", names)
        elif isinstance(config, str) and config.startswith("$"):
            self._check_expression(config[1:], where, names)

    def values(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return what the names of expressions stand for, of those that may stand for something."""
        found = {name: self._value(path.split(".")) for name, path in {**_USUAL_NAMES, **names}.items()}
        return {name: value for name, value in found.items() if value is not None and name not in (READER, PYRAMID)}

    def resolve(self, target: object, where: str) -> Any:
        """Return the class (or network function) that `_target_` names, if it may be built."""
        if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
            raise BundleInvalid(f"{where}: _target_ must be the name of a class")
        module = self._locator.get_component_module_name(target)
        path = target if not module else f"{module if isinstance(module, str) else module[0]}.{target}"
        found = _locate(path, self._scripts, where)
        if found is None:
            own = path.startswith("scripts.")
            why = "is not in the bundle" if own else f"is not known here (MONAI {monai.__version__})"
            remedy = "add its scripts/" if own else "if MONAI has renamed it, write its new name"
            raise BundleInvalid(f"{where}: _target_ {target} {why}; {remedy}")
        if not _may_be_built(found, self._scripts):
            raise BundleInvalid(
                f"{where}: _target_ {target} is refused: only MONAI's transforms, networks and inferers and torch.nn "
                "may be built" + ("; a bundle's own scripts run only where they are allowed" * ("scripts" in path))
            )
        return found

    def _check_target(self, config: dict[str, Any], where: str) -> None:
        self.resolve(config["_target_"], where)
        if config.get("_mode_", "default") not in ("default", "callable"):
            raise BundleInvalid(f"{where}: _mode_ {config['_mode_']} is refused")
        for key, value in config.items():
            if key.endswith("url") and value:
                raise BundleInvalid(f"{where}::{key}: downloads are refused; put the weights into models/")

    def _check_expression(self, source: str, where: str, names: Mapping[str, str]) -> None:
        named = _REFERENCE.sub(_PLACEHOLDER, source)
        try:
            if _PLACEHOLDER in source:
                raise ValueError(_PLACEHOLDER)
            tree = ast.parse(named.strip(), mode="eval")
        except (SyntaxError, RecursionError, ValueError) as error:
            raise BundleInvalid(f"{where}: ${source} is refused: only expressions are evaluated") from error
        for word in self._unknown(tree, names):
            raise BundleInvalid(f"{where}: ${source} is refused: it uses {word}, which may do more than compute")

    def _unknown(self, tree: ast.Expression, names: Mapping[str, str]) -> Iterator[str]:
        """Yield what an expression uses beyond what is allowed."""
        nodes = list(ast.walk(tree))
        bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
        bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        for node in nodes:
            if not isinstance(node, _NODES):
                yield type(node).__name__
            elif isinstance(node, ast.Attribute) and (_INNARDS.match(node.attr) or node.attr in _METHODS):
                yield f".{node.attr}"
            elif isinstance(node, ast.keyword) and node.arg in ("pretrained", "weights"):
                yield from () if _is_nothing(node.value) else (f"{node.arg}, a download",)
            elif isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
                yield from self._unknown_name(_path(node), names, bound)

    def _unknown_name(self, path: list[str], names: Mapping[str, str], bound: set[str]) -> Iterator[str]:
        """Yield a dotted name that stands for nothing that is allowed."""
        if not path or path[0] in (_PLACEHOLDER, READER, PYRAMID):
            return
        if path[0] in names:  # whether or not it is bound as well: elsewhere in the expression it may not be
            whole = [*names[path[0]].split("."), *path[1:]]
            if isinstance(self._value(whole), ModuleType):
                yield f"the module {'.'.join(path)}"
            elif not self._is_known(whole):
                yield ".".join(path)
        elif path[0] not in _BUILTINS and path[0] not in bound:
            yield ".".join(path)

    def _value(self, path: list[str]) -> Any:
        """Return what a dotted path stands for; a module that another one imported is not below that one."""
        if path[0] == "scripts" and self._scripts:
            return _locate(".".join(path), True, "imports")
        found: Any = _ROOTS.get(path[0])
        for index, name in enumerate(path[1:], start=1):
            found = getattr(found, name, None)
            is_stray = isinstance(found, ModuleType) and found.__name__ != ".".join(path[: index + 1])
            if is_stray and path[:2] != ["os", "path"]:
                return None
        return found

    def _is_known(self, path: list[str]) -> bool:
        found, root, name = self._value(path), path[0], ".".join(path[1:])
        if found is None and path != ["numpy", "newaxis"]:
            return False
        if root in ("math", "scripts") or isinstance(found, torch.dtype) or ".".join(path) in _OTHERS:
            return True
        if root == "torch":
            is_layer = name.startswith("nn.") and str(getattr(found, "__module__", "")).startswith("torch")
            return is_layer or name in _TORCH
        if root == "numpy":
            is_number = isinstance(found, type) and issubclass(found, np.generic)
            return name in _NUMPY or is_number or isinstance(found, np.ufunc)
        if root == "monai":
            is_constant = name.startswith("utils.") and isinstance(found, str | int | float)
            return is_constant or _may_be_built(found, scripts=False)
        return False


def _locate(path: str, scripts: bool, where: str) -> Any:
    """Find an object by its dotted path, importing nothing but MONAI, torch and (when allowed) scripts."""
    parts = path.split(".")
    if parts[0] not in ("monai", "torch", *(("scripts",) if scripts else ())):
        return None if parts[0] != "scripts" else object()
    for cut in range(len(parts), 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and not f"{path}.".startswith(f"{error.name}."):
                raise BundleInvalid(
                    f"{where}: {path} needs the package {error.name} (pip install {error.name.split('.')[0]})"
                ) from error
            continue
        for name in parts[cut:]:
            found = getattr(found, name, None)
        return found
    return None


def _may_be_built(found: Any, scripts: bool) -> bool:
    if found is torch.device:
        return True
    module = str(getattr(found, "__module__", ""))
    if scripts and module.startswith("scripts"):
        return True
    if isinstance(found, type):
        return issubclass(found, torch.nn.Module | Transform | Inferer) and module.startswith(("monai.", "torch.nn."))
    return (
        isinstance(found, FunctionType)
        and module.startswith("monai.networks.nets.")
        and found.__qualname__ == found.__name__
        and not found.__name__.startswith(("_", "get_"))
    )


def _is_nothing(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not node.value


def _path(node: ast.expr) -> list[str]:
    """Return the dotted path of ``torch.nn.functional.relu``, empty for an attribute of anything but a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else []
