"""Training samples of every task out of labelled pictures; instructions come from the task registry."""

from __future__ import annotations

import random

from PIL import Image as PILImage

from core.tasks import MODALITIES, TASKS
from core.training.pictures import Picture

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
ASKED_BY_SOURCE = {
    "busi": ("Is the breast tissue normal, benign or malignant?", "What does this breast ultrasound show?"),
    "endoscopy": ("What does this endoscopy show?", "What is the finding?"),
    "histology_lc25000": ("Which tissue is this?", "What does this section show?"),
    "oct_phantom": ("What does this OCT scan show?", "What is the finding?"),
    "mri_ms": ("Which MRI sequence is this?", "What is the weighting of this MRI?"),
    "mri_tcga": ("Which MRI sequence is this?", "What is the weighting of this MRI?"),
    "ct_totalsegmentator": ("Which CT window is used?",),
}


def joined(findings: tuple[str, ...]) -> str:
    """"effusion", "effusion and edema", "effusion, edema and mass"."""
    return findings[0] if len(findings) == 1 else ", ".join(findings[:-1]) + " and " + findings[-1]


def caption(picture: Picture, rng: random.Random) -> str:
    """A text-to-image caption; half of them name the modality and the region alone."""
    head = f"{_article(picture.modality)} {picture.modality}"
    if picture.organ and rng.random() < 0.6:
        head += f" of the {picture.organ}"
    if rng.random() < 0.5:
        return f"{head}."
    if picture.source in ("mri_ms", "mri_tcga"):
        return f"{head}, {picture.detail}."
    if picture.view:
        head += f", {picture.view} view"
    if picture.findings:
        return f"{head}, {joined(picture.findings)}."
    return f"{head}, {picture.detail}." if picture.detail else f"{head}."


def _article(noun: str) -> str:
    return "An" if noun[0].lower() in "aeiou" or noun.startswith("MRI") else "A"


def report(picture: Picture) -> str:
    """A templated report over what is known. No finding is invented."""
    region = f" of the {picture.organ}" if picture.organ else ""
    text = f"{picture.modality[0].upper()}{picture.modality[1:]}{region}"
    if picture.view:
        text += f", {picture.view} view"
    if picture.findings:
        return f"{text}. Findings: {joined(picture.findings)}."
    return f"{text}. Impression: {picture.detail}." if picture.detail else f"{text}."


def question(picture: Picture, rng: random.Random) -> tuple[str, str]:
    """A question that the picture's labels answer, and the answer."""
    options: list[tuple[str, str]] = list(picture.qa)
    if picture.modality:
        options += [(rng.choice(MODALITY_QUESTIONS), picture.modality)] * 3
        other = rng.choice(MODALITIES)
        right = rng.random() < 0.5
        options.append((f"Is this {picture.modality if right else other}?", _yes(right or other == picture.modality)))
    if picture.organ:
        options += [(rng.choice(ORGAN_QUESTIONS), picture.organ)] * 3
    if picture.source in ASKED_BY_SOURCE and picture.detail:
        options += [(rng.choice(ASKED_BY_SOURCE[picture.source]), picture.detail)] * 2
    if picture.view:
        options.append(("Is this an AP or a PA view?", picture.view))
    if picture.source == "cxr_nih":
        options.append(("What are the findings?", joined(picture.findings)))
        options.append(("Is there an abnormality?", _yes(picture.findings != ("no finding",))))
    if picture.source == "fundus_idrid":
        options.append(("Is there an abnormality?", _yes(bool(picture.findings))))
    return rng.choice(options)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def degraded(image: PILImage.Image, factor: int = 4) -> PILImage.Image:
    """The picture as a scanner with ``factor`` times coarser pixels would give it, at the old size."""
    small = image.resize((max(4, image.width // factor), max(4, image.height // factor)), PILImage.Resampling.BOX)
    return small.resize(image.size, PILImage.Resampling.BICUBIC)


def edits(picture: Picture) -> list[tuple[str, str, str]]:
    """The edits that the picture has a target for: (task, prompt, key of the target image)."""
    out = [("super_resolution", "", "image")]
    if picture.mask is not None:
        out += [("segmentation", picture.mask_of, "mask")] * 3
    out += [("cross_modal", f"{name} MRI", f"aligned:{name}") for name in picture.aligned]
    return out


def all_texts(pictures: list[Picture], seed: int) -> list[str]:
    """Every kind of text that training uses, for the tokenizer."""
    rng = random.Random(seed)
    texts = [wording for task in TASKS.values() for wording in task.templates]
    texts += [example for task in TASKS.values() for example in task.examples]
    for picture in pictures:
        texts += [text for pair in picture.qa for text in pair]
        if picture.modality:
            texts += [caption(picture, rng), report(picture), *question(picture, rng)]
    return texts
