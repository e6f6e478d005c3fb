"""How much a client may send."""


class LimitedBody:
    """Refuses requests whose body is larger than `limit` bytes with 413, and reads no more of them.

    Django would read all of it, to the disk if need be, before it looks who asks for what.
    """

    def __init__(self, app, limit):
        self.app = app
        self.limit = limit

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > self.limit:
            return await refuse(send)

        left = self.limit

        async def receive_limited():
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            # To the application it looks as if the client had left, so it gives up without an answer.
            return message if left >= 0 else {"type": "http.disconnect"}

        await self.app(scope, receive_limited, send)
        if left < 0:
            await refuse(send)


async def refuse(send):
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b"The body is too large.\n"})
