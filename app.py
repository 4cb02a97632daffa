"""Starts the demo; the entry point of a Hugging Face Space.

python app.py [--port P] [--host H] [--model M ...] [--auth USER:PASSWORD] [--studio]
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from core.config import (
    STUDIO_PORT,
    data_folder,
    database_url,
    default_model,
    is_lasting,
    mirror_settings,
    pictures_place,
    versions_folder,
)
from core.errors import SettingsError, UniMedError
from demo.uploads import own_folder

if TYPE_CHECKING:
    from core.feedback.mirror import Mirror
    from core.feedback.store import FeedbackStore
    from core.inference.service import Limits
    from core.inference.versions import Version

LARGEST_UPLOAD = "512mb"
UPLOAD_SECONDS = 1800
"""After this time an upload is deleted even if nobody has read it; a request may wait that long for the model."""
COPY_SECONDS = 60
"""So long a file that came inside of an MCP call may lie there beside its upload."""
STOP_SECONDS = 8.0
"""So long running requests may take to end when the program is told to; containers are killed after ten."""
FETCH_SECONDS = 1.0
"""So long the last answers may then take to their clients, who fetch files after them."""
MOST_THREADS = 512
"""Every visitor who waits for the model holds one, which sleeps."""
SMALL_WIDTH = 1024
"""Up to this hidden size, a model on a CPU is driven by several threads with one core each, not by one with all."""
MOST_MODEL_THREADS = 4
"""More would wait for Python's lock."""


def default_host() -> str:
    """This machine only, unless the environment asks for more; a Space must listen to everyone."""
    return "0.0.0.0" if os.environ.get("SPACE_ID") else os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="UniMed Studio: one model that reads and draws medical images.")
    parser.add_argument("--port", type=int, default=7860, help="port of the demo (7860)")
    parser.add_argument("--host", default=default_host(), help="address to listen on (%(default)s)")
    parser.add_argument(
        "--model", action="append", help="checkpoint folder or hub id (UNIMED_MODEL, or nano); again for a second one"
    )
    parser.add_argument("--auth", default=os.environ.get("UNIMED_AUTH"), help="USER:PASSWORD to ask for (UNIMED_AUTH)")
    parser.add_argument("--no-feedback", action="store_true", help="keep no feedback, not even with consent")
    parser.add_argument("--studio", action="store_true", help="start the studio beside it")
    parser.add_argument("--studio-port", type=int, default=STUDIO_PORT, help="port of the studio (%(default)s)")
    return parser.parse_args()


