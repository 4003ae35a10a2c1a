"""A server on loopback that a test scripts down to the byte: what it answers, and when it hangs up."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

EMPTY = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
#: Against hanging; nothing is measured by it.
PATIENCE_S = 60.0


def whole(status: int = 200, body: bytes = b"", *headers: str) -> bytes:
    """A whole answer with an ETag."""
    lines = [f"HTTP/1.1 {status} Reason", 'ETag: "0123"', f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Asked:
    """One request: its head in full, how many bytes of its body were read, and on which connection it came."""

    head: bytes
    connection: int
    body_bytes: int = 0

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()


@dataclass
class RawServer:
    """Answers listings by itself, everything else with what `script` says: bytes, and whether to hang up then."""

    script: Callable[[Asked], tuple[bytes, bool]]
    tls: ssl.SSLContext | None = None
    #: Answer before the body of the request is read; it is read later if the connection goes on.
    early: bool = False
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    #: What ended each connection that is over: an error, or nothing out of the ordinary.
    over: dict[int, OSError | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.arrived = threading.Semaphore(0)
        self._one_is_over = threading.Condition()
        #: While it is not set, answers are held back.
        self.go_on = threading.Event()
        self.go_on.set()
        scheme, host = ("http", "127.0.0.1") if self.tls is None else ("https", "localhost")
        self.endpoint = f"{scheme}://{host}:{self._listener.getsockname()[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[RawServer]:
        thread = threading.Thread(target=self._accept)
        thread.start()
        try:
            yield self
        finally:
            self.go_on.set()
            self._listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            self._listener.close()

    def hang_up(self) -> None:
        """End every connection that is open."""
        for client in list(self._open):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def wait_over(self, connection: int) -> None:
        """Wait until a connection has ended."""
        with self._one_is_over:
            assert self._one_is_over.wait_for(lambda: connection in self.over, PATIENCE_S)

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(client, self.connections))
            thread.start()
            threads.append(thread)
        self.hang_up()
        for thread in threads:
            thread.join()

    def _serve(self, client: socket.socket, number: int) -> None:
        client.settimeout(PATIENCE_S)
        fault: OSError | None = None
        self._open.add(client)
        try:
            if self.tls is not None:
                plain, client = client, self.tls.wrap_socket(client, server_side=True)
                self._open.discard(plain)
                self._open.add(client)
            while self._answer_one(client, number):
                pass
        except OSError as error:
            fault = error
        finally:
            self._open.discard(client)
            client.close()
            with self._one_is_over:
                self.over[number] = fault
                self._one_is_over.notify_all()

    def _answer_one(self, client: socket.socket, number: int) -> bool:
        """Whether the connection goes on."""
        head, _, body = self._until_head(client).partition(b"\r\n\r\n")
        if not head:
            return False
        asked = Asked(head, number, len(body))
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        length = int(lengths[0].partition(b":")[2]) if lengths else 0
        if b"list-type=2" in head:
            client.sendall(whole(200, EMPTY))
            return True
        self.asked.append(asked)
        self.arrived.release()
        self.go_on.wait(PATIENCE_S)
        if not self.early:
            while asked.body_bytes < length:
                data = client.recv(1 << 16)
                if not data:
                    return False
                asked.body_bytes += len(data)
        answer, hangs_up = self.script(asked)
        client.sendall(answer)
        return not hangs_up

    @staticmethod
    def _until_head(client: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            more = client.recv(1 << 16)
            if not more:
                return b""
            data += more
        return data
