"""Asking a served model: any server that speaks OpenAI's chat completions.

The address and the key come from the environment (OPENAI_BASE_URL, OPENAI_API_KEY) and go nowhere else:
neither into messages nor into files. A server that is down, slow or busy is asked again, each time
after a longer wait; one that refuses the key ends everything at once.
"""

import asyncio
import json
import os
import random
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dice.errors import BadInput, StageFailed
from dice.run.rows import Message

OPENAI = "https://api.openai.com/v1"
REFUSED = (400, 413, 422)  # of one question: too long, say; others may be answered
BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # answers of a server that may do better later
NO_ADDRESS = "OPENAI_BASE_URL is no address; it must be like http://localhost:8000/v1"
REFUSALS = {401: "refuses the key", 403: "refuses the key", 404: "does not know this address or model"}
LONGEST_WAIT = 60.0  # seconds
LARGEST = 16 << 20  # bytes of a reply; a completion of 16,000 tokens has about 100,000


@dataclass(frozen=True)
class Server:
    """A served model and how patiently it is asked."""

    model: str
    url: str = field(repr=False)
    key: str | None = field(repr=False)
    concurrency: int = 8  # requests under way at once
    attempts: int = 5  # of each question, until there is an answer
    readings: int = 3  # of each question's answers, until one can be read
    timeout: float = 180.0  # seconds for an attempt, from the request to the answer's last byte
    wait: float = 1.0  # seconds before the second attempt; twice as long before each further one
    options: dict[str, Any] = field(default_factory=dict)  # of each request: temperature, max_tokens, ...


@dataclass(frozen=True)
class Answer:
    """What came of a question: a text and what was read from it, or why there is no text."""

    text: str
    value: Any  # None where nothing could be read
    failure: str | None = None  # "HTTP status 503", "no answer in 180 s", ...
    # The server wants no such question, which says nothing about others.
    refused: bool = field(default=False, compare=False)


def refusal(model: str, status: int) -> str:
    """What to say of a server that will never answer."""
    return (
        f"the judge {model!r} at OPENAI_BASE_URL {REFUSALS[status]} (HTTP status {status}); set "
        "OPENAI_BASE_URL and OPENAI_API_KEY to those of a server that has the model"
    )


class NoAnswer(Exception):
    """One attempt came to nothing; `wait` is how many seconds the server asks to be left alone."""

    def __init__(self, reason: str, again: bool = True, wait: float = 0.0, refused: bool = False) -> None:
        super().__init__(reason)
        self.again, self.wait, self.refused = again, wait, refused


def environment() -> tuple[str, str | None] | None:
    """Address and key of the environment; None where neither is set, so that nobody is asked by accident.

    Raises BadInput for an address or a key that can't be one.
    """
    url, key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if url and not _is_address(url):
        raise BadInput(NO_ADDRESS)
    if key and not (key.isascii() and key.isprintable()):
        raise BadInput("OPENAI_API_KEY is no key: it has other letters than ASCII's, or control characters")
    return ((url or OPENAI).rstrip("/"), key or None) if url or key else None


def _is_address(url: str) -> bool:
    """Whether it has a scheme, a host and, if at all, a port that there can be."""
    try:
        parts = urllib.parse.urlsplit(url)
        can_be = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        return bool(can_be) and not any(character.isspace() for character in url)
    except ValueError:  # a port above 65535, a bracket too many
        return False


def ask_all(
    server: Server,
    conversations: Sequence[Sequence[Message]],
    read: Callable[[str], Any],
    on_done: Callable[[int, Answer], None],
    is_heard: bool = False,
) -> bool:
    """Ask about every conversation, several at once; `on_done(index, answer)` as answers come.

    `read` finds the wanted value in a text. Where it is None the question is asked again; where it stays
    None the last text is handed over without a value. Returns whether the server is known to answer, which
    `is_heard` says of before: from then on a refused question is no sign of a fault. Raises BadInput where
    the server refuses the key or the model, StageFailed where it answers nothing at all.
    """
    return asyncio.run(_ask_all(server, conversations, read, on_done, is_heard))


