"""What a bundle's configuration may compute and build: an allow-list, so that data stays data.

A MONAI configuration holds Python expressions (``$…``) and class names (``_target_``). Here each is checked before
anything is evaluated: expressions may do arithmetic on numbers, strings, references and tensors; classes must be
MONAI's transforms, networks or inferers, or PyTorch's layers.
"""

from __future__ import annotations

import ast
import importlib
import math
import re
from types import ModuleType
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


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_REFERENCE = re.compile(r"@\w*(?:(?:::|#)\w*)*")
_BUILTINS = _words(
    "abs all any bool dict enumerate float int len list max min range reversed round set sorted str sum tuple zip"
)
_NODES = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Store, ast.Attribute, ast.Subscript, ast.Slice),
    *(ast.Call, ast.keyword, ast.Starred, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.List, ast.Tuple, ast.Dict, ast.Set),
    *(ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp, ast.comprehension),
    *(ast.Lambda, ast.arguments, ast.arg),
)
#: Methods that read or write outside the value they belong to.
_METHODS = _words(
    "apply apply_ dump dumps format format_map from_file load map_ map2_ register_forward_hook "
    "save share_memory_ storage tofile untyped_storage"
)
_TORCH = _words(
    "abs all any arange argmax argmin as_tensor cat clamp concat cuda.device_count cuda.is_available cumsum device "
    "div exp eye flip float_power full gt ge isnan isfinite le linspace log logical_and logical_not logical_or lt max "
    "mean min mul nan_to_num no_grad norm ones ones_like permute pow prod relu reshape round sigmoid Size softmax sqrt "
    "squeeze stack std sub sum tensor Tensor topk transpose unique unsqueeze where zeros zeros_like"
)
_NUMPY = _words(
    "all any arange argmax array asarray ceil clip concatenate dtype expand_dims eye flip floor full inf linspace max "
    "mean median min moveaxis nan newaxis ones pi prod round squeeze stack std sum transpose unique where zeros"
)


class Allowed:
    """The allow-list; with `scripts`, also the classes in a bundle's own `scripts` package."""

    def __init__(self, locator: ComponentLocator, *, scripts: bool = False) -> None:
        self._locator = locator
        self._scripts = scripts

    def check(self, config: Any, where: str) -> None:
        """Check a part of a configuration, and all below it.

        Raises
        ------
        BundleInvalid
            If it would do more than compute; the message names the place and the remedy.
        """
        if isinstance(config, dict):
            if "_target_" in config:
                self._check_target(config, where)
            for key, value in config.items():
                self.check(value, f"{where}::{key}")
        elif isinstance(config, list):
            for index, value in enumerate(config):
                self.check(value, f"{where}::{index}")
        elif isinstance(config, str) and config.startswith("$"):
            _check_expression(config[1:], where)

    def resolve(self, target: object, where: str) -> Any:
        """Return the class (or network function) that `_target_` names, if it may be built."""
        if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
            raise BundleInvalid(f"{where}: _target_ must be the name of a class")
        module = self._locator.get_component_module_name(target)
        path = target if not module else f"{module if isinstance(module, str) else module[0]}.{target}"
        found = _locate(path, self._scripts)
        if found is None:
            raise BundleInvalid(f"{where}: _target_ {target} is not known here (MONAI {monai.__version__})")
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


def _locate(path: str, scripts: bool) -> Any:
    """Find an object by its dotted path, importing nothing but MONAI, torch and (when allowed) scripts."""
    parts = path.split(".")
    if parts[0] not in ("monai", "torch", *(("scripts",) if scripts else ())):
        return None if parts[0] != "scripts" else object()
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
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
    return callable(found) and module.startswith("monai.networks.nets.")


def _check_expression(source: str, where: str) -> None:
    named = _REFERENCE.sub("__reference", source)
    try:
        tree = ast.parse(named, mode="eval")
    except SyntaxError as error:
        raise BundleInvalid(f"{where}: ${source} is refused: only expressions are evaluated") from error
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        why_not = _why_not(node, bound, nested=id(node) in inner)
        if why_not:
            raise BundleInvalid(f"{where}: ${source} is refused: it uses {why_not}, which may do more than compute")


def _why_not(node: ast.AST, bound: set[str], *, nested: bool) -> str:
    """Say what about one node is not allowed, "" when it is."""
    if not isinstance(node, _NODES):
        return type(node).__name__
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        if node.id in GLOBALS and not nested:
            return f"the module {node.id}"
        known = node.id in bound or node.id in GLOBALS or node.id in _BUILTINS or node.id == "__reference"
        return "" if known else node.id
    if isinstance(node, ast.Attribute):
        if node.attr.startswith("_") or node.attr in _METHODS:
            return f".{node.attr}"
        path = _path(node)
        if path and path[0] in GLOBALS and not nested and path[0] not in bound:
            return "" if _is_known(path) else ".".join(path)
    return ""


def _path(node: ast.expr) -> list[str]:
    """Return the dotted path of ``torch.nn.functional.relu``, empty for an attribute of anything but a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else []


def _is_known(path: list[str]) -> bool:
    root = GLOBALS[path[0]]
    found: Any = root
    for index, name in enumerate(path[1:], start=1):
        if isinstance(found, ModuleType) and found.__name__ != ".".join([root.__name__, *path[1:index]]):
            return False  # a module that another one imported, as torch.nn.functional.torch
        found = getattr(found, name, None)
    name = ".".join(path[1:])
    if root is math or isinstance(found, torch.dtype):
        return True
    if root is torch:
        is_layer = name.startswith("nn.") and str(getattr(found, "__module__", "")).startswith("torch")
        return is_layer or name in _TORCH
    if root is np:
        return (
            name in _NUMPY or isinstance(found, np.ufunc) or (isinstance(found, type) and issubclass(found, np.generic))
        )
    return isinstance(found, type) and issubclass(found, torch.nn.Module | Transform | Inferer)
