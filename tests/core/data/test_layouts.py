"""Every public set, in a small sample of its published layout, becomes records that can be read and opened."""

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as PILImage

from core.data.check import check
from core.data.coarse import coarse
from core.data.layouts import LAYOUTS, import_dataset
from core.data.layouts.base import hashed_split
from core.data.records import open_picture, read_records
from core.errors import ImageError, RecordError
from core.tasks import TASKS


def drawn(seed: int, size: tuple[int, int] = (64, 48)) -> PILImage.Image:
    """A colour picture that no other seed draws."""
    rng = np.random.default_rng(seed)
    small = PILImage.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, PILImage.Resampling.BICUBIC)


def disc(size: tuple[int, int] = (64, 48)) -> PILImage.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    return PILImage.fromarray(np.uint8(255) * ((x - 20) ** 2 + (y - 20) ** 2 < 100))


def save(image: PILImage.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def volume(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1])), path)


# The published layouts. Each returns the raw names and identifiers that must not reach the records. -----------------


def vqa_rad(root: Path) -> list[str]:
    rows = []
    for n, (organ, phrase) in enumerate((("CHEST", "freeform"), ("HEAD", "para"), ("ABD", "test_freeform"))):
        save(drawn(n), root / "VQA_RAD Image Folder" / f"synpic4{n}.jpg")
        url = f"https://medpix.nlm.nih.gov/case?id=48e1dd{n}" if n else "NULL"
        rows.append({
            "qid": n, "phrase_type": phrase, "image_case_url": url, "image_name": f"synpic4{n}.jpg",
            "image_organ": organ, "question": f"How many\tnodules ({n})?", "question_type": "COUNT", "answer": n + 1,
            "answer_type": "OPEN",
        })  # fmt: skip
    write(root / "VQA_RAD Dataset Public.json", rows)
    return ["synpic", "medpix", "48e1dd"]


def slake(root: Path) -> list[str]:
    for n, split in enumerate(("train", "validate", "test")):
        save(drawn(n), root / "imgs" / f"xmlab{n}" / "source.jpg")
        row = {
            "img_id": n, "img_name": f"xmlab{n}/source.jpg", "question": "Which organ is abnormal?", "answer": "Lung",
            "q_lang": "en", "location": "Lung", "modality": "X-Ray", "answer_type": "OPEN", "base_type": "vqa",
            "content_type": "Abnormality", "triple": ["vhead", "_", "_"], "qid": 11 + n,
        }  # fmt: skip
        write(root / f"{split}.json", [row, row | {"q_lang": "zh", "question": "哪个器官异常?", "answer": "肺"}])
    return ["xmlab", "source.jpg", "器官"]


def pathvqa(root: Path) -> list[str]:
    import pyarrow
    from pyarrow import parquet

    (root / "data").mkdir(parents=True)
    for n, split in enumerate(("train", "validation", "test")):
        content = io.BytesIO()
        drawn(n).save(content, "JPEG")
        image = {"bytes": content.getvalue(), "path": f"{split}_0{n}17.jpg"}
        rows = [
            {"image": image, "question": "where are liver stem cells located?", "answer": "in the canals of hering"},
            {"image": image, "question": "is there a tumour?", "answer": "yes"},
            {"image": image, "question": "is there a tumour?", "answer": "yes"},  # the set has such duplicates
        ]
        parquet.write_table(pyarrow.Table.from_pylist(rows), root / "data" / f"{split}-00000-of-00001.parquet")
    return ["017.jpg", "train_0"]


def omnimedvqa(root: Path) -> list[str]:
    save(drawn(0), root / "Images" / "ACRIMA" / "Im553_ACRIMA.png")
    row = {
        "dataset": "ACRIMA", "question_id": "ACRIMA_0000", "question_type": "Modality Recognition",
        "question": "What imaging technique is this?", "gt_answer": "Fundus imaging",
        "image_path": "Images/ACRIMA/Im553_ACRIMA.png", "option_A": "PET", "option_B": "Fundus imaging",
        "modality_type": "Fundus Photography",
    }  # fmt: skip
    other = {k: v for k, v in row.items() if k != "modality_type"} | {"modality": "CT(Computed Tomography)"}
    write(root / "QA_information" / "Open-access" / "ACRIMA.json", [row, other | {"question": "Which?"}])
    return ["ACRIMA", "Im553"]


