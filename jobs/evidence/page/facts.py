"""The lists of names and values at the end of the report: what was removed, the data, the record for reproduction."""

from __future__ import annotations

import json

import yaml
from markupsafe import Markup, escape

from deshi.jobs.evidence.numbers import FINE_PERCENT, PERCENT
from deshi.jobs.evidence.page.shown import Shown
from deshi.jobs.evidence.schema import Evidence, ModelRow
from deshi.serve.texts import named, recorded

Facts = list[tuple[str, Markup | str]]


def removed(s: Shown) -> Facts:
    """What the winner no longer has."""
    gone = s.evidence.removed
    if any(row.role == "chosen" and row.asked is not None for row in s.evidence.models):
        return [(s.say("removed.parameters"), s.say("removed.vendor"))]
    layers = [s.number(gone.layers, i) for i in range(len(gone.layers))]
    return [
        (s.say("removed.layers"), escape(", ").join(layers) or s.say("none")),
        (s.say("removed.ffn"), s.number(gone, "ffn_share", style=PERCENT)),
        (s.say("removed.vocabulary"), s.count(gone, "vocabulary")),
        (s.say("removed.parameters"), s.number(gone, "parameters_share", style=PERCENT)),
        (s.say("removed.bits"), s.quote(recorded(gone.bits, s.lang), gone, "bits") or "–"),
    ]


def data(chosen: ModelRow | None, s: Shown) -> list[tuple[str, Facts]]:
    """Rows, labels, truncation, unknown tokens, duplicates and near-twins."""
    told = s.evidence.data
    unknown = chosen.quality.unknown_token_rate if chosen else None
    cautions: Facts = [
        (s.say("data.duplicates"), s.count(told, "duplicates_dropped")),
        (s.say("data.near_twins"), s.count(told, "near_twins")),
    ]
    if unknown is not None:
        cautions.append((s.say("data.unknown"), s.value(unknown, FINE_PERCENT)))
    return [
        (
            s.say("data.labels"),
            [(named("data.labels", use, s.lang), s.count(told.labels, use)) for use in told.labels],
        ),
        (
            s.say("data.rows"),
            [(named("data.rows", split, s.lang), s.count(told.rows, split)) for split in told.rows],
        ),
        (
            s.say("data.truncated"),
            [
                (named("data.rows", split, s.lang), s.number(told.truncated, split, style=FINE_PERCENT))
                for split in told.truncated
            ],
        ),
        (s.say("data.quality"), cautions),
    ]


def origin(s: Shown) -> list[tuple[str, Facts]]:
    """Machine, versions, licences, wall time."""
    e = s.evidence
    machine: Facts = []
    for key, value in e.machine.items():
        if value in (None, "", False):
            said = s.say("none")
        elif isinstance(value, int | float):
            said = s.number(e.machine, key)
        else:
            said = s.quote(str(value), e.machine, key)
        machine.append((s.quote(named("origin.machine", key, s.lang), e.machine), said))
    return [
        (s.say("origin.machine"), machine),
        (s.say("origin.versions"), [(what, s.quote(name, e.versions, what)) for what, name in e.versions.items()]),
        (
            s.say("origin.licences"),
            [
                (named("origin.licences", what, s.lang), s.quote(name, e.licences, what))
                for what, name in e.licences.items()
            ],
        ),
        (
            s.say("origin.seconds"),
            [(named("stage", stage, s.lang), s.number(e.seconds, stage)) for stage in e.seconds],
        ),
    ]


def recipe(e: Evidence) -> str:
    """The recipe as YAML, in its own order."""
    return yaml.safe_dump(json.loads(json.dumps(e.recipe)), allow_unicode=True, sort_keys=False)
