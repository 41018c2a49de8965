"""Calls that are told of more than once: whatever the order, the truth counts, once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import permutations
from operator import or_
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.calls import NEW, Call, Change, Told, tell
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.domain.usage import API_CALLS, BYTES_RESPONSE, LLM_INPUT, LLM_OUTPUT, LLM_REASONING


def key(
    meter: str, *, model: str = "", price_id: str = "p", feature: str = "api", hour: int = 0
) -> ChargeKey:
    return ChargeKey("acme", "sub-1", 0, hour, feature, meter, "", model, price_id, 0)


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


def truth(*charges: tuple[str, int], model: str = "", hour: int = 3) -> Told:
    """Return what somebody else tells of the call, who knows of no feature and another hour."""
    return Told(
        charges=[
            (key(meter, model=model, feature="", hour=hour), quantity)
            for meter, quantity in charges
        ],
        interim=False,
        estimated=False,
        is_correction=True,
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


def test_a_call_that_was_no_usage_at_its_end_was_none_before_in_any_order() -> None:
    """An upload of a minute that is answered 403: tokens that were reported count anyway."""
    under_way = told((BYTES_RESPONSE, 30), interim=True)
    for end in (told(is_whole=True), told((LLM_INPUT, 5), is_whole=True)):
        for events in ((under_way, end), (end, under_way), (under_way, under_way, end)):
            meters = Rows().hear(*events).meters()
            assert meters.get(BYTES_RESPONSE, 0) == 0
            assert meters.get(LLM_INPUT, 0) == sum(q for _, q in end.charges)


END = ((API_CALLS, 1), (BYTES_RESPONSE, 800), (LLM_INPUT, 100), (LLM_OUTPUT, 50))
ESTIMATE = told(*END, estimated=True, is_whole=True, model="asked-for")
EXACT = told(*END, is_whole=True, model="gpt-4o")
TRUTH = truth((LLM_INPUT, 90), (LLM_REASONING, 7), model="gpt-4o")


def test_true_figures_replace_all_estimated_tokens_and_nothing_else_in_any_order() -> None:
    """90 + 7 tokens, less than the 100 + 50 estimated; the call and its bytes stay as they are."""
    for events in permutations([ESTIMATE, TRUTH, TRUTH]):
        rows = Rows().hear(*events)

        assert rows.meters() == {
            API_CALLS: 1,
            BYTES_RESPONSE: 800,
            LLM_INPUT: 90,
            LLM_REASONING: 7,
        }


def test_true_figures_stand_where_the_estimate_stood_with_the_model_that_they_name() -> None:
    for events in permutations([ESTIMATE, TRUTH]):
        places = {(row.feature, row.hour_start_micros) for row in +Rows().hear(*events).quantities}
        assert places == {("api", 0)}
        assert Rows().hear(*events).models() == {
            (API_CALLS, "asked-for"): 1,
            (BYTES_RESPONSE, "asked-for"): 800,
            (LLM_INPUT, "gpt-4o"): 90,
            (LLM_REASONING, "gpt-4o"): 7,
        }


def test_true_figures_of_a_call_that_was_counted_exactly_change_nothing_in_any_order() -> None:
    for events in permutations([EXACT, TRUTH, ESTIMATE]):
        rows = Rows().hear(*events)

        assert rows.meters() == dict(END)
        assert not rows.call.waiting


def test_true_figures_alone_count_nothing_and_wait() -> None:
    rows = Rows().hear(TRUTH, told((BYTES_RESPONSE, 30), interim=True))

    assert rows.meters() == {BYTES_RESPONSE: 30}
    assert sorted(rows.call.waiting.values()) == [7, 90]


def test_a_call_goes_on_while_its_true_figures_wait() -> None:
    """They may be told before the gateway's end is: totals so far still count."""
    rows = Rows().hear(TRUTH, told((BYTES_RESPONSE, 30), interim=True), ESTIMATE)

    assert rows.meters() == {API_CALLS: 1, BYTES_RESPONSE: 800, LLM_INPUT: 90, LLM_REASONING: 7}