def serve(options: argparse.Namespace, folder: Path) -> None:
    """Loads the models and serves the demo until the process is told to end. Uploads pass through ``folder``."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads both when it is imported
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks its own server whether it is up, and no proxy can tell
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost", options.host]))
    from core.feedback.store import FeedbackStore
    from core.feedback.versions import Versions
    from core.inference.service import Service
    from core.inference.versions import Offer
    from demo.app import STYLES, build, head, theme
    from demo.strings import I18N
    from demo.uploads import delete_copies, delete_old_uploads

    quote_nothing()
    store = mirror = learned = None
    if not options.no_feedback:
        data = data_folder()
        store = FeedbackStore(database_url(data), pictures_place(data))
        mirror = open_mirror(store, data)
        learned = Versions(store.database), versions_folder(data)
    offer = Offer(options.model or [default_model()], *(learned or ()))
    service = Service(limits(list(offer.named.values())))
    demo = build(offer, service, folder, store, mirror and mirror.trigger)
    _, url, _ = demo.launch(
        server_name=options.host,
        server_port=options.port,
        max_file_size=LARGEST_UPLOAD,
        max_threads=MOST_THREADS,
        theme=theme(),
        css_paths=STYLES,
        head=head(),
        i18n=I18N,
        auth=credentials(options.auth),
        mcp_server=not options.auth,  # gradio's tools cannot be called where a password is asked for
        footer_links=["api", "settings"],
        prevent_thread_lock=True,
        share=False,
        run_history=False,
        ssr_mode=False,
        quiet=True,
    )
    print(f"UniMed Studio runs at {url} (Ctrl+C ends it)", flush=True)
    try:
        minutes = 0
        while True:
            time.sleep(60)
            chore(delete_old_uploads, demo.upload_file_set, UPLOAD_SECONDS)
            chore(delete_copies, folder, demo.upload_file_set, COPY_SECONDS)
            chore(demo.handlers.visits.sweep)
            minutes += 1
            if store is not None and minutes % 60 == 0:
                chore(store.purge_expired)
                chore(store.sweep)
    finally:
        busy = any(service.load())
        service.close(STOP_SECONDS)
        if busy:
            time.sleep(FETCH_SECONDS)
        demo.close(verbose=False)
        if mirror is not None:
            mirror.stop()
        if store is not None:
            store.close()


def limits(versions: list[Version]) -> Limits:
    """How many requests these models take at a time, here."""
    import torch

    from core.inference.service import Limits
    from core.inference.zerogpu import is_here

    if is_here():
        return Limits(running=1)
    models = [version.generator.model for version in versions]
    if any(model.device.type != "cpu" or model.config.llm.hidden_size > SMALL_WIDTH for model in models):
        return Limits()
    threads = min(torch.get_num_threads(), MOST_MODEL_THREADS)
    torch.set_num_threads(1)  # matrices of a small model are computed sooner than a second core is asked for help
    return Limits(threads=threads)


def chore(do: Callable, *values: object) -> None:
    """Does something that the server can do without; a failure is told, and tried again the next time."""
    try:
        do(*values)
    except (UniMedError, OSError) as error:
        print(f"Not done: {do.__name__} ({type(error).__name__})", file=sys.stderr, flush=True)


def quote_nothing() -> None:
    """Keeps what clients have sent out of the log: tracebacks of Gradio and of its server end with names of files and
    with prompts. What remains is the kind of an error, and where it arose."""
    from gradio import queueing, route_utils, routes

    def brief(error: BaseException) -> str:
        frames = reversed(traceback.extract_tb(error.__traceback__)[-5:])
        return " < ".join([type(error).__name__, *(f"{Path(f.filename).name}:{f.lineno}" for f in frames)])

    def tell() -> None:
        print(f"A request failed: {brief(sys.exception())}", file=sys.stderr, flush=True)

    def record(*values: object, **named: object) -> logging.LogRecord:
        made = logging.LogRecord(*values, **named)
        if made.exc_info and made.exc_info[1] is not None:
            made.msg, made.args, made.exc_info = f"{made.getMessage().strip()}: {brief(made.exc_info[1])}", (), None
        return made

    for module in (queueing, route_utils, routes):
        module.traceback = SimpleNamespace(print_exc=tell)
    logging.setLogRecordFactory(record)


def open_mirror(store: FeedbackStore, folder: Path) -> Mirror | None:
    """The copy of the feedback on the hub, where one is set; a hub that refuses or is away does not stop the demo."""
    if (settings := mirror_settings()) is None:
        return None
    from core.feedback.mirror import Mirror

    if not is_lasting(folder):
        print("The feedback is not mirrored: without lasting storage nobody could withdraw it later", file=sys.stderr)
        return None
    try:
        return Mirror(store, folder / "mirror", repo_id=settings[0], token=settings[1])
    except UniMedError as error:
        print(f"Warning: {error}", file=sys.stderr, flush=True)
        return None


@contextmanager
def studio(options: argparse.Namespace) -> Iterator[None]:
    """The studio in a process of its own, on the same feedback and model, as long as this block lasts."""
    check_port(options.host, options.studio_port, "--studio-port")
    command = [sys.executable, "-m", "studio.app", "--port", str(options.studio_port), "--host", options.host]
    model = (options.model or [default_model()])[0]
    folder = Path(model).expanduser()
    own = {  # from here, because it works in another folder
        "UNIMED_MODEL": str(folder.resolve()) if folder.is_dir() else model,
        "UNIMED_DATA": str(data_folder().resolve()),
    }
    process = subprocess.Popen(command, cwd=Path(__file__).parent, env=os.environ | own)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def credentials(auth: str | None) -> tuple[str, str] | None:
    """User and password as gradio wants them.

    Raises:
        SettingsError: there is no colon between them, or one is empty. The password is not quoted.
    """
    if not auth:
        return None
    user, _, password = auth.partition(":")
    if not user or not password:
        raise SettingsError("--auth needs a user and a password", remedy="Give them as USER:PASSWORD")
    return user, password


def check_port(host: str, port: int, flag: str = "--port") -> None:
    """Refuses an address that cannot be had, before anything is loaded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"Cannot listen on {host} ({error})", value=port, remedy=f"Choose another port with {flag}"
            ) from error


def end(*_: object) -> None:
    """Ends the program in order, also when it is told twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, end)
    try:
        check_port(options.host, options.port)
        with own_folder() as folder, studio(options) if options.studio else nullcontext():
            serve(options, folder)
    except UniMedError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
