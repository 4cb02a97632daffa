"""Wordings: questions, captions, reports and explanations over what is known of a picture. Nothing is invented.

What the labels and masks of a known source mean is in the tables here. Of any other source, the label is repeated and
nothing is made of it.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace

from core.tasks import MODALITIES
from core.tasks.generation import plain_caption

MODALITY_QUESTIONS = (
    "What imaging modality is this?",
    "Which modality is shown?",
    "What kind of image is this?",
    "How was this image acquired?",
)
ORGAN_QUESTIONS = (
    "Which organ is shown?",
    "What organ is this?",
    "Which part of the body is shown?",
    "What body region does this image show?",
)
_TISSUE = ("Which tissue is this?", "What does this section show?")
_OCT = ("What does this OCT scan show?", "What is the finding?")
ASKED = {
    "busi": ("Is the breast tissue normal, benign or malignant?", "What does this breast ultrasound show?"),
    "endoscopy": ("What does this endoscopy show?", "What is the finding?"),
    "histology_lc25000": _TISSUE,
    "stain_cima": _TISSUE,
    "oct_kermany": _OCT,
    "oct_srf": _OCT,
    "oct_sbsdi": _OCT,
    "oct_phantom": _OCT,
}
"""Questions that the label of a known source answers."""
SEQUENCES = ("Which MRI sequence is this?", "What is the weighting of this MRI?")
WINDOWS = ("Which CT window is used?",)
STAINS = ("How is this section stained?",)
"""Questions that a sequence, a window and a stain answer."""
SEX = {"F": "female", "M": "male"}
EXPLANATIONS = {
    "normal": "The layers of the retina are smooth, without drusen or fluid.",
    "drusen": "Drusen raise the pigment epithelium in small bumps.",
    "fluid": "Dark pockets of fluid lie inside the retina.",
}
"""What the states of a simulated OCT scan look like."""


@dataclass(frozen=True)
class Finding:
    """What a source says about one picture; empty where it says nothing.

    ``detail`` is one label (a tissue, a sequence, a class) and answers each question in ``asked``; ``findings`` are
    several, and ``labelled`` says that they are all: a picture without any of them was looked at and has none.
    """

    modality: str
    organ: str = ""
    detail: str = ""
    asked: tuple[str, ...] = ("What is the finding?",)
    findings: tuple[str, ...] = ()
    labelled: bool = False
    view: str = ""
    sex: str = ""
    boxes: tuple[tuple[str, float, float], ...] = ()
    """Name and centre (x, y as fractions of the width and height) of what is marked by a box."""


MODALITY = {
    "cxr": Finding("chest X-ray", "chest"),
    "ct": Finding("CT"),
    "mri": Finding("MRI"),
    "ultrasound": Finding("ultrasound"),
    "fundus": Finding("fundus photograph", "eye"),
    "oct": Finding("OCT"),
    "endoscopy": Finding("endoscopy"),
    "histopathology": Finding("histopathology"),
}
"""What the manifest's column ``modality`` says, whatever the source is."""
ORGAN = {
    "busi": "breast",
    "us_hc18": "fetal head",
    "histology_lc25000": "lung",
    "stain_cima": "lung",
    "endoscopy": "colon",
    "mri_ms": "brain",
    "mri_tcga": "brain",
    "oct_kermany": "eye",
    "oct_srf": "eye",
    "oct_sbsdi": "eye",
}
STRUCTURE = {
    "us_hc18": "fetal head",
    "endoscopy": "polyp",
    "histology_dsb2018": "nuclei",
    "fundus_chase": "vessels",
    "fundus_drive": "vessels",
    "mri_ms": "lesions",
}
"""What a mask of a source shows; elsewhere the label says it."""
LABELS = {"oct_kermany": {"DME": "fluid", "DRUSEN": "drusen", "NORMAL": "normal", "CNV": "neovascularisation"}}
"""Our words for labels of a source."""
ONE_LABEL = ("busi", "endoscopy", "histology_lc25000", "oct_kermany")
"""Sources whose label is one word for the whole picture, also where there is a mask."""
ALL_FINDINGS = ("fundus_idrid",)
"""Sources whose labels are all that a grader found: a picture without any shows no abnormality."""


def known_of(row: dict[str, str]) -> Finding:
    """What a row of a manifest says of its picture, whatever the label is."""
    known = MODALITY.get(row["modality"], Finding(row["modality"].replace("_", " ")))
    return replace(known, organ=ORGAN.get(row["source"], known.organ), view=row["view"], sex=row["sex"])


