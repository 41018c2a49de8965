"""Drawings of the pages, ready for their templates: places, labels, and words for who can't see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aforo_admin.control.templatetags.aforo import LEVELS, minute, percent_bp
from aforo_admin.domain.drawing import Axis, Drawing, sparkline, tenths
from aforo_admin.domain.margin_course import Course, Point
from aforo_meter.domain.margin import BP, Level
from aforo_meter.domain.periods import DAY_MICROS, datetime_of

WIDTH: Final = 760
HEIGHT: Final = 260
LEFT, RIGHT, TOP, BOTTOM = 64, WIDTH - 96, 14, HEIGHT - 30
LOWEST_BP: Final = -BP  # A loss beyond the revenue stands at the edge.
ROOM_BP: Final = 500
LABEL_GAP: Final = 12  # Between the baselines of two labels.
BARS_HEIGHT: Final = 120
BARS_TOP, BARS_BOTTOM = -20, 24  # Room for what the axes are called.
SPARK_WIDTH, SPARK_HEIGHT = 160, 36


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a chart, with its label beside it."""

    at: str
    label: str
    label_at: str
    kind: str  # A class.


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginChart:
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    so_far: str
    ahead: str
    now_at: str
    floors: Sequence[Mark]
    ticks: Sequence[Mark]  # Of the margin.
    days: Sequence[Mark]
    measured: str  # What the upward axis is of.
    told: str


def margin_chart(course: Course) -> MarginChart:
    """Draw a margin's way through its period, with its floors."""
    drawing = _drawing(course)
    last = course.so_far[-1] if course.so_far else Point(course.period.start_micros, BP)
    return MarginChart(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=RIGHT,
        top=TOP,
        bottom=BOTTOM,
        so_far=_line(drawing, course.so_far),
        ahead=_line(drawing, course.ahead),
        now_at=drawing.x.at(last.at_micros),
        floors=_floors(drawing, course),
        ticks=[
            Mark(drawing.y.at(bp), percent_bp(bp), _shifted(drawing, bp, 4), "tick")
            for bp in (BP, BP // 2, 0, -BP // 2, -BP)
            if bp >= drawing.y.first
        ],
        days=_days(drawing, course),
        measured="Gross margin" if course.is_revenue else "Left of the allowance",
        told=_told(course, last),
    )


def _drawing(course: Course) -> Drawing:
    figures = [
        *(point.left_bp for point in (*course.so_far, *course.ahead)),
        *(floor_bp for _, floor_bp in course.floors),
        0,
    ]
    return Drawing(
        x=Axis(
            first=course.period.start_micros,
            last=course.period.end_micros,
            at_first=LEFT,
            at_last=RIGHT,
        ),
        y=Axis(
            first=max(LOWEST_BP, min(figures) - ROOM_BP),
            last=BP,
            at_first=BOTTOM,
            at_last=TOP,
        ),
    )


def _line(drawing: Drawing, points: Sequence[Point]) -> str:
    return drawing.line((point.at_micros, point.left_bp) for point in points)


def _floors(drawing: Drawing, course: Course) -> list[Mark]:
    """Return the floors, the lowest first: a label that would touch the one below moves up."""
    found = []
    free_below = HEIGHT + 0
    for level, floor_bp in sorted(course.floors, key=lambda floor: floor[1]):
        name, word = LEVELS[level]
        at = min(round(drawing.y.place(floor_bp)) + 4, free_below)
        free_below = at - LABEL_GAP
        found.append(
            Mark(drawing.y.at(floor_bp), f"{word.split()[0]} {percent_bp(floor_bp)}", str(at), name)
        )
    return found


def _shifted(drawing: Drawing, figure: int, down: int) -> str:
    return tenths(drawing.y.place(figure) + down)


def _days(drawing: Drawing, course: Course) -> list[Mark]:
    period = course.period
    span_days = max(1, (period.end_micros - period.start_micros) // DAY_MICROS)
    step_days = max(1, -(-span_days // 5))
    moments = range(period.start_micros, period.end_micros, step_days * DAY_MICROS)
    return [
        Mark(drawing.x.at(at), f"{datetime_of(at):%d %b}", str(BOTTOM + 18), "day")
        for at in moments
    ]


def _told(course: Course, last: Point) -> str:
    what = "Margin" if course.is_revenue else "What is left of the allowance"
    text = f"{what} over the period: {percent_bp(last.left_bp)} on {minute(last.at_micros)} UTC"
    if course.ahead:
        text += f", {percent_bp(course.ahead[-1].left_bp)} at its end if usage goes on"
    floors = ", ".join(
        f"{LEVELS[level][1]} below {percent_bp(floor_bp)}" for level, floor_bp in course.floors
    )
    return f"{text}. Floors: {floors}."


@dataclass(frozen=True, slots=True)
class Bar:
    x: str
    y: str
    width: str
    height: str
    kind: str
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Calls by hour, blocked ones upon throttled ones."""

    width: int
    height: int
    top: int
    whole_height: int  # With the words above and below.
    bars: Sequence[Bar]
    most: int
    first_micros: int
    last_micros: int


def hour_bars(by_hour: Sequence[tuple[int, Mapping[str, int]]]) -> Bars:
    """Draw calls by hour."""
    most = max((sum(calls.values()) for _, calls in by_hour), default=0)
    across = Axis(first=0, last=max(1, len(by_hour)), at_first=0, at_last=WIDTH)
    upward = Axis(first=0, last=max(1, most), at_first=BARS_HEIGHT, at_last=0)
    bars = []
    for number, (hour_micros, calls) in enumerate(by_hour):
        stacked = 0
        for kind in sorted(calls, reverse=True):  # Throttled ones stand below.
            base, stacked = stacked, stacked + calls[kind]
            height = upward.place(base) - upward.place(stacked)
            bars.append(
                Bar(
                    x=across.at(number),
                    y=upward.at(stacked),
                    width=tenths((across.place(number + 1) - across.place(number)) * 9 / 10),
                    height=tenths(height),
                    kind=kind,
                    told=f"{minute(hour_micros)}: {calls[kind]:,} {kind}",
                )
            )
    return Bars(
        width=WIDTH,
        height=BARS_HEIGHT,
        top=BARS_TOP,
        whole_height=BARS_HEIGHT - BARS_TOP + BARS_BOTTOM,
        bars=bars,
        most=most,
        first_micros=by_hour[0][0] if by_hour else 0,
        last_micros=by_hour[-1][0] if by_hour else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spark:
    width: int
    height: int
    points: str
    told: str


def spark(figures: Sequence[int], told: str) -> Spark:
    """Draw figures in turn, small."""
    return Spark(
        width=SPARK_WIDTH,
        height=SPARK_HEIGHT,
        points=sparkline(list(figures), width=SPARK_WIDTH, height=SPARK_HEIGHT),
        told=told,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a bar that shows what shares something has."""

    level: Level
    tenants: int
    x: str
    width: str


def level_parts(tenants: Sequence[tuple[Level, int]]) -> list[Part]:
    """Draw how many tenants are at each level, as one bar."""
    whole = sum(number for _, number in tenants)
    across = Axis(first=0, last=max(1, whole), at_first=0, at_last=WIDTH)
    found, before = [], 0
    for level, number in tenants:
        if number:
            width = across.place(before + number) - across.place(before)
            found.append(
                Part(level=level, tenants=number, x=across.at(before), width=tenths(width))
            )
        before += number
    return found
