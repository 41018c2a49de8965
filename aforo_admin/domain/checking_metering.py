"""What meters, metering rules and ingest keys of a catalog must obey. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from aforo_admin.domain.catalog import (
    METERS,
    OWN_COUNTING_METERS,
    Catalog,
    IngestKey,
    Meter,
    MeteringRule,
)
from aforo_admin.domain.problems import (
    Path,
    Problem,
    check_id,
    check_known,
    check_methods,
    check_path_template,
    check_sha256,
    check_text,
    check_unique_ids,
    place_of,
    repeated,
    unknown,
)
from aforo_meter.domain.metering import statuses_of
from aforo_meter.domain.outcomes import ExecutionStatus
from aforo_meter.domain.usage import METER_NAME, MICROS_PER_UNIT, UNITS_MAX

SCOPES: Final = ("usage:ingest", "quotas:read", "usage:correct")
ALIAS_CHARS_MAX: Final = 255  # As long as the ingest contract lets the name of a metric be.

_PRINTABLE = re.compile(r"[!-~]+")


def metering_problems(
    catalog: Catalog, features: frozenset[str], others: Collection[str] = ()
) -> Iterator[Problem]:
    yield from _meters(catalog.meters)
    yield from _rules(catalog, features)
    yield from _ingest_keys(catalog, frozenset(catalog.tenants).union(others))


def _meters(meters: Iterable[Meter]) -> Iterator[Problem]:
    meters = tuple(meters)
    for index, meter in enumerate(meters):
        path: Path = ("meters", index)
        if not METER_NAME.fullmatch(meter.meter):
            yield Problem(
                path=(*path, "id"),
                message=f'"{meter.meter}" is no meter: use 1 to 128 of a-z, 0-9, ".", "_" and "-"',
            )
        elif meter.meter in METERS:
            yield Problem(path=(*path, "id"), message=f'"{meter.meter}" is a built-in meter')
        yield from check_text((*path, "title"), meter.title)
        for number, alias in enumerate(meter.aliases):
            if not _PRINTABLE.fullmatch(alias) or len(alias) > ALIAS_CHARS_MAX:
                yield Problem(
                    path=(*path, "aliases", number),
                    message=f'"{alias[:64]}" is no name of a metric: use 1 to {ALIAS_CHARS_MAX} '
                    "printable characters without spaces",
                )
    yield from check_unique_ids(("meters",), [meter.meter for meter in meters])
    places = [
        (("meters", index, "aliases", number), alias)
        for index, meter in enumerate(meters)
        for number, alias in enumerate(meter.aliases)
    ]
    names = {*METERS, *(meter.meter for meter in meters)}
    for path, alias in places:
        if alias in names:
            yield Problem(path=path, message=f'"{alias}" is a meter of its own')
    for index, first, alias in repeated(alias for _, alias in places):
        yield Problem(
            path=places[index][0],
            message=f'"{alias}" is another name already: {place_of(places[first][0])}',
        )


def _rules(catalog: Catalog, features: frozenset[str]) -> Iterator[Problem]:
    covered: dict[str, int] = {}  # Meter → the rule of it that takes every call.
    for index, rule in enumerate(catalog.metering):
        path: Path = ("metering", index)
        yield from check_id((*path, "id"), rule.rule_id)
        yield from check_methods((*path, "methods"), rule.methods)
        if rule.path_template:
            yield from check_path_template((*path, "path"), rule.path_template)
        yield from check_known((*path, "features"), rule.features, kind="feature", known=features)
        yield from _statuses((*path, "status"), rule.statuses)
        yield from check_known(
            (*path, "execution_status"),
            rule.execution_statuses,
            kind="execution status",
            known=frozenset(ExecutionStatus),
        )
        yield from _what_it_counts(path, rule, catalog.known_meters)
        if rule.meter in covered:
            yield Problem(
                path=path,
                message=f"is never reached: {place_of(('metering', covered[rule.meter]))} takes "
                f"every call for {rule.meter}, and the first that matches wins",
                joint=True,
            )
        elif rule.takes_all and not rule.exclude:
            covered[rule.meter] = index
    yield from check_unique_ids(("metering",), [rule.rule_id for rule in catalog.metering])


def _what_it_counts(path: Path, rule: MeteringRule, meters: frozenset[str]) -> Iterator[Problem]:
    if rule.exclude:
        if rule.meter:
            yield Problem(
                path=(*path, "meter"), message="what a rule excludes counts on no meter: remove one"
            )
        elif rule.takes_all:
            yield Problem(
                path=path, message="excludes every call: say which, by path, status …", joint=True
            )
        return
    if not rule.meter:
        yield Problem(
            path=path, message="counts nothing: give a meter, or exclude: true", joint=True
        )
    elif rule.meter in OWN_COUNTING_METERS:
        yield Problem(
            path=(*path, "meter"),
            message=f"{rule.meter} is counted by what providers and protocols say: remove the rule",
        )
    elif rule.meter not in meters:
        yield unknown((*path, "meter"), rule.meter, kind="meter", known=meters)
    if not 0 < rule.quantity_micros <= UNITS_MAX * MICROS_PER_UNIT:
        yield Problem(
            path=(*path, "quantity"),
            message="must be above 0 and of at most 14 digits; what is not to count is excluded",
        )


def _statuses(path: Path, statuses: Iterable[str]) -> Iterator[Problem]:
    for number, status in enumerate(statuses):
        try:
            statuses_of(status)
        except ValueError as error:
            yield Problem(path=(*path, number), message=str(error))


def _ingest_keys(catalog: Catalog, tenants: frozenset[str]) -> Iterator[Problem]:
    owners = {
        credential.identity: f"{tenant.tenant_id}/{credential.credential_id}"
        for tenant in catalog.tenants.values()
        for credential in tenant.credentials
    }
    for index, key in enumerate(catalog.ingest_keys):
        yield from _ingest_key(("ingest_keys", index), key, tenants)
        if key.sha256 in owners:
            yield Problem(
                path=("ingest_keys", index, "sha256"),
                message=f'is the credential "{owners[key.sha256]}" too; a tenant\'s key must not '
                "report usage: mint another (aforo-admin mint --ingest)",
            )
    for index, first, _ in repeated(key.sha256 for key in catalog.ingest_keys):
        yield Problem(
            path=("ingest_keys", index, "sha256"),
            message=f"is the key of {place_of(('ingest_keys', first))} too; mint another",
        )
    yield from check_unique_ids(("ingest_keys",), [key.key_id for key in catalog.ingest_keys])


def _ingest_key(path: Path, key: IngestKey, tenants: frozenset[str]) -> Iterator[Problem]:
    yield from check_id((*path, "id"), key.key_id)
    yield from check_sha256((*path, "sha256"), key.sha256)
    if not key.scopes:
        yield Problem(
            path=(*path, "scopes"), message=f"may do nothing: give one of {', '.join(SCOPES)}"
        )
    yield from check_known((*path, "scopes"), key.scopes, kind="scope", known=frozenset(SCOPES))
    if key.installation:
        yield from check_text((*path, "installation"), key.installation)
    yield from check_known((*path, "tenants"), key.tenants, kind="tenant", known=tenants)
