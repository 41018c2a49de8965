"""The catalog's meters, metering rules and ingest keys as written → the domain's."""

import re
from typing import Final

from aforo_admin.domain.catalog import IngestKey, Meter, MeteringRule
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_scalars import UnknownNameError, flag, instant, text
from aforo_meter.domain.metering import Quantity
from aforo_meter.domain.usage import MICROS_PER_UNIT

DECIMALS_MAX: Final = 6

_NUMBER = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))?")
# "one" is a number here.
_SOURCES: Final = {each.value: each for each in Quantity if each is not Quantity.ONE}


def read_meter(fields: Fields) -> Meter:
    name = fields.need("id", text, "")
    meter = Meter(
        meter=name,
        title=fields.may("title", text, name),
        unit=fields.may("unit", text, ""),
        aliases=fields.texts("aliases") or (),
    )
    fields.close()
    return meter


def read_rule(fields: Fields) -> MeteringRule:
    quantity, quantity_micros = fields.may("quantity", _quantity, (Quantity.ONE, MICROS_PER_UNIT))
    rule = MeteringRule(
        rule_id=fields.need("id", text, ""),
        methods=fields.texts("methods") or (),
        path_template=fields.may("path", text, ""),
        routes=fields.texts("routes") or (),
        features=fields.texts("features") or (),
        statuses=fields.texts("status") or (),
        execution_statuses=fields.texts("execution_status") or (),
        exclude=fields.may("exclude", flag, default=False),
        meter=fields.may("meter", text, ""),
        quantity=quantity,
        quantity_micros=quantity_micros,
    )
    fields.close()
    return rule


def read_ingest_key(fields: Fields) -> IngestKey:
    key = IngestKey(
        key_id=fields.need("id", text, ""),
        sha256=fields.need("sha256", str.lower, ""),
        scopes=fields.texts("scopes", required=True) or (),
        installation=fields.may("installation", text, ""),
        tenants=fields.texts("tenants") or (),
        revoked=fields.may("status", revoked, default=False),
        expires_at=fields.may("expires_at", instant, None),
    )
    fields.close()
    return key


def revoked(given: str) -> bool:
    """Read the status of a key or a credential."""
    if given not in {"active", "revoked"}:
        raise ValueError(f'"{given[:64]}" is neither active nor revoked')
    return given == "revoked"


def units_micros(given: str) -> int:
    """Read how many units a call counts, 1, 10 or 0.5, as 10^-6."""
    match = _NUMBER.fullmatch(given)
    if match is None:
        raise ValueError(f'"{given[:32]}" is no quantity: write units a call, like 1, 10 or 0.5')
    whole, decimals = match.groups(default="")
    return int(whole) * MICROS_PER_UNIT + int(decimals.ljust(DECIMALS_MAX, "0"))


def _quantity(given: str) -> tuple[Quantity, int]:
    """Read where a quantity comes from, or a number of units for each call."""
    if given[:1].isdecimal() or given[:1] == "-":
        return Quantity.ONE, units_micros(given)
    if given not in _SOURCES:
        raise UnknownNameError(given[:32], kind="quantity", choices=_SOURCES)
    return _SOURCES[given], MICROS_PER_UNIT
