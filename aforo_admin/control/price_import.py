"""Cost prices from a CSV: shown first, row by row; then added, all of them or none."""

from typing import Any, Final

from django import forms
from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from aforo_admin import price_csv, store
from aforo_admin.control.forms import REASON, REASON_CHARS_MAX
from aforo_admin.control.models import CostPrice
from aforo_admin.control.page import PageView
from aforo_admin.control.recorded_admin import REFUSALS, recorded, tell
from aforo_admin.domain.catalog import Catalog
from aforo_admin.faults import NoCatalogError
from aforo_admin.price_csv import COLUMNS, TEMPLATE, PriceRows, read_price_rows
from aforo_admin.rows import rows_of

FAULTS_SHOWN_MAX: Final = 100
NO_TENANTS: Final = ()  # Prices concern none in particular.


class FileForm(forms.Form):
    """Which file."""

    file = forms.FileField(
        label="CSV file",
        allow_empty_file=True,  # It is told so with all that else may be wrong.
        widget=forms.FileInput(attrs={"accept": ".csv,text/csv"}),
        error_messages={"required": "choose a file, and look at it again"},
    )


class ApplyForm(forms.Form):
    """What was shown, and why it is to be added."""

    text = forms.CharField(strip=False, widget=forms.HiddenInput)
    digest = forms.CharField(widget=forms.HiddenInput)
    change_reason = forms.CharField(
        label="Reason, for the record",
        max_length=REASON_CHARS_MAX,
        error_messages={"required": "say why: who looks at these prices in a year wants to know"},
    )


class PriceImportView(PageView):
    """Look at a file, then add what it says."""

    template_name = "control/price_import.html"

    def get(self, request: HttpRequest, *_arguments: Any, **_named: Any) -> HttpResponse:
        if "template" in request.GET:
            headers = {"Content-Disposition": 'attachment; filename="prices.csv"'}
            return HttpResponse(TEMPLATE, content_type="text/csv; charset=utf-8", headers=headers)
        return self._shown(FileForm())

    def post(self, request: HttpRequest, *_arguments: Any, **_named: Any) -> HttpResponse:
        try:
            if request.POST.get("step") == "apply":
                return self._apply(request)
            return self._look(request)
        except NoCatalogError as error:
            tell(request, error)
            return self._shown(FileForm())

    def _look(self, request: HttpRequest) -> HttpResponse:
        form = FileForm(request.POST, request.FILES)
        if not form.is_valid():
            return self._shown(form)
        data = _bytes_of(form.cleaned_data["file"])
        rows = read_price_rows(data, store.load_catalog(NO_TENANTS).catalog)
        if rows.faults:
            form.add_error("file", _summary(rows))
            return self._shown(form, faults=rows.faults[:FAULTS_SHOWN_MAX])
        asked = ApplyForm(initial={"text": data.decode("utf-8-sig"), "digest": rows.digest})
        return self._shown(form, rows=rows, asked=asked)

    def _apply(self, request: HttpRequest) -> HttpResponse:
        asked = ApplyForm(request.POST)
        data = request.POST.get("text", "").encode()
        rows = read_price_rows(data, store.load_catalog(NO_TENANTS).catalog)
        if rows.faults:  # Somebody has added what these can't stand beside.
            form = FileForm()
            messages.error(request, f"Nothing was added: {_summary(rows)}")
            return self._shown(form, faults=rows.faults[:FAULTS_SHOWN_MAX])
        if not asked.is_valid():
            return self._shown(FileForm(), rows=rows, asked=asked)
        try:
            with recorded(request, asked.cleaned_data[REASON]):
                added = _add(data, digest=asked.cleaned_data["digest"])
        except REFUSALS as error:
            tell(request, error)
            return self._shown(FileForm(), rows=rows, asked=asked)
        if added is None:
            messages.error(
                request,
                "Nothing was added: the price book has changed since this was shown. "
                "Look at what would be added now, and decide again.",
            )
            again = ApplyForm(initial={**asked.cleaned_data, "digest": rows.digest})
            return self._shown(FileForm(), rows=rows, asked=again)
        told = "1 price was" if added == 1 else f"{added} prices were"
        messages.success(request, f"{told} added.")
        return HttpResponseRedirect(reverse("admin:control_costprice_changelist"))

    def _shown(
        self, form: FileForm, *, rows: PriceRows | None = None, asked: Any = None, faults: Any = ()
    ) -> HttpResponse:
        shown = {
            "form": form,
            "columns": COLUMNS,
            "rows": rows,
            "asked": asked,
            "faults": faults,
            "rows_max": price_csv.ROWS_MAX,
            "kib_max": price_csv.BYTES_MAX // 1024,
        }
        return self.render_to_response(self.get_context_data(**shown))


def _bytes_of(file: UploadedFile) -> bytes:
    """Return the file's bytes; of one that is too large so many that it is told."""
    return bytes(file.read(price_csv.BYTES_MAX + 1))


def _summary(rows: PriceRows) -> str:
    count = len(rows.faults)
    more = f"; the first {FAULTS_SHOWN_MAX} are shown" if count > FAULTS_SHOWN_MAX else ""
    wrong = "one thing is wrong" if count == 1 else f"{count} things are wrong"
    return f"{wrong}: correct the rows below in the file, and look at it again{more}"


def _add(data: bytes, *, digest: str) -> int | None:
    """Add what a file says, within a change; None: that is no longer what was shown."""
    catalog = store.load_catalog(NO_TENANTS).catalog
    rows = read_price_rows(data, catalog)
    if rows.faults or rows.digest != digest:
        return None
    entries = tuple(rows.new.values())
    written = rows_of(Catalog(currency=catalog.currency, costs=entries))["CostPrice"]
    last = CostPrice.objects.order_by("-position").values_list("position", flat=True).first()
    first = 0 if last is None else last + 1
    CostPrice.objects.bulk_create(
        [
            CostPrice(**{**row, "position": first + number})
            for number, row in enumerate(written.values())
        ]
    )
    return len(entries)
