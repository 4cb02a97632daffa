"""The demo without a browser: requests and what becomes of them, visits, uploads, feedback, words, results."""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
import re
import shutil
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from PIL import Image as PILImage

import app
from core.config import NANO
from core.errors import CheckpointError, FeedbackError, ImageError, PromptError, SettingsError
from core.feedback.store import FeedbackStore
from core.inference.generator import Generator
from core.inference.service import Service
from core.inference.versions import Loaded, Offer, Version
from core.lineage import Lineage
from core.sequence import Image
from core.tasks import MODALITIES, TASKS, get_task
from core.tasks.regions import Region
from demo import render, results, visits
from demo.examples import CAPTIONS, load_examples
from demo.feedback import CHOICES, Feedback
from demo.handlers import COMPARE, DRAW, WORKBENCH, Handlers, Side
from demo.pages.common import parsed, problem
from demo.pages.scan import region_of
from demo.strings import ENGLISH, LANGUAGES, TABLE, Words, words
from demo.uploads import delete_copies, delete_old_uploads
from demo.visit import Controls, Job
from tests.browser import ROOT, free_port
from tests.demo.steps import CT

HELLO = {"text": "Hello", "files": []}
SHORT = Controls(seed=1, max_new_tokens=4)
SHA256 = 64 * "a"  # as Gradio names the folder of an upload


@pytest.fixture
def handlers(tiny_checkpoint: Path, second_checkpoint: Path, tmp_path: Path) -> Iterator[Handlers]:
    service = Service()
    yield Handlers(Offer([str(tiny_checkpoint), str(second_checkpoint)]), service, tmp_path / "folder")
    service.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """Where uploads arrive."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def upload(handlers: Handlers, name: str = "DOE^JOHN.dcm") -> str:
    folder = handlers.visits.folder / SHA256
    folder.mkdir(exist_ok=True)
    return str(shutil.copy(CT, folder / name))


def ended(handlers: Handlers, page: str, tab: str = "tab") -> Job:
    """The job of a page, after all is done."""
    return list(handlers.follow(tab, page))[-1]


def in_a_scan(handlers: Handlers, tab: str = "tab") -> None:
    handlers.visits.open_scan(handlers.visits.of(tab), handlers.examples[0].stack())


@pytest.fixture
def busy(handlers: Handlers) -> Callable[[], None]:
    """Takes every place of the model. Calling it frees them."""
    slow = Controls(seed=1, num_timesteps=100, width=256, height=256)
    handlers.draw("somebody", "A CT.", handlers.service.limits.running, slow)
    return lambda: handlers.stop("somebody", DRAW)


# Requests -------------------------------------------------------------------------------------------------------------


def test_a_message_is_answered(handlers: Handlers) -> None:
    handlers.chat("tab", HELLO, "both", Controls(seed=1, max_new_tokens=4))
    job = ended(handlers, WORKBENCH)
    visit = handlers.visits.of("tab")
    assert job.error is None and [m["role"] for m in visit.messages] == ["user", "assistant"]
    assert len(visit.images) == 1 and visit.images[0][1].generated
    assert "AI-generated text" in str(visit.messages[1]) and "AI-generated image" in str(visit.messages[1])


def test_a_page_comes_back_to_life_after_any_failure(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render.Reply, "_save", lambda *_: [][1])
    box = {"text": "Jane Doe", "files": []}
    handlers.chat("tab", box, "image", Controls())
    job = ended(handlers, WORKBENCH)
    assert "IndexError" in problem(job.error) and job.came_to_nothing and job.box == box
    assert "Doe" not in capsys.readouterr().err
    visit = handlers.visits.of("tab")
    assert visit.session.history == [] and visit.messages == []
    monkeypatch.undo()
    handlers.chat("tab", HELLO, "text", SHORT)
    assert ended(handlers, WORKBENCH).error is None


def test_a_refused_message_leaves_the_conversation_as_it_was(handlers: Handlers) -> None:
    visit = handlers.visits.of("tab")
    with pytest.raises(SettingsError, match="pixels"):
        handlers.chat("tab", {"text": "A CT.", "files": []}, "image", Controls(width=8192, height=8192))
    assert visit.messages == [] and visit.images == [] and visit.session.history == []
    (shown,) = handlers.visits.attach(visit, [upload(handlers)]).paths
    handlers.chat("tab", {"text": "Segment it.", "files": [shown]}, "image", Controls(seed=1))
    ended(handlers, WORKBENCH)
    assert len(visit.messages) == 2 and len(visit.images) == 2


def test_a_page_has_one_request_at_a_time_and_pages_do_not_wait_for_each_other(handlers: Handlers) -> None:
    handlers.draw("tab", "A CT.", 1, Controls(seed=1, num_timesteps=100, width=256, height=256))
    with pytest.raises(PromptError, match="still under way"):
        handlers.draw("tab", "A CT.", 1, Controls())
    handlers.chat("tab", HELLO, "text", SHORT)
    assert ended(handlers, WORKBENCH).error is None
    handlers.stop("tab", DRAW)
    assert ended(handlers, DRAW).stopped
    handlers.draw("tab", "A CT.", 1, Controls(seed=1))
    assert not ended(handlers, DRAW).stopped


def test_a_request_that_waits_can_be_taken_back(handlers: Handlers, busy: Callable[[], None]) -> None:
    handlers.chat("tab", HELLO, "text", SHORT)
    handlers.stop("tab", WORKBENCH)
    job = ended(handlers, WORKBENCH)
    assert job.stopped and job.came_to_nothing and job.box == HELLO and job.messages == []
    busy()
    handlers.chat("tab", HELLO, "text", SHORT)
    assert not ended(handlers, WORKBENCH).stopped


def test_a_new_conversation_forgets_the_running_answer(handlers: Handlers, busy: Callable[[], None]) -> None:
    handlers.chat("tab", HELLO, "text", SHORT)
    views = handlers.follow("tab", WORKBENCH)
    assert next(views).done is False
    handlers.new_conversation("tab")
    assert not any(job.done and job.messages for job in views)
    visit = handlers.visits.of("tab")
    assert visit.messages == [] and visit.session.history == []
    busy()


def test_a_request_takes_its_model_once(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it cannot be let go, or fail to be loaded again, half-way."""
    in_a_scan(handlers)
    base = handlers.offer.base

    def gone(_: Version) -> Generator:
        raise CheckpointError("It was let go")

    once = Loaded(dataclasses.replace(base, _load=gone), base.generator)
    monkeypatch.setattr(handlers.offer, "get", lambda name="": once)
    handlers.chat("tab", HELLO, "text", SHORT)
    handlers.task("tab", "vqa", "What is it?", SHORT)
    handlers.draw("tab", "A CT.", 1, Controls(seed=1, num_timesteps=4))
    handlers.compare("tab", "report", "", (Side("", SHORT), Side("", dataclasses.replace(SHORT, seed=2))))
    for page in (WORKBENCH, "vqa", DRAW, COMPARE):
        job = ended(handlers, page)
        assert job.error is None and all(part.generator is None for part in job.parts)
    answers = handlers.request("client", get_task("report"), [upload(handlers)], "", 1)
    next(answers)
    answers.close()


