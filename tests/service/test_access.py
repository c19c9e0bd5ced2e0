"""Who may be served, and where."""

import asyncio

import pytest

from voxseg.errors import UserError
from voxseg.service.access import UNWANTED_BYTES, Access, Guard, check_exposure, is_loopback

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("host", "alone"), [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback(host, alone):
    assert is_loopback(host) is alone


def test_no_such_address():
    with pytest.raises(UserError, match="there is no such address"):
        is_loopback("no such name")


def test_the_network_is_served_with_a_token_or_when_asked_twice():
    check_exposure("127.0.0.1", None, False)
    check_exposure("0.0.0.0", TOKEN, False)
    check_exposure("0.0.0.0", None, True)
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(UserError, match="can be reached from other machines"):
            check_exposure(host, None, False)


@pytest.mark.parametrize("token", ["", "short", "with a blank inside", "ünicode-ünicode-ünicode", "0123456789abcdef\n"])
def test_tokens_that_are_none(token):
    with pytest.raises(UserError, match="letters and digits at least"):
        check_exposure("127.0.0.1", token, False)


def test_cookies_of_two_servers_on_one_machine_are_told_apart():
    access = Access(TOKEN)
    assert access.cookie("127.0.0.1:1234") != access.cookie("127.0.0.1:1235")
    headers = {"host": "127.0.0.1:1234", "cookie": f"voxseg_1235=x; voxseg_1234={TOKEN}"}
    assert access.knows_token(headers)
    assert not access.knows_token({**headers, "host": "127.0.0.1:1235"})
    assert not access.knows_token({**headers, "authorization": "Bearer wrong"})
    assert not access.knows_token({"host": "a", "cookie": "\x00=;;"})


@pytest.mark.parametrize(("pieces", "read"), [([b"a", b"b"], 2), ([bytes(UNWANTED_BYTES)] * 3, 1)])
def test_a_little_of_what_is_refused_is_read_before_the_answer(pieces, read):
    """Otherwise the connection is reset, and the answer may be lost."""
    events, left = [], list(pieces)

    async def receive():
        events.append("read")
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message):
        events.append(message.get("status", "end"))

    scope = {"type": "http", "method": "POST", "path": "/api/jobs", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guard(None, Access(TOKEN), ())(scope, receive, send))
    assert events == ["read"] * read + [401, "end"]
