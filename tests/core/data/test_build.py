"""A folder in the manifest's layout becomes records of every task; what is wrong with it is one line."""

import csv
import json
import random
import weakref
import zipfile

import numpy as np
import pytest
from PIL import Image as PILImage

from core.data.build import BuildOptions, Stored, _counterfactuals, _records, build, phantoms
from core.data.check import check
from core.data.manifest import COLUMNS, About, pictures, read_manifest, stain_pictures
from core.data.oct_phantom import FINDINGS, b_scan
from core.data.records import SPLITS, PictureStore, open_picture, pseudonym, read_records
from core.data.stains import Section, registered_tiles
from core.data.templates import Finding, caption, questions, report
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
        extra = f"landmarks={marks}; serial sections"
        row(path, "stain_cima", "histopathology", label=f"x_{stain}", extra=extra, patient="lung of Jane_Doe")
    write(root, rows)
    return root


def rows_of(root):
    with (root / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(root, rows):
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_every_task_comes_out_of_a_manifest(folder, tmp_path):
    out = tmp_path / "out" / "r.jsonl"
    counts = build(folder / "manifest.csv", folder, out, BuildOptions(simulated_oct=7, held_out=("mri/a.npz",)))
    records = read_records(out)
    assert sum(n for name, n in counts.items() if name.split()[0] in SPLITS) == len(records)
    assert [name for name in counts if "'dermoscopy'" in name], "an unknown modality is told"
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
    rows = rows_of(folder)
    for row in rows[1:]:
        row["tier"] = "C"
    write(folder, rows)
    build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", BuildOptions())
    assert {r.dataset for r in read_records(tmp_path / "r.jsonl")} == {"cxr_nih", "unimed_text"}
    with pytest.raises(RecordError, match=r"manifest\.csv has no row of the tiers"):
        build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", BuildOptions(tiers=("B",)))


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
    sections = [Section(f"s/t/x_{stain}.png", f"t/x_{stain}.csv", "m.csv:2") for stain in ("HE", "proSPC")]
    tiles = list(registered_tiles(tmp_path, "s", sections))
    assert {(a, b) for a, b, *_ in tiles} == {("H&E", "proSPC"), ("proSPC", "H&E")}
    _, _, _, here, there = tiles[0]
    inner = (slice(20, 230), slice(20, 230))
    assert np.abs(np.asarray(here, float)[inner] - np.asarray(there, float)[inner]).mean() < 3


# Rows that are wrong, and what they must not do -----------------------------------------------------------------------


def row_of(**cells):
    """A row of a known source as ``read_manifest`` gives it; keyword arguments replace its cells."""
    base = dict.fromkeys(COLUMNS, "") | {"path": "a.png", "modality": "cxr", "source": "clinic", "patient": "7"}
    return base | {"tier": "A", "split": "train", "licence": "CC0", "place": "manifest.csv:2"} | cells


def one(tmp_path, **cells):
    """The only picture of a row whose file, and mask where it has one, is drawn."""
    row = row_of(**cells)
    for relative in filter(None, (row["path"], row["mask"])):
        picture(tmp_path / relative)
    (made,) = pictures(tmp_path, row, {})
    return made


def said(known):
    """Everything that is asked, answered, captioned and reported, over many random choices."""
    rngs = [random.Random(seed) for seed in range(40)]
    texts = {text for rng in rngs for pair in questions(known, rng) for text in pair if not text.startswith("Is this ")}
    return texts | {caption(known, rng, short=False) for rng in rngs} | {report(known)}


def test_a_wrong_row_is_named_by_its_line_in_the_file(tmp_path):
    """Rows of other tiers and cells of several lines count, too."""
    cells = [row_of(path=f"{n}.png", patient=str(n), tier="C" if n < 3 else "A") for n in range(5)]
    cells[1]["label"] = "two\nlines"
    for cell in cells:
        del cell["place"]
    write(tmp_path, cells)
    rows = read_manifest(tmp_path / "manifest.csv", ("A",))
    assert [(row["path"], row["place"]) for row in rows] == [("3.png", "manifest.csv:6"), ("4.png", "manifest.csv:7")]


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ({"patient": " "}, "patient is empty"),
        ({"path": ""}, "path is empty"),
        ({"source": ""}, "source is empty"),
        ({"modality": ""}, "modality is empty"),
        ({"split": "dev"}, "unknown split: 'dev'"),
        ({"split": ""}, "unknown split: ''"),
        ({"tier": "a"}, "unknown tier: 'a'"),
        ({"path": "../a.png"}, "below its folder: '../a.png'"),
        ({"path": "/etc/a.png"}, "below its folder: '/etc/a.png'"),
        ({"mask": "x/../../a.png"}, "below its folder: 'x/../../a.png'"),
        ({"source": ".."}, r"below its folder: '..'"),
        ({"extra": "landmarks=../../a.csv; x"}, "below its folder: '../../a.csv'"),
        ({"extra": "landmarks=/a.csv"}, "below its folder: '/a.csv'"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused_whatever_its_tier(tmp_path, cells, what):
    rows = [row_of(), row_of(path="b.png", tier="C") | cells]
    for row in rows:
        del row["place"]
    write(tmp_path, rows)
    with pytest.raises(RecordError) as error:
        read_manifest(tmp_path / "manifest.csv", ("A",))
    assert str(error.value).startswith("manifest.csv:3: ") and what in str(error.value)


@pytest.mark.parametrize("line", ["a.png,cxr,clinic,A,CC0,train", "a.png,cxr,clinic,A,CC0,train,7,,,,,,one more"])
def test_a_ragged_row_is_refused(tmp_path, line):
    (tmp_path / "manifest.csv").write_text(",".join(COLUMNS) + "\n" + line + "\n")
    with pytest.raises(RecordError, match=r"^manifest\.csv:2: the row has more or fewer cells than the header"):
        read_manifest(tmp_path / "manifest.csv", ("A",))


def test_a_manifest_that_a_spreadsheet_saved_is_read(tmp_path):
    line = ",".join(row_of()[column] for column in COLUMNS)
    (tmp_path / "manifest.csv").write_text(",".join(COLUMNS) + f"\n{line}\n", encoding="utf-8-sig")
    assert [row["path"] for row in read_manifest(tmp_path / "manifest.csv", ("A",))] == ["a.png"]


def test_no_identifier_of_a_manifest_reaches_a_record(folder, tmp_path):
    rows = rows_of(folder)
    for row in rows:
        row["patient"] = f"MRN-0815-{row['patient']}"
    write(folder, rows)
    out = tmp_path / "r.jsonl"
    build(folder / "manifest.csv", folder, out, BuildOptions())
    assert "0815" not in out.read_text()
    patients = {r.patient for r in read_records(out) if r.dataset == "busi"}
    assert patients == {pseudonym("busi", next(r["patient"] for r in rows if r["source"] == "busi"))}
    assert [r for r in read_records(out) if r.sub_task_type == "counterfactual"], "twins still find each other"


def test_one_identifier_in_two_sources_is_two_patients(folder, tmp_path):
    rows = [row for row in rows_of(folder) if row["modality"] == "cxr"][:2]
    rows[1]["source"], rows[1]["split"] = "clinic", "test"
    write(folder, rows)
    build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", BuildOptions())
    records = [r for r in read_records(tmp_path / "r.jsonl") if r.dataset != "unimed_text"]
    assert len({r.patient for r in records}) == 2
    assert not [r for r in records if r.sub_task_type == "counterfactual"]


def test_a_patient_in_two_splits_is_refused_with_both_lines(folder, tmp_path):
    out, rows = tmp_path / "r.jsonl", rows_of(folder)
    with pytest.raises(RecordError, match=r"csv:3: .*train here, in test in manifest\.csv:2\. Hold out all of the pat"):
        build(folder / "manifest.csv", folder, out, BuildOptions(held_out=(rows[0]["path"],)))
    build(folder / "manifest.csv", folder, out, BuildOptions(held_out=(rows[0]["path"], rows[1]["path"])))
    rows[1]["split"] = "val"
    write(folder, rows)
    with pytest.raises(RecordError, match=r"csv:3: .*val here, in train in manifest\.csv:2\. Give all of the pat"):
        build(folder / "manifest.csv", folder, out, BuildOptions())
    assert check(out).ok, "what was there stays"


def test_a_folder_of_serial_sections_is_held_out_as_a_whole(folder, tmp_path):
    out, rows = tmp_path / "r.jsonl", rows_of(folder)
    build(folder / "manifest.csv", folder, out, BuildOptions(held_out=(rows[-1]["path"],)))
    assert {r.split for r in read_records(out) if r.dataset == "stain_cima"} == {"test"}
    rows[-1]["patient"] = "somebody else"
    write(folder, rows)
    with pytest.raises(RecordError, match=r"csv:13: another patient than in manifest\.csv:12.*'stain_cima/lesions_'"):
        build(folder / "manifest.csv", folder, out, BuildOptions())


def test_a_counterfactual_never_leaves_its_split():
    known = Finding("chest X-ray", findings=("mass",), labelled=True)
    group = [
        Stored(About(f"{split}{label}", "x", split, "p", "CC0", known, label, "t"), f"{split}{label}.png", "0" * 64)
        for split in ("train", "test") for label in ("abnormal", "no finding")
    ]  # fmt: skip
    made = _counterfactuals(group, 0)
    assert {(r.input_img[0][:4], r.output_img[0][:4], r.split[:4]) for r in made} == {
        ("trai", "trai", "trai"), ("test", "test", "test"),
    }  # fmt: skip


def test_a_word_of_the_retina_explains_no_chest():
    known = [Finding("chest X-ray", findings=(name,), labelled=True) for name in ("mass", "fluid")]
    abouts = [About(str(n), "x", "train", "p", "CC0", k, str(n), "t") for n, k in enumerate(known)]
    group = [Stored(about, f"{about.name}.png", "0" * 64) for about in abouts]
    assert {r.answer for r in _counterfactuals(group, 0)} == {"Before: mass. Now: fluid.", "Before: fluid. Now: mass."}


def test_the_pixels_of_a_stored_picture_are_given_free(tmp_path):
    drawn = next(phantoms({"train": 1}))
    pixels = weakref.ref(drawn.image)
    _, stored = _records(drawn, PictureStore(tmp_path / "r.jsonl", 64), BuildOptions())
    del drawn
    assert stored.about.twin and pixels() is None


# Nothing is invented --------------------------------------------------------------------------------------------------


def test_an_x_ray_without_a_label_is_neither_normal_nor_abnormal(tmp_path):
    for label in ("", "|", " "):
        about = one(tmp_path, label=label).about
        assert (about.label, about.twin, about.known.findings, about.known.labelled) == ("", "", (), False)
        assert not [text for text in said(about.known) if "finding" in text.lower() or "abnormal" in text]
    assert one(tmp_path, label="Edema").about.label == "abnormal"
    for label in ("No Finding", "normal"):
        assert one(tmp_path, label=label).about.label == "no finding"


def test_a_fundus_without_a_label_has_no_findings(tmp_path):
    fundus = {"modality": "fundus", "extra": 'boxes=[["optic_disc", 0.2, 0.5, 0.1, 0.1]]'}
    known = one(tmp_path, source="fundus_idrid", **fundus).about.known
    assert (known.labelled, known.findings, known.boxes) == (False, (), ())
    known = one(tmp_path, source="fundus_idrid", label="optic_disc", **fundus).about.known
    assert {"no finding", "no", "left"} <= said(known)
    known = one(tmp_path, source="clinic", label="optic_disc", **fundus).about.known
    assert "left" in said(known) and not [text for text in said(known) if "abnormal" in text]


@pytest.mark.parametrize("modality", ["ultrasound", "endoscopy", "histopathology", "mri", "ct", "oct", "fundus"])
def test_of_an_unknown_source_only_its_label_is_said(tmp_path, modality):
    known = one(tmp_path, modality=modality, label="DME").about.known
    texts = said(known)
    assert known.organ == ("eye" if modality == "fundus" else "")
    assert {"What is the finding?", "DME"} <= texts
    assert known.asked == ("What is the finding?",)
    words = " ".join(texts).lower()
    assert not [word for word in ("breast", "colon", "brain", "lung", "tissue", "weight", "window") if word in words]


def test_a_mask_of_an_unknown_source_is_what_its_label_says(tmp_path):
    fundus = {"modality": "fundus", "mask": "m.png"}
    assert one(tmp_path, label="optic_disc", **fundus).structure == "optic disc"
    assert one(tmp_path, label="drusen;exudates", **fundus).structure == "structure"
    assert one(tmp_path, **fundus).structure == "structure"
    assert one(tmp_path, source="fundus_drive", **fundus).structure == "vessels"


def test_volumes_of_unknown_sources_have_no_region_and_no_lesions(tmp_path):
    volume = (np.random.default_rng(1).random((20, 40, 36)) * 255).astype(np.uint8)
    np.savez(tmp_path / "m.npz", t1=volume, flair=volume, seg=np.ones_like(volume))
    made = list(pictures(tmp_path, row_of(path="m.npz", modality="mri"), {}))
    assert {p.about.known.organ for p in made} == {""}
    assert {p.structure for p in made if p.mask} == {"structure"}
    assert {p.about.known.detail for p in made} == {"T1-weighted", "FLAIR"}
    np.savez(tmp_path / "c.npz", ct=np.zeros((9, 9, 9), np.int16))
    made = list(pictures(tmp_path, row_of(path="c.npz", modality="ct"), {}))
    assert {p.about.known.organ for p in made} == {""}
    assert "soft tissue window" in said(made[0].about.known)


def test_sections_of_an_unknown_source_are_asked_for_their_stain(folder):
    rows = [row | {"place": "manifest.csv:2"} for row in rows_of(folder) if "landmarks=" in row["extra"]]
    assert {p.about.known.organ for p in stain_pictures(folder, rows)} == {"lung"}
    for row in rows:
        row["source"], row["extra"] = "clinic", "landmarks="
    known = next(stain_pictures(folder, rows)).about.known
    assert "How is this section stained?" in said(known) and known.organ == ""


# Broken files ---------------------------------------------------------------------------------------------------------


def broken_zip(path):
    np.savez_compressed(path, t1=np.random.default_rng(0).integers(0, 255, (20, 40, 36), dtype=np.uint8))
    return bytearray(path.read_bytes())


def cut(path):
    path.write_bytes(broken_zip(path)[:2000])


def bent(path):
    data = broken_zip(path)
    data[300:330] = bytes(30)
    path.write_bytes(data)


def no_member(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("t1.npy", b"")


@pytest.mark.parametrize(
    "spoil",
    [
        cut,
        bent,
        no_member,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no volume"),
        lambda path: np.savez(path, t3=np.zeros(3)),
        lambda path: np.savez(path, t1=np.zeros((20, 3), object)),
        lambda path: np.savez(path, t1=np.float32(3)),
        lambda path: np.savez(path, t1=np.zeros((20, 9, 9), np.uint8), seg=np.zeros((20, 8, 9), np.uint8)),
        lambda path: np.savez(path, t1=np.full((20, 9, 9), 200, np.uint8), t2=np.full((3, 9, 9), 200, np.uint8)),
        lambda path: np.savez(path, t1=np.full((20, 9, 9), 200, np.complex64)),
    ],
)
def test_a_broken_volume_is_named_with_its_line(tmp_path, spoil):
    spoil(tmp_path / "v.npz")
    with pytest.raises(RecordError, match=r"^manifest\.csv:2: v\.npz cannot be used \(.+\)\."):
        list(pictures(tmp_path, row_of(path="v.npz", modality="mri"), {}))


@pytest.mark.parametrize("boxes", ["[", "3", "[3]", '[["optic_disc", "x", 1]]'])
def test_malformed_boxes_are_named_with_their_line(tmp_path, boxes):
    with pytest.raises(RecordError, match=r"^manifest\.csv:2: a\.png cannot be used"):
        one(tmp_path, modality="fundus", label="optic_disc", extra=f"boxes={boxes}")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x_HE.png", b"no picture", r"^manifest\.csv:12: stain_cima/lesions_/x_HE\.png cannot be used"),
        ("x_proSPC.png", b"no picture", r"^manifest\.csv:13: stain_cima/lesions_/x_proSPC\.png cannot be used"),
        ("x_proSPC.csv", b",A,B\n1,2,3\n", r"^manifest\.csv:13: .*x_proSPC\.png cannot be registered"),
        ("x_HE.csv", b",X,Y\n1,2,three\n", r"^manifest\.csv:13: .* registered with stain_cima/lesions_/x_HE\.png"),
        ("x_HE.csv", b",X,Y\n1,2\n", r"^manifest\.csv:13: .*"),
        ("x_HE.csv", b",X,Y\n1,2,3\n2,4,5\n", r"^manifest\.csv:13: .*\(2 landmarks\)"),
        ("x_HE.csv", b",X,Y\n1,2,3\n2,2,3\n3,2,3\n", r"^manifest\.csv:13: .*on a line"),
        ("x_HE.csv", b"\xff\xfe", r"^manifest\.csv:13: "),
    ],
)
def test_a_broken_section_is_named_with_its_line(folder, tmp_path, name, content, what):
    (folder / "stain_cima" / "lesions_" / name).write_bytes(content)
    with pytest.raises(RecordError, match=what):
        build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", BuildOptions())


def test_an_answer_that_is_nothing_is_no_word(folder, tmp_path):
    asked = {"image_name": f"{NAMES}.jpg", "question": "Is there a bleed?", "answer": None}
    (folder / "vqa_rad" / "qa.json").write_text(json.dumps([asked]))
    with pytest.raises(RecordError, match=r"^vqa_rad/qa\.json cannot be read .*None"):
        build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", BuildOptions())


def test_a_mask_beside_a_finding_has_a_name_of_its_own(folder, tmp_path):
    """Without a name in ``extra`` the label says what the mask shows, and the build tells so."""
    with (folder / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "us_hc18"]
    rows[0] |= {"source": "clinic", "modality": "fundus", "label": "glaucoma"}
    for extra, structure in (("", "glaucoma"), ("structure=optic disc", "optic disc")):
        rows[0]["extra"] = extra
        write(folder, rows)
        counts = build(folder / "manifest.csv", folder, tmp_path / "r.jsonl", BuildOptions())
        masks = [r.label for r in read_records(tmp_path / "r.jsonl") if r.sub_task_type == "segmentation"]
        assert masks == [structure]
        assert any(name.startswith("masks of 'glaucoma'") for name in counts) is not extra.startswith("structure")
    assert any("glaucoma" in r.answer for r in read_records(tmp_path / "r.jsonl"))