def test_a_conversation_begins_with_the_version_of_its_field(handlers: Handlers) -> None:
    with pytest.raises(PromptError, match="Choose one of these: tiny, tiny-two"):
        handlers.chat("tab", HELLO, "text", SHORT, version="gone")
    handlers.chat("tab", HELLO, "text", SHORT, version="tiny-two")
    assert ended(handlers, WORKBENCH).parts[0].version.name == "tiny-two"
    assert handlers.visits.of("tab").choice == "tiny-two"


def test_the_studio_beside_it_has_its_model_and_its_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, second_checkpoint: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIMED_DATA", "data")
    Path("model").symlink_to(second_checkpoint)
    for model, whole in (("model", str(second_checkpoint.resolve())), ("an/id", "an/id")):
        options = SimpleNamespace(host="127.0.0.1", studio_port=free_port(), model=[model, "another"])
        with app.studio(options):
            (child,) = [one for one in psutil.Process().children() if "studio.app" in one.cmdline()]
            given = child.environ()
        assert (given["UNIMED_MODEL"], given["UNIMED_DATA"]) == (whole, str(tmp_path.resolve() / "data"))


@pytest.mark.parametrize(("count", "said"), [(1, "1 Urteil ("), (2, "2 Urteilen (")])
def test_an_origin_is_told_in_sentences(count: int, said: str) -> None:
    made = "2026-03-01T12:00:00+00:00"
    about = Lineage(
        name="b", parent="a", base="a", base_fingerprint="", parent_fingerprint="", snapshot="0" * 64, signals={},
        judgements=count, recipe={"about": "English"}, revision="", metrics={}, created_at=made,
    )  # fmt: skip
    sentence = f"aus a gelernt, mit {said}Datenstand 000000000000), 2026-03-01 12:00 UTC"
    assert results.learned(about, words("de")) == sentence


