"""Metering rules: messages of the read model → domain. It knows no keys, no Redis."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from aforo_meter.contract_messages import UnreadableError
from aforo_meter.domain.metering import Metering, Quantity, Rule, statuses_of
from aforo_meter.domain.paths import RouteTemplate
from aforo_meter.domain.usage import METER_NAME, MICROS_PER_UNIT
from aforo_proto import metering_pb2, policy_pb2

QUANTITIES: Final = {
    metering_pb2.QUANTITY_SOURCE_UNSPECIFIED: Quantity.ONE,
    **{getattr(metering_pb2, f"QUANTITY_SOURCE_{kind.name}"): kind for kind in Quantity},
}


def metering_of(metering: bytes, routes: bytes, *, built_in: tuple[Rule, ...]) -> Metering:
    """Turn a Metering, and the catalog's Routes beside it, into rules.

    Args:
        metering: As Redis holds it.
        routes: Likewise; b"" where there are none.
        built_in: The rules that hold where the catalog has none.

    Raises:
        UnreadableError: One can't be understood: never read as "no rule".
    """
    try:
        said = metering_pb2.Metering.FromString(metering)
        named = policy_pb2.Routes.FromString(routes)
    except DecodeError as error:
        raise UnreadableError("metering rules", "they are no message of their kind") from error
    return Metering(
        rules=tuple(_rules(said.rules)) or built_in,
        meters=frozenset(meter.meter for meter in said.meters),
        aliases={alias: meter.meter for meter in said.meters for alias in meter.aliases},
        routes=tuple(
            RouteTemplate(methods=frozenset(rule.methods), path_template=rule.path_template)
            for rule in named.rules
        ),
        version=said.catalog_version,
    )


def _rules(said: Iterable[metering_pb2.MeteringRule]) -> Iterable[Rule]:
    for rule in said:
        what = f'metering rule "{rule.rule_id[:64]}"'
        if rule.quantity not in QUANTITIES:
            raise UnreadableError(what, f"unknown quantity {rule.quantity}")
        if rule.path_template and not rule.path_template.startswith("/"):
            raise UnreadableError(what, "its path does not start with /")
        if not rule.exclude and not METER_NAME.fullmatch(rule.meter):
            raise UnreadableError(what, "it names no meter")
        if rule.quantity_micros < 0:
            raise UnreadableError(what, "its quantity is negative")
        try:
            statuses = tuple(statuses_of(text) for text in rule.status_ranges)
        except ValueError as error:
            raise UnreadableError(what, str(error)) from error
        yield Rule(
            rule_id=rule.rule_id,
            methods=frozenset(rule.methods),
            path_template=rule.path_template,
            routes=frozenset(rule.routes),
            features=frozenset(rule.features),
            statuses=statuses,
            execution_statuses=frozenset(rule.execution_statuses),
            exclude=rule.exclude,
            meter=rule.meter,
            quantity=QUANTITIES[rule.quantity],
            quantity_micros=rule.quantity_micros or MICROS_PER_UNIT,
        )