def kvasir_seg(root: Path) -> list[str]:
    boxes = {}
    for n in range(3):
        name = f"cju0qkwl35piu0993l0dewei{n}"
        save(drawn(n), root / "images" / f"{name}.jpg")
        save(disc(), root / "masks" / f"{name}.jpg")
        box = {"label": "polyp", "xmin": 10, "ymin": 10, "xmax": 30, "ymax": 30}
        boxes[name] = {"height": 48, "width": 64, "bbox": [box] * (1 + n)}
    write(root / "kavsir_bboxes.json", boxes)
    return ["cju0qkwl"]


def isic2018(root: Path) -> list[str]:
    for n, part in enumerate(("Training", "Validation", "Test")):
        save(drawn(n), root / f"ISIC2018_Task1-2_{part}_Input" / f"ISIC_000001{n}.jpg")
        save(disc(), root / f"ISIC2018_Task1_{part}_GroundTruth" / f"ISIC_000001{n}_segmentation.png")
        write(root / f"ISIC2018_Task1-2_{part}_Input" / "LICENSE.txt", "CC")
    return ["ISIC_0"]


def brats(root: Path) -> list[str]:
    rng = np.random.default_rng(0)
    seg = np.zeros((40, 32, 24), np.uint8)
    seg[5:15, 5:15, 8:13] = np.array([1, 2, 4], np.uint8).repeat([1, 2, 2])
    for case, joint, names in (
        ("BraTS2021_00017", "_", ("t1", "t1ce", "t2", "flair")),
        ("BraTS-GLI-00005-000", "-", ("t1n", "t1c", "t2w", "t2f")),
        ("BraTS-GLI-00005-001", "-", ("t1n", "t1c", "t2w", "t2f")),
    ):
        for name in names:
            volume(root / case / f"{case}{joint}{name}.nii.gz", rng.integers(0, 900, seg.shape).astype(np.int16))
        volume(root / case / f"{case}{joint}seg.nii.gz", seg)
    return ["BraTS2021", "00017", "GLI-0", "nii"]


