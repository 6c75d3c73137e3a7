"""The rules: which models run on which series, where the results go, and why a series was not taken.

A rule is a `[[rules]]` table of the settings:

    name     = "brain MR"
    when     = { Modality = "MR", BodyPartExamined = ["HEAD", "BRAIN"], instances = ">= 20" }   see core.matching
    run      = ["brain"]         models
    shadow   = ["brain@1.1"]     versions of them that run beside: their results are kept and never sent
    send     = ["pacs"]          destinations of the results
    priority = "MEDIUM"          HIGH, MEDIUM or LOW (0074,1200)
    select   = "all"             of the matching series of a study: "all", the "largest", or the "newest"
    inputs   = { brats = { t1 = { SeriesDescription = "*T1*" } } }   narrows what a channel of a model may be
    parameters = { }             handed to the models

Everything here is pure: series and rules in, decisions out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from imaging_ai.core.job import Priority
from imaging_ai.core.matching import Conditions
from imaging_ai.core.tables import name_of
from imaging_ai.errors import ConfigError

__all__ = ["Rule", "Select", "parse_rules"]

Select = Literal["all", "largest", "newest"]

_KEYS = ("name", "when", "run", "shadow", "send", "priority", "select", "inputs", "parameters")


@dataclass(frozen=True, slots=True)
class Rule:
    """Which series are taken, by which models, and what becomes of the results."""

    name: str
    when: Conditions
    run: tuple[str, ...]
    send: tuple[str, ...] = ()
    priority: Priority = Priority.MEDIUM
    select: Select = "all"
    inputs: Mapping[str, Mapping[str, Conditions]] = field(default_factory=dict)
    parameters: Mapping[str, object] = field(default_factory=dict)
    shadow: tuple[str, ...] = ()

    @property
    def shadows(self) -> dict[str, str]:
        """The models that run in the shadow, each with the one of `run` that it is a version of."""
        plain = {name.partition("@")[0]: name for name in self.run}
        return {name: plain[name.partition("@")[0]] for name in self.shadow}

    @classmethod
    def parse(cls, mapping: Mapping[str, Any], where: str) -> Rule:
        """Read one `[[rules]]` table.

        Raises
        ------
        ConfigError
            If anything in it is unknown, missing or unreadable; the text names `where`, the key and the remedy.
        """
        name = name_of(mapping, _KEYS, where, what="rule", example="brain MR")
        where = f"{where}: rule {name!r}"
        run = _names(mapping, "run", where)
        if not run:
            raise ConfigError(f'{where}: run names no model; name at least one, as in run = ["brain"]')
        return cls(
            name=name,
            when=Conditions.parse(_table(mapping, "when", where), f"{where}: when"),
            run=run,
            send=_names(mapping, "send", where),
            priority=Priority[_choice(mapping, "priority", tuple(Priority.__members__), "MEDIUM", where)],
            select=_choice(mapping, "select", get_args(Select), "all", where),  # type: ignore[arg-type]
            inputs=_inputs(mapping, where),
            parameters=dict(_table(mapping, "parameters", where)),
            shadow=_shadow(mapping, run, where),
        )


def parse_rules(
    tables: Iterable[Mapping[str, Any]],
    where: str,
    *,
    models: Collection[str] | None = None,
    destinations: Collection[str] | None = None,
) -> tuple[Rule, ...]:
    """Read every `[[rules]]` table, and check the models and destinations that they name when those are given."""
    rules = tuple(Rule.parse(table, f"{where}: rules[{number}]") for number, table in enumerate(tables, 1))
    seen: set[str] = set()
    for rule in rules:
        if rule.name in seen:
            raise ConfigError(f"{where}: two rules are called {rule.name!r}; give each its own name")
        seen.add(rule.name)
        _check_known(rule.run, models, "run", "model", f"{where}: rule {rule.name!r}")
        _check_known(rule.shadow, models, "shadow", "model", f"{where}: rule {rule.name!r}")
        _check_known(rule.send, destinations, "send", "destination", f"{where}: rule {rule.name!r}")
        if strangers := set(rule.inputs) - set(rule.run):
            raise ConfigError(f"{where}: rule {rule.name!r}: inputs: {min(strangers)} is not in run; add it there")
    return rules


def _check_known(names: Sequence[str], known: Collection[str] | None, key: str, what: str, where: str) -> None:
    for name in names:
        if known is not None and name not in known:
            remedy = f"known are {', '.join(sorted(known))}" if known else f"there is no {what} at all"
            raise ConfigError(f"{where}: {key}: {name!r} is no {what}; {remedy}")


def _table(mapping: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = mapping.get(key, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: {key} must be a table, as in {key} = {{ … }}")
    return table


def _names(mapping: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    names = mapping.get(key, [])
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f'{where}: {key} must be a list of names, as in {key} = ["one", "two"]')
    return tuple(dict.fromkeys(names))


def _shadow(mapping: Mapping[str, Any], run: Sequence[str], where: str) -> tuple[str, ...]:
    names = _names(mapping, "shadow", where)
    known = {name.partition("@")[0] for name in run}
    for name in names:
        if name in run or name.partition("@")[0] not in known:
            raise ConfigError(
                f"{where}: shadow: {name!r} must be another version of a model in run, as in NAME@VERSION"
            )
    return names


def _choice(mapping: Mapping[str, Any], key: str, choices: Sequence[str], default: str, where: str) -> str:
    value = mapping.get(key, default)
    if value not in choices:
        raise ConfigError(f"{where}: {key} is {value!r}; choose {', '.join(choices)}")
    return str(value)


def _inputs(mapping: Mapping[str, Any], where: str) -> dict[str, dict[str, Conditions]]:
    inputs: dict[str, dict[str, Conditions]] = {}
    for model, channels in _table(mapping, "inputs", where).items():
        place = f"{where}: inputs.{model}"
        if not isinstance(channels, Mapping) or not all(isinstance(value, Mapping) for value in channels.values()):
            raise ConfigError(f"{place} must be a table of channels, as in {{ t1 = {{ SeriesDescription = '*T1*' }} }}")
        inputs[model] = {name: Conditions.parse(value, f"{place}.{name}") for name, value in channels.items()}
    return inputs