async def _ask_all(
    server: Server,
    conversations: Sequence,
    read: Callable[[str], Any],
    on_done: Callable[[int, Answer], None],
    is_heard: bool,
) -> bool:
    import httpx

    left = iter(enumerate(conversations))
    silent = 0  # questions without an answer since the last one with one
    headers = {"Accept-Encoding": "identity"}  # compressed, a reply may be much longer than it looks
    headers |= {"Authorization": f"Bearer {server.key}"} if server.key else {}
    limits = httpx.Limits(max_connections=server.concurrency)

    async def work(client: httpx.AsyncClient) -> None:
        nonlocal silent, is_heard
        for index, messages in left:
            answer = await _ask(client, server, messages, read)
            if not answer.failure:
                silent, is_heard = 0, True
            elif not (answer.refused and is_heard):
                silent += 1
            on_done(index, answer)
            if silent >= 2 * server.concurrency:
                raise StageFailed(
                    f"the judge answered none of the last {silent} questions ({answer.failure}); what it "
                    "answered before is kept: run the same command again once it is there"
                )

    async with httpx.AsyncClient(headers=headers, timeout=server.timeout, limits=limits) as client:
        tasks = [asyncio.create_task(work(client)) for _ in range(server.concurrency)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return is_heard


async def _ask(
    client: Any, server: Server, messages: Sequence[Message], read: Callable[[str], Any]
) -> Answer:
    """One question, asked until something can be read from the answer, or the attempts are used up."""
    answer, readings = Answer("", None), 0
    for attempt in range(server.attempts):
        try:
            text = await _attempt(client, server, messages)
        except NoAnswer as error:
            answer = Answer("", None, str(error), refused=error.refused)
            if not error.again:
                break
            if attempt + 1 < server.attempts:
                pause = max(error.wait, server.wait * 2**attempt * random.uniform(0.75, 1.25))
                await asyncio.sleep(min(pause, LONGEST_WAIT))
            continue
        answer, readings = Answer(text, read(text)), readings + 1
        if answer.value is not None or readings == server.readings:
            break
    return answer


async def _attempt(client: Any, server: Server, messages: Sequence[Message]) -> str:
    """The text of one completion. Raises NoAnswer, or BadInput where asking again is of no use."""
    import httpx

    request = {"model": server.model, "messages": list(messages), **server.options}
    try:
        async with asyncio.timeout(server.timeout):  # httpx's is for each read: a byte now and then would do
            async with client.stream("POST", f"{server.url}/chat/completions", json=request) as response:
                body = await _body(response) if response.status_code == 200 else b""
    except (TimeoutError, httpx.TimeoutException):
        raise NoAnswer(f"no answer in {server.timeout:g} s") from None
    except httpx.InvalidURL:
        raise BadInput(NO_ADDRESS) from None
    except httpx.HTTPError as error:  # its text may hold the address
        raise NoAnswer(f"no connection ({type(error).__name__})") from None
    if response.status_code in REFUSALS:
        raise BadInput(refusal(server.model, response.status_code))
    if response.status_code != 200:
        busy, after = response.status_code in BUSY, response.headers.get("retry-after", "")
        wait = float(after) if after.isascii() and after.isdigit() else 0.0
        refused = response.status_code in REFUSED
        raise NoAnswer(f"HTTP status {response.status_code}", busy, wait, refused)
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):  # the last of very many brackets
        raise NoAnswer("an answer that is no chat completion") from None
    # Half a character, \ud800, is JSON but can't be written down.
    return text.encode(errors="replace").decode() if isinstance(text, str) else ""


async def _body(response: Any) -> bytes:
    """The whole of a reply. Raises NoAnswer for one that is compressed unasked, or longer than any answer."""
    if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
        raise NoAnswer(f"an answer that is compressed ({encoding:.20}), though none was asked for")
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > LARGEST:
            raise NoAnswer(f"an answer of more than {LARGEST:,} bytes")
    return bytes(body)
