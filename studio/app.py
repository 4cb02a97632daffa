"""The studio's server: ``python -m studio.app [--port P] [--host H]``."""

from __future__ import annotations

import argparse
from pathlib import Path

import streamlit as st
import uvicorn
from starlette.middleware import Middleware
from streamlit.web import bootstrap

from core.config import STUDIO_PORT
from core.errors import UniMedError
from studio.context import store, tickets
from studio.guard import Guard
from studio.server import routes

SCRIPT = Path(__file__).with_name("pages.py")
PING_SECONDS = 30
"""How often Streamlit asks whether a browser is still there, where nobody has set it."""


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
    print(f"The studio runs at http://{options.host}:{options.port} (Ctrl+C ends it)", flush=True)
    serve(st.App(SCRIPT, routes=routes(opened, tickets()), middleware=[Middleware(Guard, store=opened)]), options)
    return 0


def serve(app: st.App, options: argparse.Namespace) -> None:
    """Answers until it is told to end. ``App.run`` would listen on a socket without TCP_NODELAY: there every answer on
    a kept connection waits some 40 ms for the other side's acknowledgement. None does on a socket that uvicorn opens.
    """
    bootstrap.load_config_options({
        "server.port": options.port,
        "server.address": options.host,
        "server.headless": True,
        "server.fileWatcherType": "none",  # a page that is loaded anew would have a store of its own
        "server.maxWidgetStateSize": 1,
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": False,
        "theme.light.primaryColor": "#0f766e",
        "theme.dark.primaryColor": "#2dd4bf",
    })  # fmt: skip
    ping = st.get_option("server.websocketPingInterval") or PING_SECONDS
    uvicorn.run(
        app, host=options.host, port=options.port, log_level="warning", ws_ping_interval=ping, ws_ping_timeout=ping,
        ws_per_message_deflate=st.get_option("server.enableWebsocketCompression"),
        ssl_certfile=st.get_option("server.sslCertFile"), ssl_keyfile=st.get_option("server.sslKeyFile"),
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
