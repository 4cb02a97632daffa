"""A program that answers in several threads until it is killed: python -m tests.core.inference.server DATA BASE

It prints a line for each answer: the name of the version in service, and what it said.
"""

import os
import sys
import traceback
from pathlib import Path
from threading import Thread

from core.config import database_url, pictures_place, versions_folder
from core.feedback.store import FeedbackStore
from core.feedback.versions import Versions
from core.inference import versions
from tests.core.inference.learned import answer


def run(data: Path, base: str) -> None:
    versions.ASK_SECONDS = 0
    with FeedbackStore(database_url(data), pictures_place(data)) as store:
        offer = versions.Offer([base], Versions(store.database), versions_folder(data))
        threads = [Thread(target=ask, args=[offer]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def ask(offer: versions.Offer) -> None:
    try:
        while True:
            version = offer.get().version
            os.write(1, f"{version.name}: {answer(version)!r}\n".encode())
    except Exception:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
