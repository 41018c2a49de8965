"""Passwords, found in URLs and taken out of whatever is told."""

import re
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from aforo_admin.domain.diagnosis import Seen

MASK: Final = "(masked)"


def passwords_of(urls: Iterable[str]) -> list[str]:
    """Return each password as written and as meant, the longest first."""
    found = {password for url in urls for password in _passwords(url)}
    return sorted(found | {urllib.parse.unquote(each) for each in found}, key=len, reverse=True)


def _passwords(url: str) -> Iterator[str]:
    # Up to the last @, as greedy as settings.without_password: a password may hold one.
    if (match := re.search(r"://([^/]*)@", url)) and ":" in match[1]:
        yield match[1].partition(":")[2]
    yield from re.findall(r"password=([^&]+)", url)


def masked(seen: Seen, passwords: Sequence[str]) -> Seen:
    """Take passwords out of what was found, whoever quoted them."""
    seen.findings = [
        replace(
            each,
            what=_clean(each.what, passwords),
            means=_clean(each.means, passwords),
            do=_clean(each.do, passwords),
        )
        for each in seen.findings
    ]
    return seen


def _clean(text: str, passwords: Sequence[str]) -> str:
    for each in filter(None, passwords):
        text = text.replace(each, MASK)
    return text
