"""Every action that the code records is declared, and every declared one is recorded somewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import imaging_ai
from imaging_ai.audit.actions import ACTIONS, declared

SOURCES = Path(imaging_ai.__file__).parent
#: What records an event, and where the action stands among its arguments.
RECORDERS = {"audit.record": 1, "audit.event": 0, "accesses.note": 1, "refusals.note": 3}
#: What a module that records, or says what is to be recorded, has in it.
WORDS = ("audit", "accesses.note", "refusals.note", "action")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """A module, with the way up from each node and the calls by the last part of their name."""

    def __init__(self, path: Path) -> None:
        self.name, self.tree = path.name, ast.parse(path.read_text())
        self.nodes = list(ast.walk(self.tree))
        self.above = {below: node for node in self.nodes for below in ast.iter_child_nodes(node)}
        self.calls: dict[str, list[ast.Call]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
                self.calls.setdefault(name, []).append(node)
        self.records = any(
            isinstance(node, ast.ImportFrom) and node.module == "imaging_ai.audit" and node.names[0].name == "record"
            for node in self.nodes
        )

    def around(self, node: ast.AST) -> Iterator[Function]:
        """The functions around a node, the innermost first."""
        while (node := self.above.get(node, self.tree)) is not self.tree:
            if isinstance(node, Function):
                yield node


class Actions:
    """The actions in use: constants that come to a recorder, through whatever functions of a module pass them on.

    Every other argument that is called `action` is one, too.
    """

    def __init__(self) -> None:
        paths = (path for path in SOURCES.rglob("*.py") if path.name != "actions.py")
        self.modules = [Module(path) for path in paths if any(word in path.read_text() for word in WORDS)]
        self.found: dict[str, str] = {}
        self.unknown: list[str] = []
        self.seen: set[tuple[Module, str]] = set()
        for module in self.modules:
            self._take_named(module)
            for name in ("record", "event", "note"):
                for call in module.calls.get(name, ()):
                    if (place := self._place(module, ast.unparse(call.func))) is not None:
                        for value in call.args[place : place + 1]:
                            self._resolve(module, call, value)

    def _place(self, module: Module, name: str) -> int | None:
        if name == "record":
            return 1 if module.records else None
        return next((place for known, place in RECORDERS.items() if name.endswith(known)), None)

    def _take_named(self, module: Module) -> None:
        values = [node.value for node in module.nodes if isinstance(node, ast.keyword) and node.arg == "action"]
        for node in module.nodes:
            if isinstance(node, ast.arguments):
                named = [*zip(node.kwonlyargs, node.kw_defaults, strict=True)]
                named += zip(reversed(node.args), reversed(node.defaults), strict=False)
                values += [value for one, value in named if one.arg == "action" and value is not None]
        for value in values:
            if isinstance(value, ast.Constant):
                self._resolve(module, value, value)

    def _resolve(self, module: Module, where: ast.AST, value: ast.expr) -> None:
        match value:
            case ast.Constant(value=""):
                pass  # a default
            case ast.Constant(value=str(action)):
                self.found[action] = module.name
            case ast.IfExp():
                self._resolve(module, where, value.body)
                self._resolve(module, where, value.orelse)
            case ast.Starred(value=ast.Subscript(value=ast.Name(id=table))):
                self._table(module, table)
            case ast.Name(id=name):
                self._named(module, where, name)
            case _:
                self.unknown.append(f"{module.name}: {ast.unparse(value)}")

    def _table(self, module: Module, name: str) -> None:
        """A table at the top of a module, whose values begin with the action."""
        for node in module.tree.body:
            if (
                isinstance(node, ast.Assign)
                and ast.unparse(node.targets[0]) == name
                and isinstance(node.value, ast.Dict)
            ):
                for one in node.value.values:
                    assert isinstance(one, ast.Tuple)
                    self._resolve(module, node, one.elts[0])

    def _named(self, module: Module, where: ast.AST, name: str) -> None:
        """A variable of a function around, or one of its parameters: then whatever its callers give."""
        for function in module.around(where):
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                    return self._resolve(module, node, node.value)
                targets = (
                    node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.For) else []
                )
                if name in [one.id for each in targets for one in ast.walk(each) if isinstance(one, ast.Name)]:
                    return None  # out of a collection: what fills it is a recorder too (`accesses.note`)
            places = [one.arg for one in function.args.args if one.arg not in ("self", "cls")]
            if name in places:
                return self._callers(module, function.name, name, places.index(name))
            if name in [one.arg for one in function.args.kwonlyargs]:
                return None
        self.unknown.append(f"{module.name}: {name}")
        return None

    def _callers(self, module: Module, function: str, name: str, place: int) -> None:
        if (module, function) in self.seen:
            return
        self.seen.add((module, function))
        for call in module.calls.get(function, ()):
            given = [one.value for one in call.keywords if one.arg == name] or call.args[place : place + 1]
            if given:
                self._resolve(module, call, given[0])


def test_every_action_in_use_is_declared_and_every_declared_action_is_in_use() -> None:
    actions = Actions()
    assert actions.unknown == [], "the test cannot tell which actions these are"
    assert {name: where for name, where in actions.found.items() if name not in ACTIONS} == {}, "declare them"
    assert set(ACTIONS) - set(actions.found) == set(), "nobody records these"


def test_an_action_that_is_not_declared_is_told_as_some_activity() -> None:
    assert declared("of-an-older-program").event.value == "110100"
