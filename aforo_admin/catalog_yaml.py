"""The written catalog → the domain's, or everything that is wrong with it: see docs/catalog.md."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path as FilePath

from aforo_admin.catalog_yaml_metering import read_ingest_key, read_meter, read_rule
from aforo_admin.catalog_yaml_rates import read_exchange_rates, read_rate_cards
from aforo_admin.catalog_yaml_tenants import (
    limit_of,
    read_basis,
    read_costs,
    read_tenant,
    read_window,
)
from aforo_admin.catalog_yaml_thresholds import read_guards, read_thresholds
from aforo_admin.domain.catalog import (
    Billing,
    Catalog,
    Feature,
    Plan,
    Quota,
    Route,
    Thresholds,
)
from aforo_admin.domain.checking import find_problems
from aforo_admin.domain.problems import Path, Problem, place_of
from aforo_admin.faults import CatalogError, Fault, message_of
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_nodes import (
    BYTES_MAX,
    Mapping,
    Node,
    Sequence,
    UnreadableYamlError,
    compose,
)
from aforo_admin.yaml_scalars import amount_nanos, choice, flag, text, units
from aforo_authz.domain.quotas import WindowKind
from aforo_meter.domain.periods import Cadence
from aforo_meter.domain.terms import RevenueBasis

VERSION = "1"
PRICES_SUFFIX = ".jsonl"

read_cadence = choice("cadence", Cadence)
read_billing = choice("billing", Billing)


def read_file(path: FilePath) -> Catalog:
    """Read and check a catalog.

    Raises:
        CatalogError: It can't be read, or breaks a rule: with every fault that was found.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        what = f"can't be read: {error.strerror or error}"
        raise CatalogError(str(path), [Fault(line=0, place="", message=what)]) from None
    return read_text(data, name=str(path))


def read_text(data: bytes, *, name: str) -> Catalog:
    """Read and check a catalog that is named `name` in what is raised.

    Raises:
        CatalogError: It breaks a rule: with every fault that was found.
    """
    try:
        root, structural = compose(data)
    except UnreadableYamlError as error:
        faults = [Fault(line=line, place="", message=what) for line, what in error.faults]
        raise CatalogError(name, faults) from None
    return read_node(root, name=name, structural=structural)


def none_of(_catalog: Catalog) -> Collection[str]:
    """Return the tenants beside those of a whole catalog."""
    return ()


def read_node(
    root: Node,
    *,
    name: str,
    structural: Iterable[tuple[int, str]] = (),
    others_of: Callable[[Catalog], Collection[str]] = none_of,
) -> Catalog:
    """Read and check a catalog that is in nodes already.

    Args:
        root: The whole of it.
        name: What it is named in what is raised.
        structural: What was wrong with its text: line and fault.
        others_of: Returns tenants that there are, and that the catalog is without.

    Raises:
        CatalogError: It breaks a rule: with every fault that was found.
    """
    problems: list[Problem] = []
    catalog = read_fields(Fields(root, path=(), problems=problems))
    problems += _not_yet_told(find_problems(catalog, others_of(catalog)), problems)
    faults = [Fault(line=line, place="", message=what) for line, what in structural]
    faults += [
        Fault(line=_line_of(root, each.path), place=place_of(each.path), message=message_of(each))
        for each in problems
    ]
    if faults:
        raise CatalogError(name, sorted(faults))
    return catalog


def read_fields(fields: Fields) -> Catalog:
    """Read a catalog field by field; what is wrong is noted with the fields."""
    fields.need("version", _version, VERSION)
    currency = fields.need("currency", text, "")
    built_in_costs, prices_file = fields.may("built_in_costs", _published, (True, ""))
    plans = {name: _plan(name, each, currency) for name, each in fields.named("plans")}
    catalog = Catalog(
        currency=currency,
        thresholds=Thresholds().changed_by(read_thresholds(fields, currency)),
        features=tuple(_feature(each) for each in fields.each("features")),
        routes=tuple(_route(each) for each in fields.each("routes")),
        default_allows=fields.may("default_route", _default_allows, default=False),
        plans=plans,
        tenants={
            name: read_tenant(name, each, currency=currency, plans=plans)
            for name, each in fields.named("tenants")
        },
        costs=read_costs(fields, "costs", currency=currency),
        built_in_costs=built_in_costs,
        prices_file=prices_file,
        meters=tuple(read_meter(each) for each in fields.each("meters")),
        metering=tuple(read_rule(each) for each in fields.each("metering")),
        ingest_keys=tuple(read_ingest_key(each) for each in fields.each("ingest_keys")),
        exchange_rates=read_exchange_rates(fields, to_currency=currency),
    )
    fields.close()
    return catalog


