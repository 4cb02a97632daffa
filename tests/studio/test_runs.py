"""Which runs live, and what is handed to them, without a browser."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from core.errors import AccessError, FeedbackError, UniMedError
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
    for _ in range(1200):
        if (run := here.get(name)).state != "running":
            return run
        time.sleep(0.05)
    raise AssertionError("It does not end")


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
    command(monkeypatch, "raise RuntimeError('what rita has said')")
    here.go_on(MONA, ORDER.name)
    run = ended(here)
    assert run.state == "failed" and run.message and "rita" not in run.message
    command(monkeypatch, "print('error: The recipe has an unknown key.'); print('and more')")
    here.go_on(MONA, ORDER.name)
    assert ended(here).message == "The recipe has an unknown key."
    command(monkeypatch, "pass")
    here.go_on(MONA, ORDER.name)
    assert ended(here).state == CUT_OFF, "what an earlier one has said is not its complaint"
    command(monkeypatch, "import time; time.sleep(60)")
    here.go_on(MONA, ORDER.name)
    assert here.get(ORDER.name).state == "running"
    with pytest.raises(FeedbackError, match="One run at a time"):
        here.start(MONA, Order("other", "ab" * 32, None, "default.json", 40), set())
    with pytest.raises(FeedbackError, match="thrown away"):
        here.remove(MONA, ORDER.name)
    here.stop(MONA, ORDER.name)
    assert ended(here).state == CUT_OFF, "it had no time to say that it stops"


def test_a_process_that_only_has_the_number_of_a_run_is_left_alone(here: Runs, tmp_path: Path) -> None:
    (folder := tmp_path / "versions" / "old").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        born = psutil.Process(process.pid).create_time()
        said = {"phase": "learning", "done": 1, "of": 2, "message": "", "pid": process.pid}
        said["at"] = datetime.now(UTC).isoformat()
        for more in ({}, {"born": born - 60}, {"born": born + 60}):
            (folder / "progress.json").write_text(json.dumps(said | more))
            assert here.get("old").state == CUT_OFF
            here.stop(MONA, "old")
            assert process.poll() is None
        with pytest.raises(FeedbackError, match="was not started here"):
            here.go_on(MONA, "old")
        (folder / "progress.json").write_text(json.dumps(said | {"born": born}))
        assert here.get("old").state == "running"
        here.stop(MONA, "old")
        assert process.wait(60) == -signal.SIGTERM
    assert here.get("old").state == CUT_OFF


def test_what_a_crash_at_the_start_has_left_can_be_thrown_away(here: Runs, tmp_path: Path) -> None:
    versions = tmp_path / "versions"
    for name in ("empty", ".empty.gone", ".other.gone"):
        (versions / name).mkdir(parents=True)
        (versions / name / "x").touch()
    assert [run.name for run in here.all()] == ["empty"]
    here.remove(MONA, "empty")
    assert here.all() == [] and not (versions / "empty").exists() and not (versions / ".empty.gone").exists()
    with pytest.raises(FeedbackError, match="cannot be written"):
        here.remove(MONA, "empty")


def test_what_a_run_has_said_is_gone_once_it_is_done(here: Runs, tmp_path: Path) -> None:
    (folder := tmp_path / "versions" / "new").mkdir(parents=True)
    (folder / "progress.json").write_text('{"phase": "done"}')
    (folder / "log.txt").write_text("many words")
    assert here.all() == [] and not (folder / "log.txt").exists()


def test_records_are_handed_on(here: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMED_RECORDS", str(tmp_path / "test.jsonl"))
    command(monkeypatch, WRITES)
    here.start(MONA, ORDER, set())
    ended(here)
    assert json.loads((tmp_path / "told").read_text())[-2:] == ["--records", str(tmp_path / "test.jsonl")]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a b", "a" * 81, "ä", "a\n"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(here: Runs, tmp_path: Path, name: str) -> None:
    with pytest.raises(UniMedError, match="cannot have that name"):
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