def test_several_seeds_are_in_a_row(handlers: Handlers) -> None:
    handlers.draw("tab", "A CT.", 3, Controls(seed=5))
    job = ended(handlers, DRAW)
    assert [part.reply.provenance.seed for part in job.parts] == [5, 6, 7]
    assert len({part.reply.picture.image.sha256 for part in job.parts}) == 3


def test_a_comparison_differs_in_something(handlers: Handlers) -> None:
    in_a_scan(handlers)
    prompt, same = "What imaging modality is this?", Side("tiny", SHORT)
    with pytest.raises(PromptError, match="Both sides have the same"):
        handlers.compare("tab", "vqa", prompt, (same, same))
    with pytest.raises(PromptError, match="no such model version"):
        handlers.compare("tab", "vqa", prompt, (same, Side("another", SHORT)))
    random = Controls(max_new_tokens=4)
    handlers.compare("tab", "vqa", prompt, (Side("tiny", random), Side("tiny-two", random)))
    job = ended(handlers, COMPARE)
    assert len({part.reply.provenance.seed for part in job.parts}) == 1
    assert sorted(part.version.name for part in job.parts) == ["tiny", "tiny-two"]
    handlers.compare("tab", "vqa", prompt, (Side("tiny", random), Side("tiny", random)))
    assert len({part.reply.provenance.seed for part in ended(handlers, COMPARE).parts}) == 2


def test_the_files_of_a_comparison_do_not_tell_who_drew_them(handlers: Handlers) -> None:
    sides = (Side("tiny", Controls(seed=1)), Side("tiny-two", Controls(seed=2)))
    handlers.compare("tab", "text_to_image", "A CT.", sides)
    for part in ended(handlers, COMPARE).parts:
        with PILImage.open(part.reply.picture.path) as image:
            told = f"{part.reply.picture.path} {image.info}"
        assert "tiny" not in told and "seed1" not in told and "seed2" not in told


def test_settings_are_checked_before_anything_waits(handlers: Handlers) -> None:
    for seed in (-7, 2**31):
        with pytest.raises(SettingsError, match="seed is out of range"):
            handlers.chat("tab", HELLO, "text", Controls(seed=seed))
    with pytest.raises(PromptError, match="2001 characters"):
        handlers.chat("tab", {"text": "x" * 2001, "files": []}, "text", SHORT)
    with pytest.raises(PromptError, match="no text"):
        handlers.chat("tab", {"text": "  ", "files": []}, "text", SHORT)
    assert Controls(seed=None).drawn_seed() >= 0
    assert handlers.service.load() == (0, 0)


@pytest.mark.skipif(not (NANO / "config.json").is_file(), reason="assets/nano is not there")
def test_the_shipped_model_answers(folder: Path) -> None:
    service = Service()
    handlers = Handlers(Offer([str(NANO)]), service, folder)
    visit = handlers.visits.of("tab")
    (shown,) = handlers.visits.attach(visit, [upload(handlers)]).paths
    handlers.chat("tab", {"text": "What imaging modality is this?", "files": [shown]}, "text", Controls(seed=1))
    assert ended(handlers, WORKBENCH).error is None
    assert "nano" in str(visit.messages)
    service.close()


# Visits and uploads ---------------------------------------------------------------------------------------------------


def test_a_page_that_reports_an_upload_twice_gets_it_once(handlers: Handlers) -> None:
    path, visit = upload(handlers), handlers.visits.of("tab")
    (shown,) = handlers.visits.attach(visit, [path]).paths
    assert not Path(path).exists()
    assert "DOE" not in shown
    assert handlers.visits.attach(visit, [path]).paths == [shown]
    assert handlers.visits.attach(visit, [shown]) is None
    assert handlers.visits.attach(visit, []).images == []


