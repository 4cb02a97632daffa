"""Starts the demo; the entry point of a Hugging Face Space.

python app.py [--port P] [--host H] [--model M] [--studio]
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from core.config import default_model
from core.errors import SettingsError, UniMedError

LARGEST_UPLOAD = "512mb"
UPLOAD_SECONDS = 1800
"""After this time an upload is deleted even if nobody has read it; a request may wait that long for the model."""


def default_host() -> str:
    """This machine only, unless the environment asks for more; a Space must listen to everyone."""
    return "0.0.0.0" if os.environ.get("SPACE_ID") else os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="UniMed Studio: one model that reads and draws medical images.")
    parser.add_argument("--port", type=int, default=7860, help="port of the demo (7860)")
    parser.add_argument("--host", default=default_host(), help="address to listen on (%(default)s)")
    parser.add_argument("--model", default=default_model(), help="checkpoint folder or hub id (UNIMED_MODEL, or nano)")
    parser.add_argument("--studio", action="store_true", help="start the annotation studio beside it")
    return parser.parse_args()


def serve(options: argparse.Namespace, folder: Path) -> None:
    """Loads the model and serves the demo until the process is told to end. Uploads pass through ``folder``."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads both when it is imported
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks its own server whether it is up, and no proxy can tell
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost", options.host]))
    from core.inference.generator import Generator
    from core.model.checkpoint import load

    generator = Generator(load(options.model))
    from demo.app import STYLE, build, theme
    from demo.handlers import delete_old_uploads

    demo = build(generator, folder)
    _, url, _ = demo.launch(
        server_name=options.host,
        server_port=options.port,
        max_file_size=LARGEST_UPLOAD,
        theme=theme(),
        css_paths=STYLE,
        footer_links=["api", "settings"],
        prevent_thread_lock=True,
        share=False,
        run_history=False,
        ssr_mode=False,
        quiet=True,
    )
    print(f"UniMed Studio runs at {url} (Ctrl+C ends it)", flush=True)
    try:
        while True:
            time.sleep(60)
            delete_old_uploads(demo.upload_file_set, UPLOAD_SECONDS)
    finally:
        demo.close(verbose=False)


def check_port(host: str, port: int) -> None:
    """Refuses an address that cannot be had, before anything is loaded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"Cannot listen on {host} ({error})", value=port, remedy="Choose another port with --port"
            ) from error


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if options.studio:
        print("The studio is not part of this version yet; starting the demo alone.", file=sys.stderr, flush=True)
    try:
        check_port(options.host, options.port)
        with tempfile.TemporaryDirectory(prefix="unimed-demo-", ignore_cleanup_errors=True) as folder:
            serve(options, Path(folder))
    except UniMedError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