def _version(given: str) -> str:
    if given != VERSION:
        raise ValueError(f'"{given[:16]}" is a form that this version does not know; write 1')
    return given


def _published(given: str) -> tuple[bool, str]:
    """Read whether published prices are used, and the file that they were imported to."""
    if given.endswith(PRICES_SUFFIX):
        return True, given
    if given not in {"true", "false"}:
        raise ValueError(
            f'"{given[:64]}" is neither true nor false, nor the name of a file of prices, which '
            f"ends with {PRICES_SUFFIX}"
        )
    return given == "true", ""


def _default_allows(given: str) -> bool:
    if given not in {"allow", "deny"}:
        raise ValueError(f'"{given[:16]}" is neither allow nor deny')
    return given == "allow"


def _feature(fields: Fields) -> Feature:
    feature_id = fields.need("id", text, "")
    feature = Feature(feature_id=feature_id, title=fields.may("title", text, feature_id))
    fields.close()
    return feature


def _route(fields: Fields) -> Route:
    route = Route(
        methods=fields.texts("methods") or (),
        path_template=fields.need("path", text, "/"),
        features=fields.texts("features", required=True) or (),
        weight_units=fields.may("weight", units, 1),
    )
    fields.close()
    return route


def _plan(plan_id: str, fields: Fields, currency: str) -> Plan:
    own = fields.may("currency", text, "")
    amount = amount_nanos(own or currency)
    plan = Plan(
        plan_id=plan_id,
        title=fields.may("title", text, plan_id),
        committed_fee_nanos=fields.need("committed_fee", amount, 0),
        allowance_nanos=fields.may("allowance", amount_nanos(currency), None),
        currency=own,
        cadence=fields.may("cadence", read_cadence, Cadence.MONTH),
        billing=fields.may("billing", read_billing, Billing.ANNIVERSARY),
        basis=fields.may("revenue_basis", read_basis, RevenueBasis.PERIOD),
        rate_cards=read_rate_cards(fields, currency=own or currency),
        prepaid_nanos=fields.may("prepaid", amount, 0),
        features=fields.texts("features", required=True) or (),
        quotas=tuple(_quota(each, currency) for each in fields.each("quotas")),
        thresholds=read_thresholds(fields, currency),
        guards=read_guards(fields, currency),
        shadow=fields.may("shadow", flag, default=False),
        stale_margin_blocks=fields.may("stale_margin_blocks", flag, default=False),
    )
    fields.close()
    return plan


def _quota(fields: Fields, currency: str) -> Quota:
    meter = fields.need("meter", text, "")
    quota = Quota(
        quota_id=fields.need("id", text, ""),
        meter=meter,
        limit_units=fields.need("limit", limit_of(meter, currency), 0),
        window=fields.need("window", read_window, WindowKind.DAY),
        features=fields.texts("features") or (),
        soft=fields.may("soft", flag, default=False),
    )
    fields.close()
    return quota


def _not_yet_told(found: list[Problem], told: list[Problem]) -> list[Problem]:
    """Leave out what only follows from a fault that is told already: blank values break rules."""
    places = {problem.path for problem in told}
    above = {path[:length] for path in places for length in range(len(path))}
    doubtful = {
        kind for kind in ("plan", "feature", "meter", "tenant") if _lost_names(kind, places)
    }
    return [
        problem
        for problem in found
        if not (problem.joint and problem.path in above)
        and problem.kind not in doubtful
        and not any(problem.path[:length] in places for length in range(len(problem.path) + 1))
    ]


def _lost_names(kind: str, places: set[Path]) -> bool:
    """Say whether definitions could not be read, so that names may only seem to be unknown."""
    if kind in {"plan", "tenant"}:
        return (f"{kind}s",) in places
    if kind == "meter":
        return any(path[:1] == ("meters",) and path[2:] in {(), ("id",)} for path in places)
    return any(path[:1] == ("features",) and path[2:] in {(), ("id",)} for path in places)


def _line_of(root: Node, path: Path) -> int:
    """Return the line of a field, or of the innermost mapping or list that it should stand in."""
    node, line = root, root.line
    for step in path:
        if isinstance(node, Mapping) and step in node.entries:
            line, node = node.entries[str(step)]
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            line = node.line
        else:
            break
    return line
