"""Which features a call needs: by the catalog's ordered rules. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ONE_SEGMENT = re.compile(r"\{[^*{}]*\}")
# A longer path is refused, whatever the default: it would cost more to read than it is worth, and
# must not escape a rule by its length. Envoy's own limit is 60 KiB of headers.
PATH_CHARS_MAX = 8192


class TemplateError(ValueError):
    """A path template that no path could match, or that is ambiguous."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a call needs. `known` is False where neither a rule nor the default allows it."""

    features: tuple[str, ...] = ()  # Sorted; all of them are needed.
    weight_units: int = 1
    known: bool = True


REFUSED = Needs(known=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of the catalog's rules."""

    methods: frozenset[str]  # Upper case; empty: any.
    path_template: str
    features: tuple[str, ...]
    weight_units: int = 1


class Rules:
    """The catalog's rules, in order, ready to match. Immutable."""

    def __init__(self, rules: Sequence[Rule] = (), *, default_allows: bool = False) -> None:
        self.rules = tuple(rules)
        self._default = Needs(known=default_allows)
        self._compiled = [
            (
                rule.methods,
                pattern_of(rule.path_template),
                Needs(features=sorted_unique(rule.features), weight_units=rule.weight_units),
            )
            for rule in rules
        ]

    def needs_of(self, *, method: str, path: str) -> Needs:
        """Return what a call needs; the first rule that matches wins.

        Args:
            method: As Envoy reports it.
            path: As Envoy reports it, with its query; Envoy has normalised dots and slashes.
        """
        position = self.position_of(method=method, path=path)
        if position is not None:
            return self._compiled[position][2]
        return REFUSED if _is_too_long(path) else self._default

    def position_of(self, *, method: str, path: str) -> int | None:
        """Return the place of the rule that matches, from 0; None if none does."""
        if _is_too_long(path):
            return None
        plain = plain_path(path)
        for position, (methods, pattern, _) in enumerate(self._compiled):
            if (not methods or method in methods) and pattern.fullmatch(plain):
                return position
        return None


def _is_too_long(path: str) -> bool:
    return len(path) > PATH_CHARS_MAX and len(path.partition("?")[0]) > PATH_CHARS_MAX


def plain_path(path: str) -> str:
    """Return the path without its query and without path parameters.

    `/v1/chat;x=1` must need what `/v1/chat` needs: Envoy keeps such parameters, and many
    applications ignore them. What is then `..`, `.` or nothing is resolved, as they would do:
    `/cheap/..;x/dear` must not be taken for something below `/cheap`.
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


def pattern_of(template: str) -> re.Pattern[str]:
    """Compile a template: literal segments, `{name}` for one segment, a last `**` for the rest.

    `/files/**` matches `/files` and all below it. A trailing slash of the path is ignored.

    Raises:
        TemplateError: The template does not start with a slash, or has `**` before its end.
    """
    if not template.startswith("/"):
        raise TemplateError(f"path template {template!r} must start with '/'")
    parts: list[str] = []
    segments = [segment for segment in template.split("/") if segment]
    for position, segment in enumerate(segments):
        if segment == "**":
            if position != len(segments) - 1:
                raise TemplateError(f"path template {template!r}: '**' may only stand at the end")
            parts.append("(?:/.*)?")
        elif ONE_SEGMENT.fullmatch(segment):
            parts.append("/[^/]+")
        elif "*" in segment or "{" in segment or "}" in segment:
            raise TemplateError(
                f"path template {template!r}: a segment is literal, '{{name}}', or a last '**'"
            )
        else:
            parts.append("/" + re.escape(segment))
    return re.compile("".join(parts) + "/?", re.DOTALL)


def sorted_unique(features: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(features)))