def test_two_visitors_with_the_same_file_both_get_it(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads, path = handlers.visits.uploads, upload(handlers)
    first, second = uploads.picture(path), uploads.picture(path)
    assert first.sha256 == second.sha256
    uploads.scan([upload(handlers)])
    assert uploads.scan([path]).slices == 1
    assert Path(path).parent.exists(), "somebody may be about to upload it once more"
    monkeypatch.setattr("demo.uploads.REMEMBERED_SECONDS", 0)
    uploads.forget()
    assert not Path(path).parent.exists()
    with pytest.raises(ImageError, match="The upload is gone"):
        uploads.picture(path)


def test_only_uploads_are_read_and_deleted(handlers: Handlers, tmp_path: Path) -> None:
    visit = handlers.visits.of("tab")
    elsewhere, ours = shutil.copy(CT, tmp_path), shutil.copy(CT, visit.folder)
    for path in (elsewhere, ours, str(tmp_path / "folder" / SHA256 / ".." / ".." / Path(elsewhere).name)):
        with pytest.raises(ImageError, match="did not come through the upload"):
            handlers.visits.uploads.picture(path)
    assert Path(elsewhere).exists() and Path(ours).exists()


def test_what_is_no_picture_is_deleted_too(handlers: Handlers) -> None:
    path = Path(upload(handlers))
    path.write_text("Jane Doe")
    found = handlers.visits.attach(handlers.visits.of("tab"), [str(path)])
    assert found.paths == [] and "not a picture of a supported kind" in found.problems[0]
    assert not path.exists()


def test_an_upload_that_nobody_reads_is_deleted(handlers: Handlers) -> None:
    path = upload(handlers)
    delete_old_uploads({path}, seconds=3600)
    assert Path(path).exists()
    delete_old_uploads({path, "gone.dcm"}, seconds=0)
    assert not Path(path).exists()


def test_what_came_inside_of_an_mcp_call_is_deleted(handlers: Handlers) -> None:
    folder, visit = handlers.visits.folder, handlers.visits.of("tab")
    copy, waiting = upload(handlers, "file.dcm"), Path(upload(handlers, "scan.dcm"))
    own = shutil.copy(CT, visit.folder / "file.dcm")
    delete_copies(folder, set(), seconds=3600)
    delete_copies(folder, {copy}, seconds=0)
    assert Path(copy).exists()
    delete_copies(folder, set(), seconds=0)
    assert not Path(copy).exists() and waiting.exists() and own.exists()


def test_a_visit_outlives_a_reload_and_no_more(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "KEPT_SECONDS", 0)
    first, back = handlers.visits.arrive("one", "")
    assert not back and first.folder.is_dir()
    handlers.visits.leave("one")
    again, back = handlers.visits.arrive("two", first.token)
    assert back and again is first is handlers.visits.of("two")
    handlers.visits.sweep()
    assert first.folder.is_dir()  # a tab shows it
    handlers.visits.leave("two")
    handlers.visits.sweep()
    assert not first.folder.exists()
    other, back = handlers.visits.arrive("three", first.token)
    assert not back and other is not first


def test_the_requests_of_a_closed_page_are_taken_back(
    handlers: Handlers, busy: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visits, "RETURN_SECONDS", 0)
    handlers.chat("tab", HELLO, "text", SHORT)
    job = handlers.visits.of("tab").jobs[WORKBENCH]
    handlers.visits.leave("tab")
    for _ in job.follow():
        pass
    assert job.stopped
    busy()


def test_the_visit_that_was_left_longest_makes_room(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "MOST_VISITS", 2)
    old, new = handlers.visits.of("old"), handlers.visits.of("new")
    handlers.visits.leave("new")
    handlers.visits.of("third")
    assert old.folder.exists() and not new.folder.exists()


# Feedback -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(f"sqlite:///{tmp_path / 'feedback.sqlite'}", tmp_path / "pictures") as store:
        yield store


@pytest.fixture
def answered(handlers: Handlers) -> Handlers:
    """A visitor has an answer on a scan, and a pair to vote on."""
    in_a_scan(handlers)
    handlers.task("tab", "report", "", SHORT)
    handlers.compare("tab", "report", "", (Side("tiny", SHORT), Side("tiny-two", SHORT)))
    ended(handlers, "report")
    ended(handlers, COMPARE)
    return handlers


@pytest.mark.parametrize("choice", CHOICES)
def test_a_vote_is_final_and_kept_only_with_consent(answered: Handlers, store: FeedbackStore, choice: str) -> None:
    feedback = Feedback(answered.visits, store)
    job = answered.visits.of("tab").jobs[COMPARE]
    assert not feedback.has_voted(job)
    told = feedback.vote("tab", choice, False, ENGLISH)
    assert "not kept" in told and all(name in told for name in ("tiny", "A was", "B was"))
    for consent in (False, True):
        with pytest.raises(FeedbackError, match="voted on this pair already"):
            feedback.vote("tab", "b", consent, ENGLISH)
    assert job.vote == choice and list(store.rows()) == []


def test_the_side_of_a_vote_is_the_one_that_was_shown(answered: Handlers, store: FeedbackStore) -> None:
    feedback = Feedback(answered.visits, store)
    assert "Your code" in feedback.vote("tab", "b", True, ENGLISH)
    left, right = answered.visits.of("tab").jobs[COMPARE].parts
    rows = {row["model"]["name"]: row for row in store.rows()}
    assert set(rows) == {"tiny", "tiny-two"}
    (vote,) = rows[left.version.name]["comparisons"]
    assert vote["choice"] == "right" and vote["right_generation_id"] == rows[right.version.name]["id"]


def test_nothing_is_kept_without_consent_or_words(answered: Handlers, store: FeedbackStore) -> None:
    feedback = Feedback(answered.visits, store)

    def give(thumb: int | None, comment: str, correction: str, consent: bool, page: str = "report") -> str:
        return feedback.give("tab", page, 1, thumb, comment, correction, consent, ENGLISH)

    with pytest.raises(FeedbackError, match="Nothing was kept"):
        give(1, "", "", False)
    with pytest.raises(FeedbackError, match="Choose thumb"):
        give(None, "A comment alone", "", True)
    with pytest.raises(FeedbackError, match="no answer yet"):
        give(1, "", "", True, page="segmentation")
    with pytest.raises(FeedbackError):
        give(1, "Patient born 12.03.1956", "", True)
    assert list(store.rows()) == []
    code = re.search(r"[0-9A-Z]{4}(-[0-9A-Z]{4})+", give(-1, "Too short", "A CT of the spine.", True))[0]
    assert code in give(1, "", "", True)  # one code for a visitor
    (row,) = store.rows()
    assert [rating["value"] for rating in row["ratings"]] == [1]  # the last word of a visitor
    assert [answer["author"] for answer in row["responses"]].count("person") == 1
    assert feedback.withdraw(code, ENGLISH) > 0
    assert list(store.rows()) == []
    assert code not in give(1, "", "", True)
    with pytest.raises(FeedbackError):
        feedback.withdraw("AAAA-AAAA-AAAA-AAAA", ENGLISH)


def test_a_server_without_feedback_says_so(answered: Handlers) -> None:
    feedback = Feedback(answered.visits, None)
    with pytest.raises(FeedbackError, match="switched off"):
        feedback.give("tab", "report", 1, 1, "", "", True, ENGLISH)
    with pytest.raises(FeedbackError, match="switched off"):
        feedback.withdraw("AAAA-AAAA-AAAA-AAAA", ENGLISH)
    assert "not kept" in feedback.vote("tab", "tie", False, ENGLISH)


# Words ----------------------------------------------------------------------------------------------------------------


def used_keys() -> tuple[set[str], set[str]]:
    """The keys that the demo's modules ask for by name, and the patterns of those that they put together."""
    named, patterns = set(), set()
    for path in (ROOT / "demo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for asked in [node.args[0]] if name in ("say", "label", "all") else []:
                if isinstance(asked, ast.IfExp):
                    named |= {choice.value for choice in (asked.body, asked.orelse)}
                elif isinstance(asked, ast.Constant) and isinstance(asked.value, str):
                    (patterns if name == "all" else named).add(asked.value + "*" * (name == "all"))
                elif isinstance(asked, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "*" for part in asked.values]
                    patterns.add("".join(parts))
    return named, patterns


def test_every_sentence_that_is_asked_for_is_there_and_no_other() -> None:
    named, patterns = used_keys()
    assert named - set(TABLE) == set()
    variable = {"own", "blank", "swapped"}  # the answers that show whether one depends on the image
    found = {key for key in TABLE for pattern in patterns if fnmatch.fnmatchcase(key, pattern)}
    assert set(TABLE) - named - found - variable == set()
    assert {f"task {name}" for name in TASKS} <= set(TABLE)


def shape(text: str) -> tuple[list, list]:
    """What a sentence is filled with, and its tags."""
    fields = sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None)
    return fields, re.findall(r"</?\w+", text)


def test_a_sentence_says_the_same_in_every_language() -> None:
    assert [
        key for key, row in TABLE.items() if list(row) != list(LANGUAGES) or not all(map(str.strip, row.values()))
    ] == []
    assert [key for key, row in TABLE.items() if len({str(shape(text)) for text in row.values()}) > 1] == []


def test_the_elements_are_translated() -> None:
    script = (ROOT / "core" / "elements" / "shown.js").read_text(encoding="utf-8")
    block = script[script.index("const WORDS = {") : script.index("};")]
    own = dict(re.findall(r'(\w+): "((?:[^"\\]|\\.)*)"', block))
    given = {"before", "after"}  # every element comes with its own
    translated = {key.removeprefix("element "): row["en"] for key, row in TABLE.items() if key.startswith("element ")}
    assert translated == {key: text for key, text in own.items() if key not in given}


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"), ("", "en"), ("de", "de"), ("de-AT,en;q=0.5", "de"), ("en-US,de;q=0.9", "en"),
        ("fr-FR,de;q=0.8,en;q=0.5", "de"), ("fr", "en"), ("*", "en"), (";;,=", "en"),
    ],
)  # fmt: skip
def test_the_browser_chooses_the_language(header: str | None, language: str) -> None:
    assert words(header) == Words(language)