def ixi(root: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for n, (person, sequence) in enumerate((("IXI002-Guys-0828", "T1"), ("IXI012-HH-1211", "T2"))):
        path = root / f"IXI-{sequence}" / f"{person}-{sequence}.nii.gz"
        volume(path, rng.integers(0, 900, (20 + n, 32, 30)).astype(np.int16), (1.5, 1, 1))
    return ["IXI0", "Guys", "0828", "HH-"]


def bci(root: Path) -> list[str]:
    for n, (split, level) in enumerate((("train", "1+"), ("train", "0"), ("test", "3+"))):
        for seed, stain in enumerate(("HE", "IHC")):
            save(drawn(10 * n + seed), root / stain / split / f"0000{n}_{split}_{level}.png")
    return ["0000", "_train", ".png.png"]


def iu_xray(root: Path) -> list[str]:
    for n in range(3):
        names = [f"CXR{n}_IM-000{n}-1001", f"CXR{n}_IM-000{n}-2001"]
        for view, name in enumerate(names):
            save(drawn(10 * n + view), root / "NLMCXR_png" / f"{name}.png")
        pictures = "".join(f'<parentImage id="{name}"><caption>PA</caption></parentImage>' for name in names)
        write(root / "ecgen-radiology" / f"{n}.xml", (
            f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{n}"/><MedlineCitation><Article><Abstract>'
            '<AbstractText Label="COMPARISON">None.</AbstractText>'
            '<AbstractText Label="INDICATION">Positive TB test</AbstractText>'
            '<AbstractText Label="FINDINGS">The heart is normal in size.\n The lungs are clear.</AbstractText>'
            f'<AbstractText Label="IMPRESSION">{"Normal chest &amp; ribs." if n else ""}</AbstractText>'
            f"</Abstract></Article></MedlineCitation>{pictures}</eCitation>"
        ))  # fmt: skip
    return ["CXR0", "CXR1", "IM-0", "TB test"]


def roco(root: Path) -> list[str]:
    for n, (part, kept) in enumerate((("train", ""), ("validation", ""), ("test", "old"))):
        home, source = root / "data" / part / "radiology", f"PMC397025{n}_CRIONM2014-93,1546.003.jpg"
        number = f"ROCO_0002{n}"
        save(drawn(n), home / "images" / (source if kept else f"{number}.jpg"))
        write(home / "captions.txt", f"{number}\t Axial CT of the pelvis ({n}).\n")
        write(home / "licences.txt", f"ROCO_ID,PMC_ID,CC\n{number},{source},CC BY-NC\n")
    return ["ROCO_", "PMC39", "CRIONM"]


EDITS = {"segmentation", "super_resolution"}
THREE = {"train": 1, "val": 1, "test": 1}
PUBLISHED: dict[str, tuple[Callable[[Path], list[str]], set[str], int, dict[str, int] | None, str]] = {
    "vqa_rad": (vqa_rad, {"vqa"}, 3, {"train": 2, "test": 1}, "chest X-ray"),
    "slake": (slake, {"vqa"}, 3, THREE, "chest X-ray"),
    "pathvqa": (pathvqa, {"vqa"}, 6, {"train": 2, "val": 2, "test": 2}, "pathology"),
    "omnimedvqa": (omnimedvqa, {"vqa"}, 2, {"test": 2}, "fundus photograph"),
    "kvasir_seg": (kvasir_seg, {*EDITS, "vqa"}, 10, None, "endoscopy"),
    "isic2018": (isic2018, EDITS, 6, {"train": 2, "val": 2, "test": 2}, "dermoscopy"),
    "bci": (bci, {"virtual_staining"}, 3, {"train": 2, "test": 1}, "histopathology"),
    "brats": (brats, {"cross_modal", "segmentation"}, 27, None, "MRI"),
    "ixi": (ixi, {"text_to_image", "super_resolution"}, 12, None, "MRI"),
    "iu_xray": (iu_xray, {"report"}, 6, None, "chest X-ray"),
    "roco": (roco, {"report", "text_to_image"}, 6, {"train": 2, "val": 2, "test": 2}, "radiology"),
}
"""The sample, the tasks it holds, how many records, in which splits (None: by hash), and the first modality."""


def imported(name: str, tmp_path: Path, **options: int):
    """The records of a set's sample, the counts, and the folder of the records."""
    PUBLISHED[name][0](tmp_path / "source")
    counts = import_dataset(name, tmp_path / "source", tmp_path / "out" / f"{name}.jsonl", **options)
    return read_records(tmp_path / "out" / f"{name}.jsonl"), counts, tmp_path / "out"


def test_every_layout_is_tested() -> None:
    assert set(PUBLISHED) == set(LAYOUTS)
    assert all("check upstream" in layout.licence for layout in LAYOUTS.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_layout_becomes_records(name: str, tmp_path: Path) -> None:
    build, tasks, number, splits, modality = PUBLISHED[name]
    raw = build(tmp_path / "source")
    outs = [tmp_path / folder / "set.jsonl" for folder in ("one", "two")]
    counts, again = (import_dataset(name, tmp_path / "source", out) for out in outs)
    assert counts == again
    assert outs[0].read_bytes() == outs[1].read_bytes(), "a second import gives another file"
    records, text = read_records(outs[0]), outs[0].read_text(encoding="utf-8")
    assert len(records) == number == len({record.id for record in records})
    assert {record.sub_task_type for record in records} == tasks
    assert records[0].modality == modality and {record.dataset for record in records} == {name}
    assert all(record.licence and record.patient.startswith(f"{name}-") for record in records)
    if splits is not None:
        assert Counter(record.split for record in records) == splits
    else:
        assert all(record.split == hashed_split(record.patient) for record in records)
    assert Counter(f"{r.split} {r.sub_task_type}" for r in records) == Counter(
        {key: n for key, n in counts.items() if not key.startswith("skipped")}
    )
    assert [name for name in raw if name in text] == []
    for record in records:
        check_shape(record, tmp_path / "one")


def check_shape(record, root: Path) -> None:
    """A record holds what its task takes and gives, and its pictures open."""
    task = TASKS[record.sub_task_type]
    draws = "image" in task.outputs
    main = "interleaved" if draws and task.images else "generation" if draws else "understanding"
    assert record.main_task_type == main
    assert (len(record.input_img), len(record.output_img)) == (task.images, int(draws))
    assert [m.speaker for m in record.message] == (["human"] if draws else ["human", "gpt"])
    assert all(m.value == m.value.strip() != "" for m in record.message)
    pictures = [open_picture(root, path, record.place) for path in record.images]
    assert len({picture.size for picture in pictures}) == 1
    assert max(pictures[0].size) <= 512
    if record.sub_task_type == "segmentation":
        with PILImage.open(root / record.output_img[0]) as mask:
            values = set(np.unique(np.asarray(mask)))
        assert values == {0, 255}


def test_questions_keep_the_words_of_the_source(tmp_path: Path) -> None:
    records, _, _ = imported("vqa_rad", tmp_path)
    assert [(r.instruction, r.answer, r.modality, r.split) for r in records] == [
        ("How many nodules (0)?", "1", "chest X-ray", "train"),
        ("How many nodules (1)?", "2", "CT or MRI", "train"),
        ("How many nodules (2)?", "3", "CT", "test"),
    ]


def test_a_multiple_choice_question_names_its_options(tmp_path: Path) -> None:
    records, _, _ = imported("omnimedvqa", tmp_path)
    assert records[0].instruction == "What imaging technique is this? Options: A: PET, B: Fundus imaging."
    assert records[0].answer == "Fundus imaging"
    assert records[1].modality == "CT"


def test_duplicates_are_counted(tmp_path: Path) -> None:
    assert imported("pathvqa", tmp_path)[1]["skipped: duplicate"] == 3


def test_a_report_is_made_of_findings_and_impression(tmp_path: Path) -> None:
    answers = [record.answer for record in imported("iu_xray", tmp_path)[0]]
    assert answers[0] == "Findings: The heart is normal in size. The lungs are clear."
    assert answers[2].endswith(" Impression: Normal chest & ribs.")


def test_the_licence_of_a_figure_is_that_of_its_article(tmp_path: Path) -> None:
    records, _, _ = imported("roco", tmp_path)
    assert {record.licence for record in records} == {"CC BY-NC (check upstream)"}
    assert {r.instruction for r in records if r.sub_task_type == "text_to_image"} == {
        f"Axial CT of the pelvis ({n})." for n in range(3)
    }


def test_scans_of_one_patient_stay_together(tmp_path: Path) -> None:
    records, _, _ = imported("brats", tmp_path)
    assert len({record.patient for record in records}) == 2, "two time points of 2023 are one patient"


def test_the_whole_tumour_is_every_label_and_lies_where_it_was(tmp_path: Path) -> None:
    records, _, root = imported("brats", tmp_path)
    record = next(r for r in records if r.sub_task_type == "segmentation")
    mask = np.asarray(open_picture(root, record.output_img[0], ""))[..., 0]
    assert (mask == 255).sum() == 100
    rows, columns = np.nonzero(mask)
    # 32 voxels to the front and 40 to the right, drawn with the front at the top and the right on the left
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (17, 26, 25, 34)


def test_an_edit_says_what_to_draw(tmp_path: Path) -> None:
    records, _, _ = imported("bci", tmp_path)
    assert [record.label for record in records] == ["HER2 1+", "HER2 0", "HER2 3+"]
    assert all("HER2 immunohistochemistry" in record.instruction for record in records)


def test_pictures_are_reduced_and_masks_with_them(tmp_path: Path) -> None:
    records, _, root = imported("kvasir_seg", tmp_path, max_side=32)
    record = next(record for record in records if record.sub_task_type == "segmentation")
    assert {open_picture(root, path, "").size for path in record.images} == {(32, 24)}


def test_slices_have_square_pixels(tmp_path: Path) -> None:
    records, _, root = imported("ixi", tmp_path)
    sizes = {record.id: open_picture(root, record.images[0], "").size for record in records}
    assert set(sizes.values()) == {(30, 32), (32, 32)}  # 20 and 21 voxels of 1.5 mm


def test_another_seed_words_it_otherwise(tmp_path: Path) -> None:
    texts = []
    for seed in range(2):
        records, _, _ = imported("isic2018", tmp_path / str(seed), seed=seed)
        texts.append([record.instruction for record in records])
    assert texts[0] != texts[1]


def test_the_coarse_picture_has_the_old_size_and_few_values() -> None:
    image = drawn(1, (100, 60))
    image.putpixel((3, 3), (255, 0, 0))
    out = coarse(image, 10)
    assert (out.size, out.mode) == (image.size, image.mode)
    small = image.resize((10, 6), PILImage.Resampling.BOX)
    assert np.array_equal(np.asarray(out), np.asarray(small.resize((100, 60), PILImage.Resampling.BICUBIC)))
    assert np.array_equal(np.asarray(coarse(image, 200)), np.asarray(image))


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_wrong_folder_is_named_with_what_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError) as caught:
        import_dataset(name, tmp_path, tmp_path / "out.jsonl")
    message = str(caught.value)
    assert name in message and LAYOUTS[name].needs[0] in message and LAYOUTS[name].expects in message
    assert not (tmp_path / "out.jsonl").exists()


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="vqa_rad"):
        import_dataset("imagenet", tmp_path, tmp_path / "out.jsonl")


