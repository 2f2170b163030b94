"""``python -m hwnas_profilers``: speaks frames over standard input and output; started by hwnas, not by people."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from typing import BinaryIO, Optional, Sequence, Tuple

# numpy's own thread pools would only disturb what is timed; runtimes get their threads from the target
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ORPHAN_GRACE_S = 5.0


def claim_streams() -> Tuple[BinaryIO, BinaryIO]:
    """Keep standard input and output for frames, and point descriptor 1 at standard error.

    What runtimes, and the processes they start, print afterwards cannot break a frame, nor can they read one.
    """
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def end_with_client(source: BinaryIO) -> None:
    """End this process some seconds after the client has gone, also while a model hangs in native code."""
    try:
        import select

        poll = select.poll()
    except (ImportError, AttributeError):
        return
    poll.register(source.fileno(), 0)  # wakes for a hang-up only

    def watch() -> None:
        poll.poll()
        time.sleep(ORPHAN_GRACE_S)
        os._exit(3)

    threading.Thread(target=watch, name="hwnas-orphan-watch", daemon=True).start()


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Serve one client until its end of the stream closes."""
    parser = argparse.ArgumentParser(prog="hwnas_profilers", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="RUNTIME", help="offer this runtime alone")
    parser.add_argument(
        "--packages", action="append", default=[], metavar="FOLDER", help="import from here what is not installed"
    )
    options = parser.parse_args(arguments)
    if sys.stdin is not None and sys.stdin.isatty():
        parser.error("this program is started by hwnas and speaks frames; try: hwnas devices")
    sys.path += options.packages
    source, sink = claim_streams()
    end_with_client(source)
    from hwnas_profilers.protocol import ProtocolError
    from hwnas_profilers.worker import Worker

    try:
        Worker(source, sink, only=options.only).serve()
    except BrokenPipeError:
        return 3
    except ProtocolError as error:
        sys.stderr.write(f"hwnas_profilers: {error}\n")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
