"""What the tests of both applications share: a free port, the sizes of screens, and axe, which checks accessibility."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Collection
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
NOT_OURS = ("UNIMED_DATABASE", "UNIMED_PICTURES", "UNIMED_AUTH", "UNIMED_MODEL", "UNIMED_DTYPE", "SPACE_ID")
NOT_OURS += ("GRADIO_SERVER_NAME",)
"""Settings of the machine that a test must not depend on."""
STILL = "document.getAnimations().every(a => a.playState !== 'running' || a.effect.getTiming().iterations > 99)"
"""Nothing fades in any more, which would have no contrast yet."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def chromium() -> dict | None:
    """How playwright starts the browser of the system; None where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    return {"executable_path": path, "args": quiet} if path else None


class Checker:
    """Looks at a page as it is, and remembers what keeps somebody from using it.

    Args:
        known: (rule, selector) of what is found and cannot be mended.
    """

    def __init__(self, page: Page, script: str, known: Collection[tuple[str, str]] = ()) -> None:
        self.page, self.known, self.found = page, known, {}
        page.evaluate(script)

    def look(self, where: str, within: str = "body") -> None:
        self.page.wait_for_function(STILL)
        result = self.page.evaluate("within => axe.run(within, {resultTypes: ['violations']})", within)
        for violation in result["violations"]:
            if violation["impact"] not in ("serious", "critical"):
                continue
            for node in violation["nodes"]:
                target = " ".join(map(str, node["target"]))
                if not any(violation["id"] == rule and selector in target for rule, selector in self.known):
                    said = f"{violation['id']} {target}: {node['html'][:120]} ({node['failureSummary'][:200]})"
                    self.found.setdefault(said, where)
