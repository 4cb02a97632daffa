"""Pictures with free text: IU X-ray (Open-i) and ROCO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from core.data.layouts.base import Desk, Layout, Skip, inside
from core.data.records import Record

MAX_XML_BYTES = 1_000_000
_ROCO_SPLITS = {"train": "train", "validation": "val", "test": "test"}


def _iu_xray(folder: Path, desk: Desk) -> Iterator[Record]:
    """The report of a study for each of its pictures, frontal or lateral, from FINDINGS and IMPRESSION.

    No split is published, so it is drawn by ``hashed_split`` of the study; there is one study a patient. What Open-i
    took out of the texts reads XXXX and stays so.
    """
    for path in sorted((folder / "ecgen-radiology").glob("*.xml")):
        with desk.item():
            root = parsed(path)
            report = _report(root)
            images = [image.get("id", "").strip() for image in root.iter("parentImage")]
            if not any(images):
                raise Skip("report without a picture")
            for name in filter(None, images):
                with desk.item():
                    image = desk.stored_file(inside(folder / "NLMCXR_png", f"{name}.png"))
                    yield desk.record(name, "report", path.stem, inputs=(image,), answer=report)


def parsed(path: Path) -> ElementTree.Element:
    """The root of a small XML file without a document type, so that no entity can be declared in it.

    Raises:
        Skip: it is large, has a document type, or is malformed.
    """
    try:
        if path.stat().st_size > MAX_XML_BYTES:
            raise Skip("XML file above 1 MB")
        text = path.read_text(encoding="utf-8-sig")  # as text: an encoding that the file declares cannot hide anything
    except (OSError, UnicodeDecodeError) as error:
        raise Skip("XML file unreadable") from error
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise Skip("XML file with a DOCTYPE")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise Skip("XML file malformed") from error


def _report(root: ElementTree.Element) -> str:
    parts = []
    for label in ("FINDINGS", "IMPRESSION"):
        nodes = [node for node in root.iter("AbstractText") if node.get("Label", "").upper() == label]
        text = " ".join(" ".join("".join(node.itertext()) for node in nodes).split())
        parts += [f"{label.capitalize()}: {text}"] if text else []
    if not parts:
        raise Skip("report without findings and impression")
    return " ".join(parts)


def _roco(folder: Path, desk: Desk) -> Iterator[Record]:
    """The radiology part: the caption as a short report, and as a prompt to draw from.

    The splits are published. The patient is the article in PubMed Central, whose figures often show one patient; the
    licence is that of the article. A picture is named by its ROCO number, or, by older versions of ``fetch.py``, as in
    the second column of ``licences.txt`` (commas; captions are separated by a tab).
    """
    for part, split in _ROCO_SPLITS.items():
        home = folder / "data" / part / "radiology"
        articles = {}
        for line in _lines(home / "licences.txt", desk):
            number, _, rest = line.partition(",")
            source, _, licence = rest.rpartition(",")
            articles[number] = (source, licence)
        for line in _lines(home / "captions.txt", desk):
            with desk.item():
                number, _, caption = (piece.strip() for piece in line.partition("\t"))
                if not number or not caption:
                    raise Skip("malformed line")
                if number not in articles:
                    raise Skip("picture without a licence")
                source, licence = articles[number]
                path = inside(home / "images", f"{number}.jpg")
                path = path if path.is_file() else inside(home / "images", source)
                image, article = desk.stored_file(path), source.partition("_")[0]
                terms = f"{licence} (check upstream)"
                yield desk.record(number, "report", article, split, inputs=(image,), answer=caption, licence=terms)
                yield desk.record(
                    number, "text_to_image", article, split, outputs=(image,), prompt=caption, licence=terms
                )


def _lines(path: Path, desk: Desk) -> Iterator[str]:
    """The lines of a text file that are neither empty nor broken; none where the part was not downloaded."""
    for raw in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            desk.skip("line is not UTF-8")
            continue
        if line.strip():
            yield line


REPORTS = {
    "iu_xray": Layout(
        _iu_xray, "chest X-ray", "CC BY-NC-ND 4.0 (check upstream)",
        "NLMCXR_reports.tgz unpacked to ecgen-radiology/*.xml, and NLMCXR_png.tgz unpacked to NLMCXR_png/*.png",
        ("ecgen-radiology/*.xml", "NLMCXR_png/*.png"),
    ),
    "roco": Layout(
        _roco, "radiology", "that of each article (check upstream)",
        "data/{train,validation,test}/radiology/ with captions.txt, licences.txt and, from scripts/fetch.py, images/",
        ("data/*/radiology/captions.txt", "data/*/radiology/licences.txt", "data/*/radiology/images"),
    ),
}  # fmt: skip
