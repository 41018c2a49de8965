"""Sessions: what events say of them, in whatever order they come."""

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.sessions import Boundary, EndedBy, Session, Sighting, killed, seen


def heard(*sightings: tuple[Boundary, int], known: Session | None = None) -> Session:
    for boundary, at_micros in sightings:
        sighting = Sighting("s1", boundary, "AI_AGENT", "helper", at_micros)
        known = seen(known, "acme", sighting)
    assert known is not None
    return known


def test_a_session_opens_counts_steps_and_ends() -> None:
    session = heard(
        (Boundary.START, 10), (Boundary.STEP, 20), (Boundary.STEP, 30), (Boundary.END, 40)
    )

    assert (session.opened_micros, session.last_seen_micros) == (10, 40)
    assert (session.steps, session.ended_by, session.ended_micros) == (2, EndedBy.END, 40)
    assert (session.product, session.agent) == ("AI_AGENT", "helper")


def test_a_heartbeat_is_a_sign_of_life_and_no_step() -> None:
    session = heard((Boundary.START, 10), (Boundary.HEARTBEAT, 90))

    assert (session.steps, session.last_seen_micros) == (0, 90)


def test_a_session_of_which_the_beginning_was_not_heard_is_one_all_the_same() -> None:
    assert heard((Boundary.STEP, 20)).opened_micros == 20


def idle(session: Session) -> Session:
    return Session(
        tenant_id=session.tenant_id,
        session_id=session.session_id,
        opened_micros=session.opened_micros,
        last_seen_micros=session.last_seen_micros,
        steps=session.steps,
        ended_by=EndedBy.IDLE,
        ended_micros=session.last_seen_micros,
    )


def test_an_idle_session_goes_on_when_it_is_heard_of_again() -> None:
    silent = idle(heard((Boundary.STEP, 20)))

    assert heard((Boundary.STEP, 50), known=silent).ended_by is EndedBy.NOBODY
    late = heard((Boundary.STEP, 15), known=silent)
    assert (late.ended_by, late.steps) == (EndedBy.IDLE, 2)


def test_a_killed_session_stays_killed() -> None:
    dead = killed(heard((Boundary.START, 10)), now_micros=30)
    after = heard((Boundary.STEP, 40), (Boundary.START, 50), (Boundary.END, 60), known=dead)

    assert (after.ended_by, after.killed_micros, after.steps) == (EndedBy.KILLED, 30, 1)
    assert killed(after, now_micros=99).killed_micros == 30


def test_a_session_may_begin_anew_under_its_name() -> None:
    again = heard((Boundary.START, 10), (Boundary.END, 20), (Boundary.START, 30))

    assert again.ended_by is EndedBy.NOBODY


@given(
    events=st.lists(
        st.tuples(st.sampled_from(list(Boundary)), st.integers(0, 100)), min_size=1, max_size=8
    ),
    random=st.randoms(use_true_random=False),
)
def test_the_order_in_which_events_arrive_changes_nothing(
    events: Sequence[tuple[Boundary, int]], random: Random
) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)

    assert heard(*shuffled) == heard(*events)
