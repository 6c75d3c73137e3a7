"""What is to be run on a study, and for every series that is not taken, why: series and rules in, decisions out.

A series is taken when a rule's `when` and the model's own `accepts` hold. A model of several inputs takes one series of
the study for each. One model runs once on the same series, whatever number of rules ask for it: their destinations are
joined and the highest priority counts. Series that are themselves the outcome of reading (segmentations, reports,
presentation states …) are taken only by a rule that names their Modality.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from imaging_ai.catalog import Catalog, ModelEntry
from imaging_ai.core.instance import SeriesSummary
from imaging_ai.core.job import SHADOW_OF, Priority
from imaging_ai.core.matching import Conditions
from imaging_ai.errors import ConfigError, NotFound
from imaging_ai.route.rules import Rule, Select

__all__ = ["Decision", "Run", "Skip", "keywords_of", "looks_around", "plan"]

#: Modalities (PS3.3 C.7.3.1.1.1) of objects that come out of reading images, not out of a scanner.
_DERIVED = frozenset({"SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTRECORD", "REG", "FID", "RWV", "DOC", "PLAN"})


@dataclass(frozen=True, slots=True)
class Run:
    """Run `model` on `series`; for a model of several inputs, `channels` names what each series is."""

    rule: str
    model: ModelEntry
    series: tuple[SeriesSummary, ...]
    channels: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    priority: Priority = Priority.MEDIUM
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skip:
    """A series that a rule, or one of its models, does not take; `waits` when it is too early to tell."""

    series_instance_uid: str
    rule: str
    model: str
    reasons: tuple[str, ...]
    waits: bool = False

    def __str__(self) -> str:
        model = f", model {self.model!r}" if self.model else ""
        return f"rule {self.rule!r}{model}: {'; '.join(self.reasons)}"


Decision = Run | Skip


@dataclass(frozen=True, slots=True)
class _Study:
    """The series of a study that a rule matches: those to decide on, and those that are still being received."""

    matching: tuple[SeriesSummary, ...]
    due: frozenset[str]
    receiving: frozenset[str]

    def is_due(self, series: SeriesSummary) -> bool:
        return series.series_instance_uid in self.due

    def is_received(self, series: SeriesSummary) -> bool:
        return series.series_instance_uid not in self.receiving


def plan(
    rules: Sequence[Rule],
    study: Sequence[SeriesSummary],
    catalog: Catalog,
    *,
    due: Collection[str] | None = None,
    receiving: Collection[str] = (),
) -> list[Decision]:
    """Decide on the series `due` (all of the study by default), in the light of the others.

    `receiving` are the series still on their way; a choice among series waits for them.
    """
    due = frozenset(series.series_instance_uid for series in study) if due is None else frozenset(due)
    decisions: list[Decision] = []
    for rule in rules:
        matching = []
        for series in study:
            reasons = _rule_mismatches(rule, series)
            if not reasons:
                matching.append(series)
            elif series.series_instance_uid in due:
                decisions.append(Skip(series.series_instance_uid, rule.name, "", tuple(reasons)))
        decisions += _apply(rule, _Study(tuple(matching), due, frozenset(receiving)), catalog)
    return _joined(decisions)


def keywords_of(rules: Sequence[Rule], catalog: Catalog) -> frozenset[str]:
    """Return the keywords of all attributes that the rules and their models look at."""
    conditions = [rule.when for rule in rules]
    for rule in rules:
        conditions += (narrowed for channels in rule.inputs.values() for narrowed in channels.values())
        for model in _models(rule, catalog):
            conditions += (model.accepts, *model.inputs.values())
    return frozenset(keyword for one in conditions for keyword in one.keywords)


def looks_around(rules: Sequence[Rule], catalog: Catalog) -> bool:
    """Say whether any rule needs to see the other series of a study."""
    return any(rule.select != "all" or any(model.inputs for model in _models(rule, catalog)) for rule in rules)


def _models(rule: Rule, catalog: Catalog) -> Iterator[ModelEntry]:
    for name in (*rule.run, *rule.shadow):
        with suppress(NotFound, ConfigError):  # told for each series, in `plan`
            yield catalog.get(name)


def _rule_mismatches(rule: Rule, series: SeriesSummary) -> list[str]:
    if series.modality in _DERIVED and not rule.when.names("Modality", series.modality):
        return [f"a series of Modality {series.modality} is taken only by a rule that names it"]
    return rule.when.mismatches(series.attributes, series.instances)


def _apply(rule: Rule, study: _Study, catalog: Catalog) -> Iterator[Decision]:
    due = [series for series in study.matching if study.is_due(series)]
    for name in (*rule.run, *rule.shadow) if due else ():
        try:
            model, shown = catalog.get(name), rule.shadows.get(name)
            if shown is not None and catalog.get(shown).digest == model.digest:
                continue  # it has come out of the shadow
        except (NotFound, ConfigError) as error:
            for series in due:
                yield Skip(series.series_instance_uid, rule.name, name, (error.message,))
            continue
        decisions = (_join if model.inputs else _select)(rule, model, study)
        yield from decisions if shown is None else (_in_shadow(one, shown) for one in decisions)


def _in_shadow(decision: Decision, shown: str) -> Decision:
    """Keep a run from sending, behind all others, with the name of the model that it stands behind."""
    if isinstance(decision, Skip):
        return decision
    parameters = {**decision.parameters, SHADOW_OF: shown}
    return replace(decision, destinations=(), priority=Priority.LOW, parameters=parameters)


def _select(rule: Rule, model: ModelEntry, study: _Study) -> Iterator[Decision]:
    """Take the series that the model accepts: every one, or the one that the rule selects."""
    accepted = []
    for series in study.matching:
        reasons = model.accepts.mismatches(series.attributes, series.instances)
        if not reasons:
            accepted.append(series)
        elif study.is_due(series):
            yield Skip(series.series_instance_uid, rule.name, model.name, tuple(reasons))
    due = [series for series in accepted if study.is_due(series)]
    if rule.select == "all":
        yield from (_run(rule, model, (series,)) for series in due)
    elif not all(study.is_received(series) for series in accepted):
        yield from _waiting(rule, model, due)
    elif due:
        best = _choose(accepted, rule.select)
        yield _run(rule, model, (best,))
        reason = f"the {rule.select} of {len(accepted)} matching series is taken, {best.series_instance_uid}"
        for series in accepted:
            if series is not best:
                yield Skip(series.series_instance_uid, rule.name, model.name, (reason,))


def _join(rule: Rule, model: ModelEntry, study: _Study) -> Iterator[Decision]:
    """Take one series of the study for each input of the model."""
    narrowed = rule.inputs.get(model.name, {})
    fitting = {
        channel: [
            series
            for series in study.matching
            if not _channel_mismatches(series, model.accepts, conditions, narrowed.get(channel))
        ]
        for channel, conditions in model.inputs.items()
    }
    usable = {series.series_instance_uid: series for candidates in fitting.values() for series in candidates}
    due = []
    for series in study.matching:
        if not study.is_due(series):
            continue
        if series.series_instance_uid in usable:
            due.append(series)
        else:
            yield Skip(series.series_instance_uid, rule.name, model.name, _why_no_channel(series, rule, model))
    if not all(study.is_received(series) for series in usable.values()):
        yield from _waiting(rule, model, due)
    elif due:
        yield from _join_due(rule, model, fitting, due)


def _join_due(
    rule: Rule, model: ModelEntry, fitting: Mapping[str, Sequence[SeriesSummary]], due: Sequence[SeriesSummary]
) -> Iterator[Decision]:
    chosen: dict[str, SeriesSummary] = {}
    for channel, candidates in fitting.items():
        if free := [series for series in candidates if series not in chosen.values()]:
            chosen[channel] = _choose(free, rule.select)
    missing = [channel for channel in fitting if channel not in chosen]
    if missing:
        reason = f"no series of the study is there for the input {', '.join(missing)}"
        yield from (Skip(series.series_instance_uid, rule.name, model.name, (reason,)) for series in due)
        return
    if any(series in chosen.values() for series in due):
        yield _run(rule, model, tuple(chosen.values()), tuple(chosen))
    for series in due:
        if series not in chosen.values():
            reason = "another series of the study is taken for the input that it fits"
            yield Skip(series.series_instance_uid, rule.name, model.name, (reason,))


def _waiting(rule: Rule, model: ModelEntry, due: Sequence[SeriesSummary]) -> Iterator[Skip]:
    reason = "waits for a series of the study that is still being received"
    return (Skip(series.series_instance_uid, rule.name, model.name, (reason,), waits=True) for series in due)


def _why_no_channel(series: SeriesSummary, rule: Rule, model: ModelEntry) -> tuple[str, ...]:
    narrowed = rule.inputs.get(model.name, {})
    return tuple(
        f"not the input {channel} ({', '.join(reasons)})"
        for channel, conditions in model.inputs.items()
        if (reasons := _channel_mismatches(series, model.accepts, conditions, narrowed.get(channel)))
    )


def _channel_mismatches(series: SeriesSummary, *conditions: Conditions | None) -> list[str]:
    return [
        sentence
        for wanted in conditions
        if wanted is not None
        for sentence in wanted.mismatches(series.attributes, series.instances)
    ]


def _choose(series: Sequence[SeriesSummary], select: Select) -> SeriesSummary:
    if select == "newest":
        return max(series, key=lambda one: (_started(one), one.instances, one.series_instance_uid))
    return max(series, key=lambda one: (one.instances, _started(one), one.series_instance_uid))


def _started(series: SeriesSummary) -> tuple[str, str]:
    return series.attributes.get("SeriesDate", ""), series.attributes.get("SeriesTime", "")


def _run(rule: Rule, model: ModelEntry, series: tuple[SeriesSummary, ...], channels: tuple[str, ...] = ()) -> Run:
    return Run(rule.name, model, series, channels, rule.send, rule.priority, rule.parameters)


def _joined(decisions: Sequence[Decision]) -> list[Decision]:
    """Make one run of those that ask the same of the same model."""
    joined: list[Decision] = []
    for decision in decisions:
        twin = next((at for at, other in enumerate(joined) if _same_work(other, decision)), None)
        if twin is None:
            joined.append(decision)
            continue
        first = joined[twin]
        assert isinstance(first, Run) and isinstance(decision, Run)
        joined[twin] = replace(
            first,
            destinations=tuple(dict.fromkeys((*first.destinations, *decision.destinations))),
            priority=max(first.priority, decision.priority),
        )
    return joined


def _same_work(one: Decision, other: Decision) -> bool:
    if not isinstance(one, Run) or not isinstance(other, Run):
        return False
    return (one.model.digest, one.series, one.channels, one.parameters) == (
        other.model.digest,
        other.series,
        other.channels,
        other.parameters,
    )
