"""The floor under frames and series: bare servers that only hand out files, for a benchmark to be read against.

Nothing is looked up, checked or written down: a thread for each connection sends from the page cache (sendfile(2)).
What a server does beyond this is what it takes longer.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator

__all__ = ["answers", "main"]

FRAME_BYTES = 512 * 512 * 2
FILES = 500


def answers(connection: socket.socket, frames: Iterator[int], file: int, length: int) -> None:
    """Answer requests of one connection: a path that has ``/frames/`` with a frame, every other with all of them."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waiting = b""
    while piece := connection.recv(65_536):
        waiting += piece
        while b"\r\n\r\n" in waiting:
            head, waiting = waiting.split(b"\r\n\r\n", 1)
            is_frame = re.search(rb"/frames/", head) is not None
            start, size = (next(frames) * FRAME_BYTES, FRAME_BYTES) if is_frame else (0, length)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, socket.MSG_MORE)
            end = start + size
            while start < end:
                start += os.sendfile(connection.fileno(), file, start, end - start)


def main() -> None:
    """Serve on the port that is the first argument, until the process is ended."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64)
    frames = itertools.cycle(range(FILES))
    with tempfile.TemporaryFile() as file:
        for _ in range(FILES):
            file.write(os.urandom(FRAME_BYTES))
        file.flush()
        while True:
            connection, _ = listener.accept()
            arguments = (connection, frames, file.fileno(), FILES * FRAME_BYTES)
            threading.Thread(target=answers, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
