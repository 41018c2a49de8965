"""Raw paths → templates: what is one call's own (ids, names of files) is left out. Pure.

A path in an event must neither tell whose record was asked for, nor be another one for each call.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CHARACTERS_MAX: Final = 512
SEGMENTS_MAX: Final = 12
SEGMENT_CHARACTERS_MAX: Final = 40  # A word of an API is shorter; a token or a hash is longer.
ID: Final = ":id"
REST: Final = "**"

# A segment that is one call's own: digits, a UUID, hex, a long or mixed token, whatever is escaped
# or has an "@". What is left are words: a letter, then letters and few digits, as in v1, oauth2.
_OWN = re.compile(
    r"(?<=/)(?:"
    r"[0-9][0-9._:,-]*"  # 42, 2026-11-26, 10.0.0.1
    r"|[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}"  # a UUID
    r"|[0-9a-fA-F]{8,}|(?=[a-fA-F]*[0-9])[0-9a-fA-F]{6,7}"  # hex
    r"|(?=[^/]*[0-9])(?=[^/]*[A-Z])[a-z]{2,10}_[A-Za-z0-9]{8,}"  # cus_NffrFeUfNV2Hib
    r"|(?=[^/0-9]*[0-9][^/0-9]*[0-9][^/0-9]*[0-9][^/0-9]*[0-9])[^/]{10,}"  # four digits or more
    r"|[^/]*[@%=+,][^/]*"
    rf"|[^/]{{{SEGMENT_CHARACTERS_MAX + 1},}}"
    r")(?=/|$)"
)
_VARIABLE = re.compile(r"\{[^*{}]*\}")


def plain_path(path: str) -> str:
    """Return the path as the catalog's rules see it: without query, fragment and parameters.

    What is then `..`, `.` or nothing is resolved, as applications would: `/cheap/..;x/dear` is
    nothing below `/cheap`.
    """
    path = path.partition("?")[0].partition("#")[0]
    if ";" not in path:
        return path
    kept: list[str] = []
    for segment in path.split("/"):
        name = segment.partition(";")[0]
        if name == "..":
            del kept[-1:]
        elif name not in {"", "."}:
            kept.append(name)
    return "/" + "/".join(kept)


def template_of(plain: str) -> str:
    """Return a path's template, of bounded length: `/v1/users/42` is `/v1/users/:id`."""
    if not plain.startswith("/"):
        return ""  # CONNECT, or "*" of OPTIONS.
    template = _OWN.sub(ID, plain[: 4 * CHARACTERS_MAX])
    if template.count("/") > SEGMENTS_MAX:
        template = "/".join([*template.split("/")[: SEGMENTS_MAX + 1], REST])
    if len(template) > CHARACTERS_MAX:
        template = f"{template[: CHARACTERS_MAX - len(REST) - 1]}/{REST}"
    return template


def names_no_id(path: str) -> bool:
    """Return whether a template, or a path, has no segment that `template_of` would leave out."""
    kept = [part for part in path.split("/") if not _VARIABLE.fullmatch(part) and part != REST]
    return template_of("/" + "/".join(kept)) == "/" + "/".join(kept)


def pattern_of(template: str) -> re.Pattern[str]:
    """Compile a template of the catalog, which has checked it.

    Literal segments, `{name}` for one segment, a last `**` for the rest. A trailing slash of the
    path is ignored.
    """
    parts: list[str] = []
    for segment in template.split("/"):
        if segment == REST:
            parts.append("(?:/.*)?")
        elif _VARIABLE.fullmatch(segment):
            parts.append("/[^/]+")
        elif segment:
            parts.append("/" + re.escape(segment))
    return re.compile("".join(parts) + "/?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTemplate:
    """One of the catalog's routes, as far as it names paths."""

    methods: frozenset[str]  # Upper case; empty: any.
    path_template: str


class Templates:
    """The catalog's own templates, in order: the first that matches names the path."""

    def __init__(self, routes: Sequence[RouteTemplate] = ()) -> None:
        self._routes = [
            (route.methods, pattern_of(route.path_template), route.path_template[:CHARACTERS_MAX])
            for route in routes
        ]

    def of(self, *, method: str, plain: str) -> str:
        """Return the catalog's template for a path, else what is left without its ids."""
        for methods, pattern, template in self._routes:
            if (not methods or method in methods) and pattern.fullmatch(plain):
                return template
        return template_of(plain)