def _label(row: dict[str, str]) -> str:
    return row["label"].replace("_", " ").strip()


def structure_of(row: dict[str, str]) -> str:
    """What a mask of the row shows: what ``extra`` names, else what the source is known for, else the label."""
    label = _label(row)
    several = "|" in label or ";" in label
    return _named(row) or STRUCTURE.get(row["source"], "structure" if several or not label else label)


def _named(row: dict[str, str]) -> str:
    """``structure=NAME`` in ``extra``: then the label is a finding, mask or not."""
    return row["extra"].partition("structure=")[2].partition(";")[0].strip()


def labelled(row: dict[str, str]) -> Finding:
    """What the label of a flat picture says, too; an empty one says nothing.

    Raises:
        ValueError, TypeError: its boxes are malformed.
    """
    known, label, source = known_of(row), _label(row), row["source"]
    if row["modality"] == "cxr":
        names = (name.strip() for name in label.lower().split("|"))
        findings = tuple("no finding" if name == "normal" else name for name in names if name)
        return replace(known, findings=findings, labelled=bool(findings))
    if ";" in label or label == "optic disc":  # boxes: an optic disc is no finding
        findings = tuple(name for name in label.split(";") if name not in ("", "optic disc"))
        return replace(known, findings=findings, labelled=source in ALL_FINDINGS, boxes=_disc(row["extra"]))
    if source in ONE_LABEL or (source not in STRUCTURE and (not row["mask"] or _named(row))):
        detail = LABELS.get(source, {}).get(label, label)
        return replace(known, detail=detail, asked=ASKED.get(source, known.asked))
    return known


def _disc(extra: str) -> tuple[tuple[str, float, float], ...]:
    """The first box of an optic disc.

    Raises:
        ValueError, TypeError: the boxes are not a list of [name, x, y, width, height].
    """
    boxes = json.loads(extra.partition("boxes=")[2] or "[]")
    return tuple(("optic disc", float(x), float(y)) for name, x, y, *_ in boxes if name == "optic_disc")[:1]


def joined(names: tuple[str, ...]) -> str:
    """"effusion", "effusion and edema", "effusion, edema and mass"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def caption(known: Finding, rng: random.Random, *, short: bool) -> str:
    """A text-to-image caption; a short one names the modality and sometimes the organ."""
    head = plain_caption(known.modality).removesuffix(".")
    if known.organ and rng.random() < 0.6:
        head += f" of the {known.organ}"
    parts = [] if short else [p for p in (known.view and f"{known.view} view", known.detail) if p]
    if known.findings and not short:
        parts.append(joined(known.findings))
    return ", ".join([head, *parts]) + "."


def report(known: Finding) -> str:
    """A templated report over what is known."""
    text = known.modality[0].upper() + known.modality[1:]
    text += f" of the {known.organ}" if known.organ else ""
    text += f", {known.view} view" if known.view else ""
    if known.findings:
        return f"{text}. Findings: {joined(known.findings)}."
    if known.labelled and not known.detail:
        return f"{text}. No finding."
    return f"{text}. Impression: {known.detail}." if known.detail else f"{text}."


def questions(known: Finding, rng: random.Random) -> list[tuple[str, str]]:
    """Questions that the picture's labels answer, with the answers."""
    out = []
    if known.modality in MODALITIES:
        out.append((rng.choice(MODALITY_QUESTIONS), known.modality))
        right = rng.random() < 0.5
        named = known.modality if right else rng.choice([m for m in MODALITIES if m != known.modality])
        out.append((f"Is this {named}?", _yes(right)))
    if known.organ:
        out.append((rng.choice(ORGAN_QUESTIONS), known.organ))
    if known.detail and known.modality in MODALITIES:
        out.append((rng.choice(known.asked), known.detail))
    if known.view in ("AP", "PA"):
        out.append(("Is this an AP or a PA view?", known.view))
    if known.sex in SEX:
        out.append(("Is the patient male or female?", SEX[known.sex]))
    found = tuple(f for f in known.findings if f != "no finding")
    if known.labelled or found:
        out.append(("What are the findings?", joined(found) if found else "no finding"))
    if known.labelled:
        out.append(("Is there an abnormality?", _yes(bool(found))))
    for name, x, _ in known.boxes:
        out.append((f"On which side of the image is the {name}?", "left" if x < 0.5 else "right"))
    return out


def _yes(value: bool) -> str:
    return "yes" if value else "no"
