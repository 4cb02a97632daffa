"""The studio's server: ``python -m studio.app [--port P] [--host H]``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from core.config import STUDIO_PORT
from core.errors import UniMedError
from studio.context import store, tickets
from studio.guard import Guard
from studio.server import routes

SCRIPT = Path(__file__).with_name("pages.py")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m studio.app", description="The studio in which clinicians rate.")
    parser.add_argument("--port", type=int, default=STUDIO_PORT, help="port of the studio (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    options = parser.parse_args()
    try:
        opened = store()
    except UniMedError as error:
        print(f"Error: {error}")
        return 2
    os.environ.setdefault("STREAMLIT_SERVER_HEADLESS", "true")
    print(f"The studio runs at http://{options.host}:{options.port} (Ctrl+C ends it)", flush=True)
    guard = Middleware(Guard, store=opened)
    st.App(SCRIPT, routes=routes(opened, tickets()), middleware=[guard]).run(config={
        "server.port": options.port,
        "server.address": options.host,
        "server.fileWatcherType": "none",  # a page that is loaded anew would have a store of its own
        "server.maxWidgetStateSize": 1,
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": False,
        "theme.light.primaryColor": "#0f766e",
        "theme.dark.primaryColor": "#2dd4bf",
    })  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
