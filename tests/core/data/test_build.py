"""A folder in the manifest's layout becomes records of every task; what is wrong with it is one line."""

import csv
import json

import numpy as np
import pytest
from PIL import Image as PILImage

from core.data.build import BuildOptions, build
from core.data.check import check
from core.data.manifest import COLUMNS
from core.data.oct_phantom import FINDINGS, b_scan
from core.data.records import open_picture, read_records
from core.data.stains import registered_tiles
from core.errors import RecordError

NAMES = "Jane_Doe"
"""Part of every file name: it must not come through."""


def picture(path, size=(90, 70), seed=0, mode="RGB"):
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    small = PILImage.fromarray(random.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    small.resize(size, PILImage.Resampling.BICUBIC).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
    """One or two rows of every kind that the manifest knows, and one source that nobody has heard of."""
    root, rows = tmp_path / "data", []

    def row(path, source, modality, **more):
        base = dict.fromkeys(COLUMNS, "") | {"path": path, "source": source, "modality": modality, "tier": "A"}
        rows.append(base | {"licence": "CC0", "split": "train", "patient": f"{source}-{len(rows)}"} | more)

    for i, (label, split) in enumerate([("No Finding", "train"), ("Edema|Effusion", "train"), ("Mass", "test")]):
        path = f"cxr_nih/{NAMES}_{i}.png"
        picture(root / path, seed=i)
        row(path, "cxr_nih", "cxr", label=label, split=split, patient=f"p{i // 2}", view="PA", sex="F")
    picture(root / f"busi/{NAMES}.png", seed=9)
    row(f"busi/{NAMES}.png", "busi", "ultrasound", label="benign")
    picture(root / f"fundus_idrid/{NAMES}.png", seed=10)
    boxes = json.dumps([["optic_disc", 0.2, 0.5, 0.1, 0.1], ["haemorrhage", 0.6, 0.5, 0.1, 0.1]])
    row(f"fundus_idrid/{NAMES}.png", "fundus_idrid", "fundus", label="optic_disc;haemorrhage", extra=f"boxes={boxes}")
    picture(root / f"us_hc18/{NAMES}.png", seed=11)
    picture(root / f"us_hc18/{NAMES}_mask.png", seed=12, mode="L")
    row(f"us_hc18/{NAMES}.png", "us_hc18", "ultrasound", label="fetal head", mask=f"us_hc18/{NAMES}_mask.png")
    picture(root / f"vqa_rad/images/{NAMES}.jpg", seed=13)
    row(f"vqa_rad/images/{NAMES}.jpg", "vqa_rad", "head_mri_ct")
    asked = {"image_name": f"{NAMES}.jpg", "question": "Is there a bleed? ", "answer": "No", "image_organ": "HEAD"}
    (root / "vqa_rad" / "qa.json").write_text(json.dumps([asked]))
    picture(root / "derm/1.png", seed=14)
    row("derm/1.png", "derm_new", "dermoscopy", label="naevus", split="val")
    volume = (np.random.default_rng(1).random((20, 40, 36)) * 255).astype(np.uint8)
    lesion = np.zeros_like(volume)
    lesion[:, 10:20, 10:20] = 1
    (root / "mri").mkdir()
    np.savez(root / "mri/a.npz", t1=volume, t2=255 - volume, flair=volume // 2, seg=lesion)
    row("mri/a.npz", "mri_ms", "mri")
    ct = np.random.default_rng(2).integers(-1000, 1000, (24, 22, 10)).astype(np.int16)
    np.savez(root / "mri/ct.npz", ct=ct, seg_model_output=np.zeros(ct.shape, np.uint8))
    row("mri/ct.npz", "ct_totalsegmentator", "ct")
    for stain, seed in (("HE", 20), ("proSPC", 21)):
        path = f"stain_cima/lesions_/x_{stain}.png"
        picture(root / path, size=(300, 280), seed=seed)
        marks = f"lesions_/x_{stain}.csv"
        (root / "stain_cima" / marks).write_text(",X,Y\n1,10,10\n2,200,15\n3,20,250\n4,220,240\n")
        row(path, "stain_cima", "histopathology", label=f"x_{stain}", extra=f"landmarks={marks}; serial sections")
    write(root, rows)
    return root


def write(root, rows):
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_every_task_comes_out_of_a_manifest(folder, tmp_path):
    out = tmp_path / "out" / "r.jsonl"
    counts = build(folder / "manifest.csv", folder, out, BuildOptions(simulated_oct=7, held_out=("mri/a.npz",)))
    records = read_records(out)
    assert sum(counts.values()) == len(records)
    tasks = {r.sub_task_type for r in records}
    assert tasks == {
        "vqa", "report", "text_to_image", "segmentation", "super_resolution", "virtual_staining", "cross_modal",
        "counterfactual", "text",
    }  # fmt: skip
    assert {r.split for r in records if r.sub_task_type == "cross_modal"} == {"test"}, "the volume is held out"
    said = {(r.instruction, r.answer) for r in records}
    assert {("Is there a bleed?", "No"), ("On which side of the image is the optic disc?", "left")} <= said
    assert any(r.answer == "Before: no finding. Now: edema and effusion." for r in records)
    assert any(r.instruction == "An MRI of the brain, T2-weighted." or "T2-weighted" in r.instruction for r in records)
    assert {r.label for r in records if r.sub_task_type == "segmentation"} == {"fetal head", "lesions"}
    assert not [r for r in records if "naevus" in r.answer], "nobody wrote a question for an unknown modality"
    assert NAMES not in out.read_text() and not [p for p in out.parent.rglob("*") if NAMES in p.name]
    assert check(out).ok, check(out).problems
    for record in records:
        sizes = {open_picture(out.parent, path, record.place).size for path in record.images}
        assert len(sizes) <= 1 or record.sub_task_type == "counterfactual", "source and target have one size"


def test_the_same_folder_gives_the_same_file(folder, tmp_path):
    texts = []
    for name in ("a", "b"):
        out = tmp_path / name / "r.jsonl"
        build(folder / "manifest.csv", folder, out, BuildOptions(simulated_oct=2))
        texts.append(out.read_bytes())
    assert texts[0] == texts[1]


def test_tiers_are_kept_apart(folder, tmp_path):
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows[1:]:
        row["tier"] = "C"
    write(folder, rows)
    build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", BuildOptions())
    assert {r.dataset for r in read_records(tmp_path / "r.jsonl")} == {"cxr_nih", "unimed_text"}
    with pytest.raises(RecordError, match=r"manifest\.csv has no row of the tiers"):
        build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", BuildOptions(tiers=("X",)))


def test_what_is_wrong_with_a_folder_is_one_line(folder, tmp_path):
    options = BuildOptions()
    with pytest.raises(RecordError, match=r"held-out path: 'nowhere\.png'"):
        build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", BuildOptions(held_out=("nowhere.png",)))
    with pytest.raises(RecordError, match="manifest cannot be read"):
        build(folder / "nothing.csv", folder, tmp_path / "r.jsonl", options)
    (folder / f"busi/{NAMES}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(RecordError, match=r"^manifest\.csv:5: busi/.* cannot be used"):
        build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", options)
    (folder / f"busi/{NAMES}.png").unlink()
    with pytest.raises(RecordError, match=r"^manifest\.csv:5: "):
        build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", options)
    (folder / "manifest.csv").write_text("path,modality\na.png,cxr\n")
    with pytest.raises(RecordError, match=r"manifest\.csv lacks a column: 'source'"):
        build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", options)


def test_two_states_of_a_phantom_are_one_eye():
    """A counterfactual pair differs where the finding is, and nowhere else to speak of."""
    scans = {finding: np.asarray(b_scan(5, finding), dtype=float) for finding in FINDINGS}
    other = np.asarray(b_scan(6, "normal"), dtype=float)
    for finding in ("drusen", "fluid"):
        changed = np.abs(scans[finding] - scans["normal"]).mean()
        assert 0 < changed < 0.5 * np.abs(other - scans["normal"]).mean()


def test_registration_by_landmarks_brings_sections_together(tmp_path):
    """The second section is the first one shifted by (12, 8) pixels; its landmarks say so."""
    folder = tmp_path / "s" / "t"
    picture(folder / "x_HE.png", size=(300, 280), seed=3)
    he = PILImage.open(folder / "x_HE.png")
    he.transform(he.size, PILImage.Transform.AFFINE, (1, 0, 12, 0, 1, 8)).save(folder / "x_proSPC.png")
    points = np.array([[50, 50], [250, 60], [60, 230], [240, 220]])
    for stain, moved in (("HE", points), ("proSPC", points - [12, 8])):
        rows = "".join(f"{i},{x},{y}\n" for i, (x, y) in enumerate(moved, 1))
        (folder / f"x_{stain}.csv").write_text(",X,Y\n" + rows)
    files = [(f"s/t/x_{stain}.png", f"t/x_{stain}.csv") for stain in ("HE", "proSPC")]
    tiles = list(registered_tiles(tmp_path, "s", files))
    assert {(a, b) for a, b, *_ in tiles} == {("H&E", "proSPC"), ("proSPC", "H&E")}
    _, _, _, here, there = tiles[0]
    inner = (slice(20, 230), slice(20, 230))
    assert np.abs(np.asarray(here, float)[inner] - np.asarray(there, float)[inner]).mean() < 3