def first_picture(folder: Path) -> Path:
    kinds = (".jpg", ".png", ".gz", ".parquet")
    return next(path for path in sorted(folder.rglob("*")) if path.suffix in kinds and "mask" not in path.parts)


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {"omnimedvqa"}))  # its sample has a single picture
def test_a_broken_file_is_skipped_and_counted(name: str, tmp_path: Path) -> None:
    whole = len(imported(name, tmp_path / "whole")[0])
    PUBLISHED[name][0](tmp_path / "source")
    broken = first_picture(tmp_path / "source")
    broken.write_bytes(broken.read_bytes()[:60])
    counts = import_dataset(name, tmp_path / "source", tmp_path / "out.jsonl")
    assert 0 < len(read_records(tmp_path / "out.jsonl")) < whole
    reasons = [key for key in counts if key.startswith("skipped: ") and "unreadable" in key]
    assert reasons and broken.stem not in "".join(counts)


def test_a_missing_picture_is_skipped_and_counted(tmp_path: Path) -> None:
    slake(tmp_path / "source")
    (tmp_path / "source" / "imgs" / "xmlab1" / "source.jpg").unlink()
    counts = import_dataset("slake", tmp_path / "source", tmp_path / "out.jsonl")
    assert counts == {"train vqa": 1, "test vqa": 1, "skipped: image missing": 1}


