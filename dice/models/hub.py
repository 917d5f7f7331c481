"""What is known of a model that is no folder here: the Hub's local cache, then the Hub itself.

Nothing is downloaded and nothing is waited for long: a Hub that doesn't answer within seconds counts as
out of reach for the rest of the process.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dice.errors import first_line

Answer = TypeVar("Answer")
WEIGHTS = (".safetensors", ".bin")
TIMEOUT = 5.0  # seconds, name resolution included, which no library can limit


class OutOfReach(Exception):
    """The Hub can't be asked from here; the message says why."""


class NoSuchModel(Exception):
    """The Hub has no such model, or none that this user may have; the message says which."""


@dataclass(frozen=True)
class Remote:
    """A model of the Hub."""

    parameters: int | None  # where its weights are safetensors
    size: int | None  # bytes of its weights in one format
    is_pickled: bool = False  # its weights are pickles (*.bin), and nothing else


def cached(name: str) -> Path | None:
    """The folder of a Hub model in the local cache, complete or not; None where there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("config.json", "adapter_config.json"):
        try:
            path = try_to_load_from_cache(name, file)
        except HFValidationError:  # a name that the Hub can't have
            return None
        if isinstance(path, str):
            return Path(path).parent
    return None


_out_of_reach: list[str] = []  # why, once it is known


def out_of_reach() -> bool:
    """Whether it has been found out that the Hub can't be asked."""
    return bool(_out_of_reach)


def settle() -> None:
    """Find out whether the Hub can be asked; where not, no library of this process will wait for it."""
    try:
        _in_time(_knock)
    except OutOfReach:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are yet to be imported


@contextlib.contextmanager
def only_cached() -> Iterator[None]:
    """Meanwhile nothing is downloaded: what is not in the Hub's cache can't be loaded."""
    import datasets
    from huggingface_hub import constants

    kept = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = kept


@functools.cache
def look_up(name: str) -> Remote:
    """What the Hub says of a model. Raises OutOfReach or NoSuchModel."""
    return _in_time(functools.partial(_ask, name))


def _in_time(question: Callable[[], Answer]) -> Answer:
    """The answer to a question to the Hub. Raises NoSuchModel, or OutOfReach where there is no answer."""
    if _out_of_reach:
        raise OutOfReach(_out_of_reach[0])
    answer: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(TIMEOUT + 1)
    except NoSuchModel:
        raise
    except TimeoutError:
        _out_of_reach.append(f"no answer within {TIMEOUT:.0f} seconds")
    except Exception as error:  # of any kind: the network, a proxy, an answer that nobody can read
        _out_of_reach.append(first_line(error))
    raise OutOfReach(_out_of_reach[0])


def _knock() -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise OutOfReach("HF_HUB_OFFLINE is set")
    get_session().head(constants.ENDPOINT, timeout=TIMEOUT)


def _ask(name: str) -> Remote:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        info = HfApi().model_info(name, timeout=TIMEOUT, files_metadata=True)
    except OfflineModeIsEnabled:
        raise OutOfReach("HF_HUB_OFFLINE is set") from None
    except GatedRepoError:
        raise NoSuchModel("it is gated: accept its conditions on the Hub, then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise NoSuchModel("the Hub has no such model, or it is private: `hf auth login`") from None
    except HFValidationError as error:
        raise NoSuchModel(first_line(error)) from None
    sizes = dict.fromkeys(WEIGHTS, 0)
    for file in info.siblings or ():
        if "/" not in file.rfilename and file.rfilename.endswith(WEIGHTS):
            sizes[Path(file.rfilename).suffix] += file.size or 0
    parameters = info.safetensors.total if info.safetensors else None
    pickled = bool(sizes[".bin"] and not sizes[".safetensors"] and not parameters)
    return Remote(parameters, sizes[".safetensors"] or sizes[".bin"] or None, pickled)
