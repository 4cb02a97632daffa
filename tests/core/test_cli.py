"""The command line as its users call it: real scans in, JSON out; bad files get a sentence and exit status 2."""

import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image as PILImage
from pydicom.data import get_testdata_file

from core.__main__ import main

SCANS = {
    "CT, uncompressed": "CT_small.dcm",
    "MR, JPEG 2000": "MR_small_jp2klossless.dcm",
    "MR, RLE": "MR_small_RLE.dcm",
    "ultrasound, JPEG": "examples_ybr_color.dcm",
    "X-ray, JPEG-LS": "JPEGLSNearLossless_08.dcm",
    "dose, multi-frame": "rtdose.dcm",
}


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("name", SCANS.values(), ids=SCANS.keys())
def test_vqa_on_real_scans(tiny_checkpoint, capsys, name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not carry {name}")
    status, out, _ = run(
        capsys, "run", "--task", "vqa", "--image", path, "--prompt", "What is this?", "--model", str(tiny_checkpoint)
    )
    result = json.loads(out)
    assert status == 0 and result["images"] == [] and result["text"] and result["seed"] == 0
    assert {"text", "images", "seed", "model", "seconds", "notice"} == result.keys()


def test_edit_writes_a_marked_picture_and_the_seed_repeats_it(tiny_checkpoint, tmp_path, capsys):
    def once(folder: str) -> Path:
        status, out, _ = run(
            capsys, "run", "--task", "segmentation", "--image", get_testdata_file("CT_small.dcm"),
            "--prompt", "vessels", "--seed", "5", "--out", str(tmp_path / folder), "--model", str(tiny_checkpoint),
        )  # fmt: skip
        assert status == 0
        (path,) = json.loads(out)["images"]
        return Path(path)

    first, second = once("a"), once("b")
    assert first.name == second.name
    with PILImage.open(first) as a, PILImage.open(second) as b:
        assert a.tobytes() == b.tobytes()
        assert "AI-generated" in a.text["Comment"] and a.text["Seed"] == "5"


def png_header(width: int, height: int) -> bytes:
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated.dcm", lambda: Path(get_testdata_file("CT_small.dcm")).read_bytes()[:20000]),
        ("empty.dcm", lambda: b""),
        ("pdf.pdf", lambda: b"%PDF-1.7 nothing to see"),
        ("zeros.dcm", lambda: bytes(4000)),
        ("bomb.png", lambda: png_header(20000, 20000)),
        ("renamed.png", lambda: b"Patient: Doe^Jane. This is text."),
    ],
)
def test_bad_files_get_a_sentence_and_status_2(tmp_path, tiny_checkpoint, capsys, name, content):
    (tmp_path / name).write_bytes(content())
    status, out, err = run(
        capsys, "run", "--task", "report", "--image", str(tmp_path / name), "--model", str(tiny_checkpoint)
    )
    assert status == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err and "Doe" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "vqa", "--prompt", "What?"], "takes an image"),
        (["--task", "dance"], "Unknown task"),
        (["--task", "text_to_image"], "needs a prompt"),
        (["--task", "report", "--image", "nowhere.png"], "nowhere.png"),
        (["--task", "text_to_image", "--prompt", "x", "--model", "nowhere"], "No such checkpoint folder"),
        (["--task", "text_to_image", "--prompt", "x", "--steps", "1"], "num_timesteps"),
        (["--task", "text_to_image", "--prompt", "x", "--seed", "-1"], "seed"),
        (["--task", "text_to_image", "--prompt", "x", "--out", "/proc/nowhere"], "output folder"),
        (["--task", "text_to_image", "--prompt", "x", "--temperature", "nan"], "finite"),
        (["--task", "text_to_image", "--prompt", "x", "--model", "models/nano--2"], "hub"),
    ],
)
def test_wrong_requests_get_a_sentence_and_status_2(tiny_checkpoint, capsys, arguments, message):
    model = [] if "--model" in arguments else ["--model", str(tiny_checkpoint)]
    status, _, err = run(capsys, "run", *arguments, *model)
    assert status == 2 and message in err


def test_info_says_what_was_loaded(tiny_checkpoint, capsys):
    status, out, _ = run(capsys, "info", "--model", str(tiny_checkpoint))
    info = json.loads(out)
    assert status == 0
    assert {"parameters", "bytes", "device", "dtype", "attention", "tensors"} <= info.keys()


def test_unknown_recipe_keys_are_refused(tmp_path, capsys):
    recipe = tmp_path / "r.json"
    recipe.write_text('{"kind": "model", "records": ".", "init": ".", "out": ".", "steps": 1, "mix": {"text": 1}}')
    status, _, err = run(capsys, "train", str(recipe), "learnin_rate=1")
    assert status == 2 and "learnin_rate" in err


def test_records_from_a_manifest_to_a_filtered_file(manifest, tmp_path, capsys):
    records, kept = tmp_path / "r.jsonl", tmp_path / "kept.jsonl"
    assert run(capsys, "records", "build", str(manifest), "--out", str(records), "--max-side", "64")[0] == 0
    status, out, _ = run(capsys, "records", "check", str(records))
    assert status == 0 and "no problems" in out
    status, out, _ = run(capsys, "records", "filter", str(records), "--out", str(kept), "--min-side", "32")
    assert status == 0 and "no scorer was named" in out and len(kept.read_text().splitlines()) > 0
    status, _, err = run(capsys, "records", "filter", str(records), "--out", str(records))
    assert status == 2 and "another file beside the records" in err
    records.write_text(records.read_text().replace('"split": "test"', '"split": "exam"', 1))
    status, out, err = run(capsys, "records", "check", str(records))
    assert status == 2 and "r.jsonl:" in out and "'exam'" in out and "1 problem" in err


def test_an_unknown_set_names_the_known_ones(tmp_path, capsys):
    status, _, err = run(capsys, "records", "import", "vqarad", str(tmp_path), "--out", str(tmp_path / "r.jsonl"))
    assert status == 2 and "vqa_rad" in err and "slake" in err


def test_keys_of_a_recipe_may_stand_behind_the_options(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("core.commands.learn._run", asked.append)
    assert run(capsys, "learn", "abc", "epochs=1", "--by", "mona", "batch=4")[0] == 0
    assert asked[0].overrides == ["epochs=1", "batch=4"]
    with pytest.raises(SystemExit):
        run(capsys, "learn", "abc", "--by", "mona", "--batch")
    with pytest.raises(SystemExit):
        run(capsys, "versions", "list", "all")


def test_learning_that_breaks_down_repeats_no_words(monkeypatch, capsys):
    def broken(_):
        raise KeyError("what a rater has said")

    monkeypatch.setattr("core.commands.learn._run", broken)
    status, out, err = run(capsys, "learn", "abc", "--by", "mona")
    assert status == 1 and out == ""
    assert err.startswith("error: failed with KeyError (test_cli.py:") and "rater" not in err