def test_of_meters_that_are_no_tokens_nobody_but_the_gateway_tells() -> None:
    more = truth((API_CALLS, 5), (BYTES_RESPONSE, 9000), (LLM_OUTPUT, 40))
    for events in permutations([ESTIMATE, more]):
        assert Rows().hear(*events).meters() == {
            API_CALLS: 1,
            BYTES_RESPONSE: 800,
            LLM_OUTPUT: 40,
        }


def test_a_truth_of_nothing_is_said_by_a_zero() -> None:
    for events in permutations([told((LLM_OUTPUT, 50), estimated=True), truth((LLM_OUTPUT, 0))]):
        assert Rows().hear(*events).meters() == {}


def test_of_two_truths_the_larger_figure_of_each_meter_holds() -> None:
    one = truth((LLM_INPUT, 90), (LLM_OUTPUT, 1), model="a")
    other = truth((LLM_INPUT, 80), (LLM_OUTPUT, 9), model="b")
    for events in permutations([ESTIMATE, one, other]):
        meters = Rows().hear(*events).meters()
        assert (meters[LLM_INPUT], meters[LLM_OUTPUT]) == (90, 9)


def test_weights_come_and_go_with_their_calls() -> None:
    rows = Rows().hear(told((API_CALLS, 2), (LLM_OUTPUT, 5), estimated=True, weight=10))
    assert rows.extras == Counter({key(API_CALLS): 18})

    rows.hear(told((API_CALLS, 1), weight=10))
    assert +rows.extras == Counter({key(API_CALLS): 9})


def test_an_event_that_changes_nothing_says_so() -> None:
    call, changes = tell(NEW, told((BYTES_RESPONSE, 30), interim=True))
    assert changes == {key(BYTES_RESPONSE): Change(30, 0)}

    assert tell(call, told((BYTES_RESPONSE, 20), interim=True)) == (call, {})


MEASURES = st.dictionaries(
    st.sampled_from([API_CALLS, BYTES_RESPONSE, LLM_INPUT, LLM_OUTPUT, LLM_REASONING]),
    st.integers(0, 500),
)
TOKENS = st.dictionaries(
    st.sampled_from([LLM_INPUT, LLM_OUTPUT, LLM_REASONING]), st.integers(0, 500), min_size=1
)
MODELS = st.sampled_from(["", "gpt-4o", "claude"])


def larger(figures: Sequence[Mapping[str, int]]) -> Counter[str]:
    """Return the largest figure of each meter."""
    return reduce(or_, map(Counter, figures), Counter())


@given(
    totals=st.lists(st.integers(0, 1000), max_size=5),
    end=MEASURES,
    model=MODELS,
    is_estimated=st.booleans(),
    truths=st.lists(st.tuples(TOKENS, MODELS), max_size=3),
    weight=st.integers(1, 9),
    random=st.randoms(use_true_random=False),
    again=st.integers(0, 3),
)
def test_no_order_and_no_repetition_changes_what_is_counted_in_the_end(
    totals: Sequence[int],
    end: Mapping[str, int],
    model: str,
    is_estimated: bool,  # noqa: FBT001
    truths: Sequence[tuple[Mapping[str, int], str]],
    weight: int,
    random: Random,
    again: int,
) -> None:
    """Totals so far, an end whose tokens are exact or estimated, and true figures about them."""
    size = max(totals, default=0)
    end = {**end, BYTES_RESPONSE: size}
    events = [told((BYTES_RESPONSE, total), interim=True) for total in totals]
    events.append(
        told(*end.items(), estimated=is_estimated, model=model, weight=weight, is_whole=True)
    )
    events += [truth(*tokens.items(), model=name) for tokens, name in truths]
    events += random.sample(events, min(again, len(events)))
    random.shuffle(events)
    expected = Counter(end)
    if truths and is_estimated and any(meter.startswith("llm.") for meter in end):
        for meter in (LLM_INPUT, LLM_OUTPUT, LLM_REASONING):
            del expected[meter]
        expected += larger([tokens for tokens, _ in truths])

    rows = Rows().hear(*events)

    assert rows.meters() == dict(+expected)
    calls = key(API_CALLS, model=model)
    assert +rows.extras == +Counter({calls: end.get(API_CALLS, 0) * (weight - 1)})
    assert all(row.feature == "api" for row in +rows.quantities)
