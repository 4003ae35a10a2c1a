"""The first questions to a server, asked before the event loop is loaded.

Loading what a mount needs takes longer than the network does.  So a mount asks at once whether the bucket can be
listed and whether it keeps versions, in threads, and loads meanwhile; the store finds the answers when it is entered.
Only successes count: whatever else comes of it, the store asks again, in its own way, and says what is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from b2fs.core import latelog
from b2fs.errors import B2fsError, StoreError
from b2fs.store.s3.answers import Response
from b2fs.store.s3.config import S3Config, check_credentials
from b2fs.store.s3.nearby import StaticKeys, find_nearby
from b2fs.store.s3.sigv4 import EMPTY_SHA256
from b2fs.store.s3.sockets import Connections, Exchange, signed_question
from b2fs.store.s3.wire import Call, Paths, listing_call


def list_one(config: S3Config) -> Call:
    """The cheapest call that needs credentials, bucket and listing right, and explains itself."""
    path = _paths(config).bucket(list_type=2, max_keys=1)
    return Call("ListObjectsV2", "GET", path, expected_bytes=512)


def list_place(config: S3Config, place: str) -> Call:
    """The same, and it tells what stands right below a prefix."""
    return listing_call(_paths(config), place, delimiter="/")


def ask_versioning(config: S3Config) -> Call:
    return Call("GetBucketVersioning", "GET", _paths(config).bucket(versioning=""))


def _paths(config: S3Config) -> Paths:
    return Paths(config.bucket, virtual=config.addressing == "virtual")


class Answer:
    """The answer to a question that a thread asks.

    What concurrent.futures has for this loads logging, and a mount comes up without.
    """

    def __init__(self) -> None:
        self._there = threading.Event()
        self._lock = threading.Lock()
        self._calls: list[Callable[[], object]] = []
        self._response: Response | None = None

    def result(self, timeout_s: float | None = None) -> Response | None:
        """The answer, None if it is no success; blocks.  Raises TimeoutError."""
        if not self._there.wait(timeout_s):
            raise TimeoutError("there is no answer yet")
        return self._response

    def when_there(self, call: Callable[[], object]) -> None:
        """Have call() called once there is an answer, in this thread or in that which brings it."""
        with self._lock:
            if not self._there.is_set():
                self._calls.append(call)
                return
        call()

    def tell(self, response: Response | None) -> None:
        """Bring the answer."""
        with self._lock:
            self._response = response
            self._there.set()
        for call in self._calls:
            call()


class Greeting:
    """Questions under way, and the connections that they were asked on."""

    def __init__(self, config: S3Config, keys: StaticKeys, place: str | None = None) -> None:
        """place: a prefix that is listed.  Raises ConfigError, for what the store will refuse as well."""
        check_credentials(config, keys.access_key)
        self.connections = Connections(config)
        self._config = config
        self._keys = keys
        #: What `listed` is the first page of, with "/" between names.
        self.place = place
        self.listed = self._asked(list_one(config) if place is None else list_place(config, place))
        #: None where it is known.
        self.versioned = None if config.is_backblaze else self._asked(ask_versioning(config))

    def _asked(self, call: Call) -> Answer:
        question = signed_question(self._config, self._keys.get_frozen_credentials(), call, EMPTY_SHA256, None)
        exchange = Exchange(self.connections, question)
        answer = Answer()

        def run() -> None:
            response = None
            try:
                response = exchange.run()
            except StoreError as error:
                latelog.debug(__name__, "the first question came to nothing: %s", error)
            finally:
                answer.tell(response if response is not None and 200 <= response.status < 300 else None)

        threading.Thread(target=run, name="greeting", daemon=True).start()
        return answer


def greet(config: S3Config, place: str | None = None) -> Greeting | None:
    """Begin to ask, also for what stands below a place; None if that needs more than lies ready.

    Blocks for no longer than reading a file takes.
    """
    try:
        keys = find_nearby(config.profile)
        return None if keys is None else Greeting(config, keys, place)
    except B2fsError:
        return None