def test_nothing_usable_is_an_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    omnimedvqa(tmp_path / "source")
    first_picture(tmp_path / "source").write_bytes(b"\x89PNG\r\n\x1a\n no")
    out = tmp_path / "out.jsonl"
    out.write_text("of yesterday")
    with pytest.raises(RecordError, match=r"omnimedvqa \(image unreadable .*: 2\)"):
        import_dataset("omnimedvqa", tmp_path / "source", out)
    assert out.read_text() == "of yesterday"


def test_a_full_disk_is_no_broken_picture(tmp_path: Path) -> None:
    bci(tmp_path / "source")
    (tmp_path / "out_images").write_text("a file where the folder of the pictures should be")
    with pytest.raises(ImageError, match="cannot be written"):
        import_dataset("bci", tmp_path / "source", tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": None}, "answer missing"),
        ({"question": "  "}, "question missing"),
        ({"question": ["a"]}, "question missing"),
        ({"image_name": "../../secret.png"}, "file name leaves the folder"),
        ({"image_name": "/etc/secret.png"}, "file name leaves the folder"),
        ("not an object", "malformed entry"),
    ],
)
def test_a_malformed_entry_is_skipped_and_counted(change: object, reason: str, tmp_path: Path) -> None:
    vqa_rad(tmp_path / "source")
    path = tmp_path / "source" / "VQA_RAD Dataset Public.json"
    rows = json.loads(path.read_text())
    rows[0] = rows[0] | change if isinstance(change, dict) else change
    write(path, rows)
    counts = import_dataset("vqa_rad", tmp_path / "source", tmp_path / "out.jsonl")
    assert counts == {"train vqa": 1, "test vqa": 1, f"skipped: {reason}": 1}


def test_patients_in_several_published_splits_are_counted(tmp_path: Path) -> None:
    vqa_rad(tmp_path / "source")
    path = tmp_path / "source" / "VQA_RAD Dataset Public.json"
    rows = json.loads(path.read_text())
    rows[2]["image_case_url"] = rows[1]["image_case_url"]
    write(path, rows)
    counts = import_dataset("vqa_rad", tmp_path / "source", tmp_path / "out.jsonl")
    assert counts["patients in more than one split"] == 1


