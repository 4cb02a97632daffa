"""Which runs live, and what is handed to them, without a browser."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.errors import AccessError, FeedbackError
from core.feedback.people import Person
from studio import runs
from studio.runs import CUT_OFF, Order, Run, Runs

MONA, RITA = Person("1", "mona", "maintainer"), Person("2", "rita", "rater")
ORDER = Order("sharper", "ab" * 32, None, "default.json", 40)
WRITES = "import json, os, sys, time; open(os.environ['UNIMED_DATA'] + '/told', 'w').write(json.dumps(sys.argv)); "


@pytest.fixture
def here(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "versions")


def command(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(runs, "COMMAND", (sys.executable, "-c", code))


def ended(here: Runs, name: str = ORDER.name) -> Run:
    while (run := here.get(name)).state == "running":
        time.sleep(0.05)
    return run


def test_the_command_is_told_all_that_was_chosen(here: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, WRITES)
    here.start(MONA, ORDER, set())
    ended(here)
    told = json.loads((tmp_path / "told").read_text())
    assert told[1] == ORDER.snapshot
    given = dict(zip(told[2::2], told[3::2], strict=True))
    assert given["--recipe"].endswith("learn/default.json") and Path(given["--base"]).is_dir()
    assert (given["--by"], given["--name"], given["--compare"]) == ("mona", "sharper", "40")
    assert "mona" not in (tmp_path / "versions" / "sharper" / "run.json").read_text(), "a withdrawal could not reach it"


def test_a_run_that_says_nothing_was_cut_off_and_one_that_complains_failed(
    here: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(monkeypatch, "pass")
    here.start(MONA, ORDER, set())
    assert ended(here).state == CUT_OFF
    command(monkeypatch, "raise RuntimeError('CUDA out of memory')")
    here.go_on(MONA, ORDER.name)
    run = ended(here)
    assert run.state == "failed" and "CUDA out of memory" in run.message
    command(monkeypatch, "import time; time.sleep(60)")
    here.go_on(MONA, ORDER.name)
    assert here.get(ORDER.name).state == "running"
    with pytest.raises(FeedbackError, match="One run at a time"):
        here.start(MONA, Order("other", "ab" * 32, None, "default.json", 40), set())
    with pytest.raises(FeedbackError, match="thrown away"):
        here.remove(MONA, ORDER.name)
    here.stop(MONA, ORDER.name)
    assert ended(here).state == CUT_OFF, "it had no time to say that it stops"


def test_a_process_that_got_the_number_later_is_another_one(here: Runs, tmp_path: Path) -> None:
    folder = tmp_path / "versions" / "old"
    folder.mkdir(parents=True)
    for at, state in ((datetime.now(UTC), "running"), (datetime.now(UTC) - timedelta(days=9), CUT_OFF)):
        said = {"phase": "learning", "done": 1, "of": 2, "message": "", "pid": os.getpid(), "at": at.isoformat()}
        (folder / "progress.json").write_text(json.dumps(said))
        assert here.get("old").state == state
    with pytest.raises(FeedbackError, match="was not started here"):
        here.go_on(MONA, "old")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a b", "a" * 81, "ä", "a\n"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(here: Runs, tmp_path: Path, name: str) -> None:
    with pytest.raises(FeedbackError, match="cannot have that name"):
        here.start(MONA, Order(name, "ab" * 32, None, "default.json", 40), set())
    assert not (tmp_path / "versions").exists()


def test_raters_start_stop_and_remove_nothing(here: Runs) -> None:
    for attempt in (lambda: here.start(RITA, ORDER, set()), lambda: here.go_on(RITA, "sharper"),
                    lambda: here.stop(RITA, "sharper"), lambda: here.remove(RITA, "sharper")):  # fmt: skip
        with pytest.raises(AccessError):
            attempt()


def test_half_a_line_and_a_step_that_was_done_twice_do_not_spoil_the_curve(here: Runs, tmp_path: Path) -> None:
    (folder := tmp_path / "versions" / "x").mkdir(parents=True)
    rows = [{"step": 1, "text_chosen": 0.1}, {"step": 2, "text_chosen": 0.2}, {"step": 2, "text_chosen": 0.3}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3, "te')
    assert here.rewards("x") == [rows[0], rows[2]]
