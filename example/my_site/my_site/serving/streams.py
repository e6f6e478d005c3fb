"""Server-sent events."""

from collections.abc import AsyncIterable

from django.http import StreamingHttpResponse


class EventStreamResponse(StreamingHttpResponse):
    """A response of server-sent events that holds no thread and no database connection while it waits.

    `content` yields events in the form of the protocol, such as `"data: 1\\n\\n"`. Each of its
    synchronous calls, those of the ORM among them, runs in a background thread with a clean
    connection: what the view or middleware has set in the connection or the thread is not there.
    """

    def __init__(self, content: AsyncIterable[str | bytes], status: int = 200) -> None:
        # The last header is for nginx, which would wait until it has some kilobytes.
        headers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        super().__init__(content, status=status, content_type="text/event-stream", headers=headers)