def test_a_split_can_be_drawn_by_patient_in_place_of_the_published_one(tmp_path: Path) -> None:
    """In VQA-RAD the same pictures are asked about in both parts, and not every entry of one names its case."""
    vqa_rad(tmp_path / "source")
    path = tmp_path / "source" / "VQA_RAD Dataset Public.json"
    rows = json.loads(path.read_text())
    for n, row in enumerate(list(rows)):
        again = {"phrase_type": "test_freeform", "question": "And now?", "image_case_url": "NULL"}
        rows.append(row | again | {"answer": str(n)})
    write(path, rows)
    published = import_dataset("vqa_rad", tmp_path / "source", tmp_path / "published.jsonl")
    assert published["patients in more than one split"] == 2
    out = tmp_path / "out.jsonl"
    drawn = import_dataset("vqa_rad", tmp_path / "source", out, resplit=True)
    records = read_records(out)
    assert drawn["patients in more than one split"] == 0 and len(records) == 6
    assert all(record.split == hashed_split(record.patient) for record in records)
    assert len({(record.input_img, record.patient) for record in records}) == 3, "a picture has one patient"
    assert check(out).ok and not check(tmp_path / "published.jsonl").ok


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "\udcff"])
def test_a_source_that_is_not_json_is_an_error(content: str, tmp_path: Path) -> None:
    vqa_rad(tmp_path / "source")
    path = tmp_path / "source" / "VQA_RAD Dataset Public.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError, match=r"vqa_rad \(file"):
        import_dataset("vqa_rad", tmp_path / "source", tmp_path / "out.jsonl")


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f'<?xml version="1.0"?>{LAUGHS}<eCitation>&b;</eCitation>'.encode(), "XML file with a DOCTYPE"),
        (f'<?xml version="1.0"?>{LAUGHS}<eCitation>&b;</eCitation>'.encode("utf-16"), "XML file unreadable"),
        (b"<eCitation>" + b" " * 1_000_001 + b"</eCitation>", "XML file above 1 MB"),
        (b"<eCitation><open></eCitation>", "XML file malformed"),
        (b"<eCitation>&undeclared;</eCitation>", "XML file malformed"),
        (b"<eCitation/>", "report without findings and impression"),
    ],
)
def test_a_hostile_or_broken_report_is_skipped(content: bytes, reason: str, tmp_path: Path) -> None:
    iu_xray(tmp_path / "source")
    (tmp_path / "source" / "ecgen-radiology" / "1.xml").write_bytes(content)
    counts = import_dataset("iu_xray", tmp_path / "source", tmp_path / "out.jsonl")
    assert counts[f"skipped: {reason}"] == 1
    assert len(read_records(tmp_path / "out.jsonl")) == 4


def test_a_mask_of_another_size_is_skipped(tmp_path: Path) -> None:
    isic2018(tmp_path / "source")
    save(disc((30, 30)), tmp_path / "source/ISIC2018_Task1_Test_GroundTruth/ISIC_0000012_segmentation.png")
    counts = import_dataset("isic2018", tmp_path / "source", tmp_path / "out.jsonl")
    assert counts["skipped: mask and image differ in size"] == 1 and "test segmentation" not in counts


def test_broken_lines_of_captions_are_skipped(tmp_path: Path) -> None:
    roco(tmp_path / "source")
    path = tmp_path / "source" / "data" / "train" / "radiology" / "captions.txt"
    path.write_bytes(path.read_bytes() + b"ROCO_00030\nROCO_00031\tUnlicensed.\nROCO_00032\t\xff\n\n")
    counts = import_dataset("roco", tmp_path / "source", tmp_path / "out.jsonl")
    skipped = {key: number for key, number in counts.items() if key.startswith("skipped")}
    assert skipped == {
        "skipped: malformed line": 1, "skipped: picture without a licence": 1, "skipped: line is not UTF-8": 1,
    }  # fmt: skip


def test_a_split_by_hash_keeps_its_shares() -> None:
    counts = Counter(hashed_split(f"patient-{n}") for n in range(2000))
    assert 1540 < counts["train"] < 1660 and 150 < counts["val"] < 250 and 150 < counts["test"] < 250
