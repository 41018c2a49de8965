"""How a breach of the catalog's rules is told, and the checks that several parts share. Pure."""

import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from aforo_admin.domain.catalog import COGS
from aforo_authz.domain.features import TemplateError, pattern_of
from aforo_authz.domain.quotas import WindowKind

Path = tuple[str | int, ...]
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

INT64_MAX: Final = 2**63 - 1  # What the contracts can carry.
NANOS_PER_UNIT: Final = 10**9
TEXT_CHARS_MAX: Final = 200
FULL_BP: Final = 10_000
YEARS: Final = range(1970, 3000)
YEARS_TOLD: Final = f"write a year from {YEARS.start} to {YEARS.stop - 1}"

_METHOD = re.compile(r"[A-Z][A-Z-]*")
# What a path can hold when it reaches a rule: Envoy's, without query, fragment and parameters.
_PATH = re.compile(r"[A-Za-z0-9/._~!$&'()*+,=:@%{}-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_STEP = re.compile(r'\["([^"]*)"\]|\[(\d+)\]|([\w-]+)')
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One of two figures that don't go together.

    Args:
        name: Of its field, in the catalog's written form.
        written: As the catalog writes it.
        inherited: It is said elsewhere, and holds here.
    """

    name: str
    written: str
    inherited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One breach.

    Args:
        path: Where, in the names of the catalog's written form.
        message: What is wrong and what to do.
        given: A name that is not one of `choices`: whoever shows the problem may find a near miss.
        kind: What `given` should name.
        choices: The names there are.
        joint: It rests on several fields beneath `path`, so it says little while one is unreadable.
        pair: Two of these fields: the first must not be below the second. Forms tell it in the
            words of their labels.
    """

    path: Path
    message: str
    given: str = ""
    kind: str = ""
    choices: tuple[str, ...] = ()
    joint: bool = False
    pair: tuple[Figure, Figure] | None = None


def check_id(path: Path, given: str) -> Iterator[Problem]:
    # Braces would break the Redis hash tag around a tenant's id; the rest keeps ids easy to type.
    if not _ID.fullmatch(given):
        yield Problem(
            path=path,
            message=f'"{given}" is no id: use 1 to 64 of a-z, 0-9, ".", "_" and "-", '
            "the first a letter or digit",
        )


def check_text(path: Path, given: str) -> Iterator[Problem]:
    if not given.strip():
        yield Problem(path=path, message="must not be empty")
    elif len(given) > TEXT_CHARS_MAX:
        yield Problem(path=path, message=f"is {len(given)} characters long, at most 200 are kept")


def check_known(
    path: Path, given: Iterable[str], *, kind: str, known: Iterable[str]
) -> Iterator[Problem]:
    """Names in a list: each must exist, none twice."""
    choices = known if isinstance(known, (dict, frozenset)) else frozenset(known)
    seen: set[str] = set()
    for index, name in enumerate(given):
        if name not in choices:
            yield unknown((*path, index), name, kind=kind, known=choices)
        elif name in seen:
            yield Problem(path=(*path, index), message=f'"{name}" is listed twice')
        seen.add(name)


def unknown(path: Path, given: str, *, kind: str, known: Iterable[str]) -> Problem:
    return Problem(
        path=path,
        message=f'no {kind} "{given}"',
        given=given,
        kind=kind,
        choices=tuple(sorted(known)),
    )


def repeated(keys: Iterable[K]) -> Iterator[tuple[int, int, K]]:
    """Yield each repetition: its index, the index of the first, and what is repeated."""
    first: dict[K, int] = {}
    for index, key in enumerate(keys):
        if key in first:
            yield index, first[key], key
        else:
            first[key] = index


def check_unique_ids(path: Path, ids: Iterable[str]) -> Iterator[Problem]:
    for index, first, name in repeated(ids):
        yield Problem(
            path=(*path, index, "id"),
            message=f'"{name}" is already the id of {place_of((*path, first))}',
        )


def check_amount(path: Path, nanos: int | None) -> Iterator[Problem]:
    if nanos is None:
        return
    if nanos < 0:
        yield Problem(path=path, message="must not be negative")
    elif nanos > INT64_MAX:
        yield Problem(
            path=path,
            message=f"is above {INT64_MAX // NANOS_PER_UNIT}, the largest amount that nanos in 64 "
            "bits hold; state it in a larger currency, or split it",
        )


def check_units(path: Path, units: int, *, least: int) -> Iterator[Problem]:
    if units < least:
        yield Problem(path=path, message=f"must be a whole number of at least {least}")
    elif units > INT64_MAX:
        yield Problem(path=path, message=f"is too large: write at most {INT64_MAX}")


def is_in_years(at: datetime) -> bool:
    return at.year in YEARS


def check_year(path: Path, at: datetime | None) -> Iterator[Problem]:
    if at is not None and not is_in_years(at):
        yield Problem(path=path, message=f"{day(at)} is out of range: {YEARS_TOLD}")


def check_quota_meter(
    path: Path, meter: str, window: WindowKind | None, meters: frozenset[str]
) -> Iterator[Problem]:
    if meter != COGS and meter not in meters:
        yield unknown((*path, "meter"), meter, kind="meter", known={*meters, COGS})
    if meter == COGS and window is WindowKind.MINUTE:
        yield Problem(
            path=(*path, "window"),
            message="what usage costs is known by the hour: write hour, day, month or "
            "billing_period",
        )


def check_methods(path: Path, methods: Iterable[str]) -> Iterator[Problem]:
    for number, method in enumerate(methods):
        if not _METHOD.fullmatch(method):
            yield Problem(
                path=(*path, number),
                message=f'"{method}" is no method: write it in capitals, like POST',
            )


def check_path_template(path: Path, template: str) -> Iterator[Problem]:
    try:
        pattern_of(template)
    except TemplateError as error:
        yield Problem(path=path, message=str(error))
        return
    if not _PATH.fullmatch(template):
        yield Problem(
            path=path,
            message=f'"{template}" can never match: a path arrives without query, fragment, '
            "parameters (;) and spaces",
        )


def check_sha256(path: Path, sha256: str) -> Iterator[Problem]:
    """The given value is never repeated: it may be a key."""
    if not _SHA256.fullmatch(sha256):
        yield Problem(
            path=path,
            message="is no SHA-256 (64 digits 0-9, a-f); never write the key itself here: "
            'make one with `aforo-admin mint`, or hash it with `printf %s "$KEY" | sha256sum`',
        )


def place_of(path: Path) -> str:
    """Write a path as people do: tenants.acme.credentials[0].sha256."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif re.fullmatch(r"[\w-]+", step):
            parts.append(f".{step}" if parts else step)
        else:
            parts.append(f'["{step}"]')
    return "".join(parts)


def path_of(place: str) -> Path:
    """Return the path that `place_of` has written so."""
    return tuple(
        int(index) if index else quoted or plain for quoted, index, plain in _STEP.findall(place)
    )


def percent(bp: int) -> str:
    """Write basis points as people do: 20%, 20.5%, -0.25%."""
    whole, rest = divmod(abs(bp), 100)
    decimals = f".{rest:02}".rstrip("0") if rest else ""
    return f"{'-' if bp < 0 else ''}{whole}{decimals}%"


def day(at: datetime) -> str:
    """Write an instant, as a date where it is midnight UTC."""
    text = at.isoformat().replace("+00:00", "Z")
    return text.removesuffix("T00:00:00Z")
