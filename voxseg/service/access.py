"""Who may use the service: loopback addresses, host names, origins, and a token; imports nothing heavy.

A page of any web site can make a browser send requests to an address of this machine. Three things keep it out. Its
own name, once it has been made to resolve to this machine (DNS rebinding), is in the Host header: addresses need no
DNS and are taken, names only if they are known. Its forms and scripts send an Origin that is not ours. And it does not
know the token, if there is one: as a bearer token, or in a cookie that no other site can make a browser send.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from voxseg.errors import UserError

__all__ = ["Access", "Guard", "check_exposure", "is_loopback"]

LEAST_TOKEN = 16
"""Characters; a token cannot be guessed at then, however often somebody asks."""

UNWANTED_BYTES, UNWANTED_SECONDS = 2**20, 2.0
"""How much of a body is read, and for how long, of a request that is refused."""

SAFE_METHODS = ("GET", "HEAD")
HEADERS = {
    b"cache-control": b"no-store",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    # What a route says of its own file comes before it.
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer: it is kept nowhere, no other site may use it, it is what its type says."""

App = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether a name or address leads to this machine alone.

    Raises:
        UserError: if there is no such name.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host}", "there is no such address", "give 127.0.0.1, or one of this machine"
        ) from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def check_exposure(host: str, token: str | None, without_token: bool) -> None:
    """Refuse to serve the network without a token, unless that is asked for in so many words.

    Raises:
        UserError: if so, or if the token is too short to be one.
    """
    if token is not None and not re.fullmatch(rf"[\x21-\x7e]{{{LEAST_TOKEN},}}", token):
        problem = f"has to be {LEAST_TOKEN} letters and digits at least, without spaces"
        raise UserError("--token", problem, "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'")
    if token is None and not without_token and not is_loopback(host):
        problem = "can be reached from other machines, and there is no token to keep strangers out"
        remedy = "set VOXSEG_TOKEN, or give --without-token if whoever reaches this machine may use it"
        raise UserError(f"--host {host}", problem, remedy)


class Access:
    """The rules for requests.

    Args:
        token: what a request has to bring; None if none is needed.
        names: of this machine, besides `localhost` and addresses, that a Host header may have.
    """

    def __init__(self, token: str | None = None, names: Collection[str] = ()) -> None:
        self.token = token
        self.names = frozenset({"localhost", *(name.lower() for name in names)})

    def may_name(self, host: str) -> bool:
        """Whether a Host header, with or without a port, is one of this machine and of no web site."""
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::\d{1,5})?", host)
        if found is None:
            return False
        name = found[1].strip("[]").lower()
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def is_own(self, origin: str | None, host: str) -> bool:
        """Whether an Origin header, if there is one, is that of the page that this host serves."""
        return origin is None or (urlsplit(origin).netloc.lower() == host.lower() and origin != "null")

    def knows_token(self, headers: Mapping[str, str]) -> bool:
        """Whether the headers (names in small letters) bring the token, or none is needed."""
        if self.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(given.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie(headers.get("host", "")))
        except CookieError:
            return False
        return cookie is not None and self.is_token(cookie.value)

    def is_token(self, text: str) -> bool:
        """Whether a text is the token; takes equally long whatever is wrong with it."""
        return self.token is not None and hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())

    def cookie(self, host: str) -> str:
        """The name of the cookie with the token. Browsers do not tell ports apart, so that the name has to."""
        port = host.rpartition(":")[2]
        return f"voxseg_{port}" if port.isdigit() else "voxseg"


class Guard:
    """ASGI middleware that lets through what `Access` allows, before anything of a request's body is read.

    Args:
        app: what comes behind it.
        access: the rules.
        open_paths: what is answered without a token: the page and its parts, and where the token is given.
    """

    def __init__(self, app: App, access: Access, open_paths: Collection[str]) -> None:
        self.app, self.access, self.open_paths = app, access, frozenset(open_paths)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer, or hand on, one request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # nothing here speaks WebSocket
            return None

        body = _Body(receive)

        async def send_guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = [(name, value) for name, value in HEADERS.items() if name not in given]
                if scope["method"] not in SAFE_METHODS and message["status"] >= 400:
                    more.append((b"connection", b"close"))  # the rest of a body is not wanted
                    await body.drain()
                message["headers"] = [*message["headers"], *more]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            return await self.app(scope, body.receive, send_guarded)
        status, problem, remedy = refusal
        from voxseg.provenance import to_json

        told = to_json({"what": "request", "problem": problem, "remedy": remedy}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send_guarded({"type": "http.response.start", "status": status, "headers": headers})
        await send_guarded({"type": "http.response.body", "body": told})

    def _refusal(self, scope: dict[str, Any]) -> tuple[int, str, str] | None:
        """Status, problem and remedy; None if the request is let through."""
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = dict(pairs)
        host = headers.get("host", "")
        if [name for name, _ in pairs].count("host") != 1 or not self.access.may_name(host):
            return 421, "this name of the machine is not known to voxseg", "start it with --allow-host NAME"
        if scope["method"] not in SAFE_METHODS and not self.access.is_own(headers.get("origin"), host):
            return 403, "comes from a page of another site", "use the page of this server"
        if scope["path"] not in self.open_paths and not self.access.knows_token(headers):
            return 401, "needs the token of this server", "send it as: Authorization: Bearer TOKEN"
        return None


class _Body:
    """The body of a request, of which some may be left when the answer is sent.

    A connection that is closed with something unread is reset, and whoever sent it may never see the answer. So a
    little is read and thrown away before: of a large upload that goes on, the answer may be lost.
    """

    def __init__(self, receive: Callable[[], Awaitable[Any]]) -> None:
        self._receive, self._ended = receive, False

    async def receive(self) -> Any:
        """The next message."""
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what is left, up to a limit of bytes and of time."""

        async def read() -> None:
            left = UNWANTED_BYTES
            while not self._ended and left > 0:
                left -= len((await self.receive()).get("body", b""))

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), UNWANTED_SECONDS)
