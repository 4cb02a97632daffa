"""A process that promotes and rolls back until it is killed: python -m tests.core.feedback.promoter URL FOLDER ID...

It prints a line for each step that is done, with the name of what is served after it.
"""

import os
import sys
from contextlib import suppress

from core.errors import FeedbackError
from core.feedback.studio import StudioStore


def run(url: str, folder: str, ids: list[str]) -> None:
    with StudioStore(url, folder) as store:
        by = store.people.of_subject("test|mona")
        while True:
            for step in [*ids, *(None for _ in ids)]:
                with suppress(FeedbackError):  # another one was faster
                    if step:
                        store.versions.promote(by, step, "Better.")
                    else:
                        store.versions.roll_back(by, "Worse.")
                    os.write(1, f"{store.versions.served()}\n".encode())


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3:])
