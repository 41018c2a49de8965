"""The last answers of a connection: which of them did their callers not wait for?"""


class LastAnswers:
    """Keeps what was answered until it can no longer be known as unheard.

    A client resets only streams whose end it has not seen. Of those there are never more than it
    may have open, so the last that many answers are enough, however long it stood still.

    Args:
        count_max: Streams that the client may have open at once.
    """

    __slots__ = ("_before", "_count_max", "_last")

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._last: dict[int, bytes] = {}
        self._before: dict[int, bytes] = {}

    def keep(self, stream_id: int, answer: bytes) -> None:
        if len(self._last) >= self._count_max:
            self.age()
        self._last[stream_id] = answer

    def take(self, stream_id: int) -> bytes | None:
        """Return the answer on a stream, once; None if there was none, or it is forgotten."""
        return self._last.pop(stream_id, None) or self._before.pop(stream_id, None)

    def age(self) -> None:
        """Forget what was there when this was called before. Once a second, it costs no memory."""
        self._before, self._last = self._last, {}