# Results --------------------------------------------------------------------------------------------------------------


def test_text_of_the_model_is_only_text() -> None:
    assert render.plain("<b>\x1f\n![x](http://h/x.png)").count("<") == 1  # the line break
    assert not set("![]()<>*_`$\\").intersection(render.plain("![]()*_`$\\"))
    assert render.tag("a", title='"><b>', data_x=[1], none=None) == '<a title="&quot;&gt;&lt;b&gt;" data-x="[1]">'
    assert "<img" not in render.escaped("<img src=x>") and "<b>" not in render.problem("<b>")


def test_an_area_is_told_in_millimetres_where_they_are_known() -> None:
    mask = Image(PILImage.new("RGB", (4, 4)))
    mask.pixels.paste("white", (0, 0, 2, 4))
    seen = Image(PILImage.new("RGB", (8, 8)), spacing_mm=(0.5, 2.0))
    assert results.area(mask, seen, ENGLISH) == "Area of the mask: 32 pixels, 50.0 % of the picture, 32.0 mm²."
    unknown = Image(PILImage.new("RGB", (8, 8)))
    assert "no area in mm²" in results.area(mask, unknown, ENGLISH)


def test_a_box_is_pasted_back_into_the_whole_picture(handlers: Handlers) -> None:
    in_a_scan(handlers)
    handlers.task("tab", "segmentation", "spine", Controls(seed=1), region=Region("box", (32, 48, 80, 96)))
    job = ended(handlers, "segmentation")
    (part,) = job.parts
    assert part.turn.inputs[0].pixels.size < part.shown.pixels.size
    inputs, (mask,) = part.judged
    assert inputs[0] is part.shown and mask.pixels.size == part.shown.pixels.size
    assert mask.pixels.getbbox()[0] >= 32 and mask.pixels.getbbox()[3] <= 96
    shown = results.result(job, ENGLISH)
    assert "um-compare" in shown and "Area of the mask" in shown


@pytest.mark.parametrize(
    ("value", "region"),
    [
        ('{"kind": "point", "x": 3, "y": 4}', Region("point", (3, 4))),
        ('{"kind": "box", "x0": 1, "y0": 2, "x1": 3, "y1": 4}', Region("box", (1, 2, 3, 4))),
        ('{"kind": "none"}', None), ("", None), (None, None), ("[1]", None), ("{", None),
    ],
)  # fmt: skip
def test_what_an_element_tells_is_read(value: str | None, region: Region | None) -> None:
    assert region_of(value) == region
    assert isinstance(parsed(value), dict)


def test_every_modality_has_a_caption_and_the_examples_are_there() -> None:
    assert tuple(CAPTIONS) == MODALITIES
    examples = load_examples()
    assert len(examples) == 4 and all(example.question for example in examples)
