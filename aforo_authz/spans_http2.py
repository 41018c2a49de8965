"""A connection that hears which span a call belongs to. Used only where spans are wanted."""

from collections.abc import Callable

from ngh2 import RequestReceived

from aforo_authz.http2 import Http2Connection, Owner


class SpannedHttp2Connection(Http2Connection):
    """Tells what came as `traceparent` with a call, right before its method is called.

    A class of its own, not a question in the other one: who wants no spans pays nothing for them.
    """

    def __init__(self, owner: Owner, hear: Callable[[str], None]) -> None:
        super().__init__(owner)
        self._hear = hear
        self._traceparents: dict[int, str] = {}

    def _begin(self, event: RequestReceived) -> None:
        super()._begin(event)
        if event.stream_id in self._streams:
            for name, value in event.headers:
                if name == b"traceparent":
                    self._traceparents[event.stream_id] = value.decode("latin-1")

    def _call(self, stream_id: int) -> None:
        self._hear(self._traceparents.pop(stream_id, ""))
        super()._call(stream_id)

    def _forget(self, stream_id: int) -> None:
        # Every stream ends here, also one whose message never came.
        self._traceparents.pop(stream_id, None)
        super()._forget(stream_id)
