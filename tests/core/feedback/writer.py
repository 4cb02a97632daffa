"""Processes that write to a feedback store: python -m tests.core.feedback.writer URL FOLDER COUNT SHARED NAME...

There is one for every NAME. It opens the store, says so, waits for a withdrawal code, and stores COUNT runs of its own
and SHARED runs that every process stores. It prints a line for each of its own when that is acknowledged.
"""

import os
import sys
from pathlib import Path

from core.feedback.store import FeedbackStore
from core.sequence import Text
from tests.core.feedback.builders import add, picture

CODE_BYTES = 20  # with the end of the line


def write(url: str, folder: Path, count: int, shared: int, name: str) -> None:
    with FeedbackStore(url, folder) as store:
        os.write(1, b"open\n")
        code = os.read(0, CODE_BYTES).decode().strip()
        for n in range(max(count, shared)):
            if n < shared:
                add(store, code, f"shared {n}")
            if n < count:
                ref = add(store, code, f"{name} {n}", outputs=[Text(f"{name} {n}"), picture(100 + n, generated=True)])
                rating = store.rate(code, ref.response_ids[0], 1 if n % 2 else -1, f"{name} {n}")
                os.write(1, f"{ref.id} {rating}\n".encode())


if __name__ == "__main__":
    url, folder, count, shared, *names = sys.argv[1:]
    name, children = names[0], []
    for other in names[1:]:  # forked before anything is open
        child = os.fork()
        if not child:
            name, children = other, []
            break
        children.append(child)
    try:
        write(url, Path(folder), int(count), int(shared), name)
    except BaseException:
        os.write(1, b"failed\n")
        raise
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
