"""A model's own chat template, rendered within limits: it is a program that came with the model.

transformers keeps such a program from files and functions, but not from going on for ever or filling the
memory.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from dice.errors import first_line
from dice.run.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 2.0  # of a CPU; templates take milliseconds
PATIENCE = 60.0  # seconds, on a machine that is busy
MEMORY = 1 << 30  # bytes, above what this process has
LONGEST = 1 << 20  # characters of what is rendered: conversations that are compared are short
RENDERED, FAILED = b"+", b"-"


class Unrendered(Exception):
    """Why a template rendered nothing, in a few words."""


def rendered(
    tokenizer: "PreTrainedTokenizerBase", messages: list[Message], asking: bool = False, thinks: bool = True
) -> str:
    """What a tokenizer's own chat template makes of a short conversation; `asking` for the next turn.

    `thinks` matters to a template that can do both (`enable_thinking`).

    A process of its own does it, whose time and memory are limited. Raises Unrendered where nothing comes
    of it: templates may refuse a conversation, and they may be broken in any way that a program can be.
    """
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=_render, args=(writer, tokenizer, messages, asking, thinks), daemon=True
    )
    child.start()
    writer.close()
    try:
        said = reader.recv_bytes() if reader.poll(PATIENCE) else b""
    except EOFError:
        said = b""
        child.join(PATIENCE)
    finally:
        child.kill()
        child.join()
        reader.close()
    kind, text = said[:1], said[1:].decode()
    if kind == RENDERED:
        return text
    too_long = f"it takes more than {SECONDS:g} s"
    ended = too_long if child.exitcode in (-signal.SIGPROF, -signal.SIGKILL) else "it crashes"
    raise Unrendered(text or ended)


def _render(
    writer: Connection,
    tokenizer: "PreTrainedTokenizerBase",
    messages: list[Message],
    asking: bool,
    thinks: bool,
) -> None:
    """The process of its own: tells what was rendered, or why nothing was."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends it, whatever it is at
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _limit_memory()
    try:
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=asking, tokenize=False, enable_thinking=thinks
        )
        if len(text) > LONGEST:
            raise TemplateError(f"it makes {len(text):,} characters of a short conversation")
        said = RENDERED + text.encode(errors="replace")
    except Exception as error:  # of any kind: what a program may raise
        reason, kind = first_line(error)[:200], type(error).__name__
        told = reason if isinstance(error, TemplateError) or reason == kind else f"{kind}: {reason}"
        said = FAILED + told.encode(errors="replace")
    writer.send_bytes(said)


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):  # no /proc, as on a Mac; a lower limit that is there
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
