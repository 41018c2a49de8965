"""Calls that are told of more than once: whatever the order, the truth counts, once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.calls import NEW, Call, Change, Told, tell
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.domain.usage import API_CALLS, BYTES_RESPONSE, LLM_INPUT, LLM_OUTPUT, LLM_REASONING


def key(meter: str, *, model: str = "", price_id: str = "p") -> ChargeKey:
    return ChargeKey("acme", "sub-1", 0, 0, "api", meter, "", model, price_id, 0)


def told(
    *charges: tuple[str, int],
    interim: bool = False,
    estimated: bool = False,
    model: str = "",
    weight: int = 1,
    is_whole: bool = False,
) -> Told:
    return Told(
        charges=[(key(meter, model=model), quantity) for meter, quantity in charges],
        interim=interim,
        estimated=estimated,
        weight_units=weight,
        is_whole=is_whole,
    )


@dataclass
class Rows:
    """A ledger that adds what each event changes."""

    call: Call = NEW

    def __post_init__(self) -> None:
        self.quantities: Counter[ChargeKey] = Counter()
        self.extras: Counter[ChargeKey] = Counter()

    def hear(self, *events: Told) -> "Rows":
        for event in events:
            self.call, changes = tell(self.call, event)
            for row, change in changes.items():
                self.quantities[row] += change.quantity_micros
                self.extras[row] += change.extra_micros
                assert self.quantities[row] >= 0, "a row never goes below nothing"
                assert self.extras[row] >= 0
        return self

    def meters(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for row, quantity in self.quantities.items():
            found[row.meter] += quantity
        return dict(+found)

    def models(self) -> dict[tuple[str, str], int]:
        return {(row.meter, row.model): q for row, q in self.quantities.items() if q}


def test_totals_so_far_count_once() -> None:
    totals = [told((BYTES_RESPONSE, size), interim=True) for size in (30, 60, 90)]

    assert Rows().hear(*totals).meters() == {BYTES_RESPONSE: 90}
    assert Rows().hear(*reversed(totals)).meters() == {BYTES_RESPONSE: 90}


def test_a_call_counts_at_its_end_and_not_before() -> None:
    rows = Rows().hear(told((API_CALLS, 1), (BYTES_RESPONSE, 30), interim=True))
    assert rows.meters() == {BYTES_RESPONSE: 30}

    rows.hear(told((API_CALLS, 1), (BYTES_RESPONSE, 120)))
    assert rows.meters() == {API_CALLS: 1, BYTES_RESPONSE: 120}


def test_a_total_that_comes_after_the_end_adds_nothing() -> None:
    rows = Rows().hear(told((API_CALLS, 1), (BYTES_RESPONSE, 120)))
    rows.hear(told((BYTES_RESPONSE, 90), interim=True), told((BYTES_RESPONSE, 999), interim=True))

    assert rows.meters() == {API_CALLS: 1, BYTES_RESPONSE: 120}


def test_the_end_brings_totals_to_the_row_that_it_names() -> None:
    """The model is known at the end only; what was counted before moves along."""
    rows = Rows().hear(told((BYTES_RESPONSE, 30), interim=True))
    rows.hear(told((BYTES_RESPONSE, 120), model="gpt-4o"))

    assert rows.models() == {(BYTES_RESPONSE, "gpt-4o"): 120}


def test_what_others_tell_of_a_call_leaves_what_was_used_before() -> None:
    rows = Rows().hear(told((BYTES_RESPONSE, 30), interim=True), told())

    assert rows.meters() == {BYTES_RESPONSE: 30}


def test_a_call_that_was_no_usage_at_its_end_was_none_before_in_any_order() -> None:
    """An upload of a minute that is answered 403: tokens that were reported count anyway."""
    under_way = told((BYTES_RESPONSE, 30), interim=True)
    for end in (told(is_whole=True), told((LLM_INPUT, 5), is_whole=True)):
        for events in ((under_way, end), (end, under_way), (under_way, under_way, end)):
            meters = Rows().hear(*events).meters()
            assert meters.get(BYTES_RESPONSE, 0) == 0
            assert meters.get(LLM_INPUT, 0) == sum(q for _, q in end.charges)


def test_the_end_of_a_call_leaves_what_is_known_better() -> None:
    truth = told((LLM_OUTPUT, 7))
    end = told((API_CALLS, 1), is_whole=True)

    assert Rows().hear(truth, end).meters() == Rows().hear(end, truth).meters()


def test_the_truth_takes_the_place_of_an_estimate_even_if_it_is_less() -> None:
    rows = Rows().hear(told((API_CALLS, 1), (LLM_INPUT, 100), (LLM_OUTPUT, 50), estimated=True))
    rows.hear(told((LLM_INPUT, 90), (LLM_OUTPUT, 40), (LLM_REASONING, 7)))

    assert rows.meters() == {API_CALLS: 1, LLM_INPUT: 90, LLM_OUTPUT: 40, LLM_REASONING: 7}


def test_a_truth_about_tokens_leaves_bytes_and_replaces_all_tokens() -> None:
    rows = Rows().hear(told((BYTES_RESPONSE, 800), (LLM_OUTPUT, 50), estimated=True))
    rows.hear(told((LLM_REASONING, 47)))

    assert rows.meters() == {BYTES_RESPONSE: 800, LLM_REASONING: 47}


def test_a_truth_of_nothing_is_said_by_a_zero() -> None:
    rows = Rows().hear(told((LLM_OUTPUT, 50), estimated=True), told((LLM_OUTPUT, 0)))
    assert rows.meters() == {}

    rows = Rows().hear(told((LLM_OUTPUT, 0)), told((LLM_OUTPUT, 50), estimated=True))
    assert rows.meters() == {}


def test_weights_come_and_go_with_their_calls() -> None:
    rows = Rows().hear(told((API_CALLS, 2), (LLM_OUTPUT, 5), estimated=True, weight=10))
    assert rows.extras == Counter({key(API_CALLS): 18})

    rows.hear(told((API_CALLS, 1), weight=10))
    assert +rows.extras == Counter({key(API_CALLS): 9})


def test_an_event_that_changes_nothing_says_so() -> None:
    call, changes = tell(NEW, told((BYTES_RESPONSE, 30), interim=True))
    assert changes == {key(BYTES_RESPONSE): Change(30, 0)}

    assert tell(call, told((BYTES_RESPONSE, 20), interim=True)) == (call, {})


TOTALS = st.lists(st.integers(0, 1000), max_size=5)


@given(
    totals=TOTALS,
    estimated_tokens=st.integers(0, 500),
    true_tokens=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    has_truth=st.booleans(),
    weight=st.integers(1, 9),
    random=st.randoms(use_true_random=False),
)
def test_no_order_changes_what_is_counted_in_the_end(
    totals: Sequence[int],
    estimated_tokens: int,
    true_tokens: tuple[int, int],
    has_truth: bool,  # noqa: FBT001
    weight: int,
    random: Random,
) -> None:
    """Totals so far, an end whose tokens are estimated, and perhaps the truth about them."""
    size = max(totals, default=0) + 1
    events = [told((BYTES_RESPONSE, total), interim=True) for total in totals]
    events.append(
        told(
            (API_CALLS, 1),
            (BYTES_RESPONSE, size),
            (LLM_OUTPUT, estimated_tokens),
            estimated=True,
            model="gpt-4o",
            weight=weight,
        )
    )
    expected = Counter({API_CALLS: 1, BYTES_RESPONSE: size, LLM_OUTPUT: estimated_tokens})
    if has_truth:
        output, reasoning = true_tokens
        events.append(told((LLM_OUTPUT, output), (LLM_REASONING, reasoning), model="gpt-4o"))
        expected[LLM_OUTPUT], expected[LLM_REASONING] = output, reasoning
    random.shuffle(events)

    rows = Rows().hear(*events)

    assert rows.meters() == dict(+expected)
    assert +rows.extras == +Counter({key(API_CALLS, model="gpt-4o"): weight - 1})
