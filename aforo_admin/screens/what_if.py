"""What if: recorded usage under other prices, floors or models; kept, and turned into drafts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse

from aforo_admin import (
    scenario_drafts,
    scenario_store,
    scenario_written,
    simulation_text,
    store,
)
from aforo_admin.control.forms import REASON
from aforo_admin.control.models import Scenario as Saved
from aforo_admin.control.recorded_admin import REFUSALS, recorded, tell
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import REMOVE_ANY_SCENARIO
from aforo_admin.control.templatetags import aforo
from aforo_admin.domain.scenario import Scenario
from aforo_admin.domain.simulate import Comparison
from aforo_admin.faults import CatalogError, NoCatalogError
from aforo_admin.ledger_periods import TooMuchUsageError
from aforo_admin.ledger_reading import LedgerUnreadableError
from aforo_admin.places import NotSetError
from aforo_admin.scenario_yaml import refuse
from aforo_admin.screens.page import ScreenView
from aforo_admin.screens.what_if_form import SAVED_AS, WhatIfForm
from aforo_admin.screens.what_if_starts import starts
from aforo_admin.simulating import Progress, ground_of, problems_of, simulate
from aforo_admin.yaml_scalars import instant
from aforo_admin.yaml_writing import yaml_text

REMOVE_ANY: Final = f"control.{REMOVE_ANY_SCENARIO}"
NOT_YOURS: Final = "Your role may not do this; docs/roles.md says whose may."
NO_PRICES: Final = (
    "Nothing was changed: this has costs, and your role may not change this: it takes"
    f" {scenario_drafts.PRICES}, and docs/roles.md says who has it. Leave the costs out, or ask one"
    " of them."
)
PLAY: Final = "play"
PRICES_SHOWN: Final = 3  # In a message.
PLACES: Final = {"begins": "Prices from", "name": "Name"}  # As the page calls them.
SECONDS_MAX: Final = 20  # A page waits no longer; the command has no limit.
TENANTS_SHOWN: Final = 200
SAVED_SHOWN: Final = 100
AWAY: Final = (LedgerUnreadableError, NotSetError, NoCatalogError, TooMuchUsageError)


class TooLongError(TooMuchUsageError):
    """A page would have to wait too long; the message says what to do."""


@dataclass(slots=True, kw_only=True)
class _Asked:
    """What somebody asked, and what came of it."""

    form: WhatIfForm = field(default_factory=WhatIfForm)
    scenario: Scenario | None = None
    found: Comparison | None = None
    missing: str = ""
    loaded: str = ""  # The name that it is kept by.


class WhatIfView(ScreenView):
    """A form, and what it says side by side with the record."""

    template_name = "control/screens/what_if.html"

    _question: _Asked  # Of this request: each has a view of its own.

    def get(self, request: HttpRequest, *_arguments: Any, **_named: Any) -> HttpResponse:
        self._question = _loaded(request.GET.get("saved", "").strip())
        if request.GET.get("step") == PLAY and self._question.loaded:
            self._question = _played(self._question)
        return self.render_to_response(self.get_context_data())

    def post(self, request: HttpRequest, *_arguments: Any, **_named: Any) -> HttpResponse:
        if request.POST.get("step") == "remove":
            return _remove(request)
        self._question = asked = _play(WhatIfForm(request.POST))
        step = request.POST.get("step", PLAY)
        if asked.found is not None and asked.scenario is not None and step in STEPS:
            needed, take = STEPS[step]
            if not request.user.has_perm(needed):
                messages.error(request, NOT_YOURS)
            elif (response := take(request, asked.scenario, asked.found)) is not None:
                return response
        return self.render_to_response(self.get_context_data())

    def figures(self, now_micros: int) -> dict[str, Any]:  # noqa: ARG002 - the record has its own.
        asked = self._question
        asked.form.offer(starts())
        shown = {
            "form": asked.form,
            "missing": [asked.missing] if asked.missing else [],
            "saved": Saved.objects.all()[:SAVED_SHOWN],
            "loaded": asked.loaded,
            "may_remove": self._may_remove(asked.loaded),
        }
        if asked.found is None or asked.scenario is None:
            return shown
        totals = simulation_text.totals(asked.found)
        moved = simulation_text.in_order(asked.found)
        return {
            **shown,
            "found": asked.found,
            "remarks": simulation_text.remarks(asked.found),
            "rows": simulation_text.figures_rows(totals, asked.found.currency, _money),
            "moved": moved[:TENANTS_SHOWN],
            "moved_more": max(0, len(moved) - TENANTS_SHOWN),
            "moved_count": len(moved),
            "written": yaml_text(scenario_written.scenario(asked.scenario)),
        }

    def _may_remove(self, name: str) -> bool:
        user = self.request.user
        if not name or not user.has_perm("control.delete_scenario"):
            return False
        own = Saved.objects.filter(name=name, author=user.get_username())
        return bool(user.has_perm(REMOVE_ANY)) or own.exists()


def _loaded(name: str) -> _Asked:
    """Return the form, with what is kept under a name."""
    if not name:
        return _Asked()
    try:
        scenario = scenario_store.load(name)
    except (CatalogError, *AWAY) as error:
        return _Asked(missing=str(error))
    text = yaml_text(scenario_written.scenario(scenario))
    return _Asked(form=WhatIfForm(initial={SAVED_AS: text}), loaded=name)


def _played(loaded: _Asked) -> _Asked:
    """Return what is kept, with what comes of it."""
    asked = _play(WhatIfForm(loaded.form.initial))
    asked.loaded = loaded.loaded
    return asked


def _play(form: WhatIfForm) -> _Asked:
    asked = _Asked(form=form)
    if not form.is_valid():
        return asked
    try:
        ground = ground_of(store.load_catalog().catalog)
        asked.scenario = form.scenario(ground.catalog)
        if asked.scenario is None and form.readable is not None:
            # Whoever typed several lines wrong is told of all at once.
            drafts = scenario_drafts.drafts_of(form.readable)
            refuse(problems_of(form.readable, ground, drafts))
        if asked.scenario is not None:
            drafts = scenario_drafts.drafts_of(asked.scenario)
            asked.found = simulate(asked.scenario, ground, drafts=drafts, progress=deadline())
    except CatalogError as error:
        written = scenario_written.scenario(form.readable) if form.readable else {}
        form.put(error, {} if form.said[SAVED_AS] else written)
    except AWAY as error:
        asked.missing = str(error)
    return asked


def deadline() -> Progress:
    """Return what gives up once a page has waited long enough."""
    until_s = time.monotonic() + SECONDS_MAX

    def progress(done: int, of_all: int) -> None:
        if time.monotonic() > until_s:
            raise TooLongError(
                f"after {SECONDS_MAX} s {done:,} of {of_all:,} periods were played, and a page"
                " waits no longer: name tenants, or run it in a shell with aforo-admin what-if,"
                " which takes these lines as options"
            )

    return progress


def _save(request: HttpRequest, scenario: Scenario, found: Comparison) -> HttpResponse | None:
    name = request.POST.get("name", "")
    author = request.user.get_username()
    try:
        saved = scenario_store.save(name, scenario, found, author=author, source=Source.UI)
    except CatalogError as error:
        for fault in error.faults:
            place = f"{PLACES.get(fault.place, fault.place)}: " if fault.place else ""
            messages.error(request, f"Not kept: {place}{fault.message}")
        return None
    messages.success(request, f"Kept as {saved.name}.")
    query = QueryDict(mutable=True)
    query["saved"] = saved.name
    query["step"] = PLAY  # So that the answer is still there, beside what was kept.
    return HttpResponseRedirect(f"{reverse('admin:what-if')}?{query.urlencode()}")


def _remove(request: HttpRequest) -> HttpResponse:
    name = request.POST.get("saved", "")
    if not request.user.has_perm("control.delete_scenario"):
        messages.error(request, NOT_YOURS)
        return HttpResponseRedirect(reverse("admin:what-if"))
    try:
        removed = scenario_store.remove(
            name,
            actor=request.user.get_username(),
            source=Source.UI,
            of_anybody=request.user.has_perm(REMOVE_ANY),
        )
    except CatalogError as error:
        messages.error(request, f"Not removed: {error}")
    else:
        if removed:
            messages.success(request, f"Removed {name}.")
    return HttpResponseRedirect(reverse("admin:what-if"))


def _turn(request: HttpRequest, scenario: Scenario, _found: Comparison) -> HttpResponse | None:
    if scenario.costs and not request.user.has_perm(scenario_drafts.PRICES):
        messages.error(request, NO_PRICES)
        return None
    try:
        begins_at = instant(request.POST.get("begins", "").strip())
    except ValueError as error:
        messages.error(request, f"No drafts were made: prices from {error}")
        return None
    try:
        with recorded(request, request.POST.get(REASON, "")):
            ground = ground_of(store.load_catalog().catalog)
            turned = scenario_drafts.turn_into_drafts(scenario, ground, begins_at=begins_at)
    except CatalogError as error:
        faults = [replace(each, place=PLACES.get(each.place, each.place)) for each in error.faults]
        tell(request, CatalogError(error.name, faults))
        return None
    except REFUSALS as error:
        tell(request, error)
        return None
    messages.success(request, _made(turned))
    for remark in turned.remarks:
        messages.warning(request, f"{remark}.")
    for left in turned.left:
        messages.warning(request, f"Not in the drafts: {left}.")
    place = "planversion" if turned.drafts else "costprice"
    return HttpResponseRedirect(reverse(f"admin:control_{place}_changelist"))


def _made(turned: scenario_drafts.Turned) -> str:
    drafts = ", ".join(str(each) for each in turned.drafts)
    parts = [f"drafts {drafts}"] if turned.drafts else []
    if turned.prices:
        told = "; ".join(each.told(turned.currency) for each in turned.prices[:PRICES_SHOWN])
        more = len(turned.prices) - PRICES_SHOWN
        rest = f"; and {more:,} more" if more > 0 else ""
        entries = "entry" if len(turned.prices) == 1 else "entries"
        parts.append(f"{len(turned.prices):,} coming {entries} of the price book ({told}{rest})")
    return f"Made: {' and '.join(parts)}."


Take = Callable[[HttpRequest, Scenario, Comparison], HttpResponse | None]
# What may be done with an answer: who may, and how.
STEPS: Final[Mapping[str, tuple[str, Take]]] = {
    "save": ("control.add_scenario", _save),
    "turn": ("control.add_planversion", _turn),
}


def _money(nanos: int, currency: str) -> str:
    """Write an amount as all pages do: to the cent, to be read at a glance."""
    return f"{aforo.money(nanos)} {currency}"
