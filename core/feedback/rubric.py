"""What raters are asked: criteria with described anchors, labels of defects, classes of errors, a project's plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from core.data.quality import DIMENSIONS
from core.errors import FeedbackError

SCALE = (1, 2, 3, 4, 5)
DEFECTS = (
    "anatomy", "missing finding", "invented finding", "artefact", "blur", "wrong modality",
    "text in the image", "other",
)  # fmt: skip
"""What a region on a generated image may be marked as."""
ERRORS = (
    "false finding", "omission", "location", "severity", "comparison that the reference lacks", "omitted comparison",
)  # fmt: skip
"""Error classes of report sentences (ReXVal, Yu et al. 2023)."""
CANNOT_JUDGE = ("image quality", "outside my field", "input missing or wrong", "other")
DESIGNS = ("open", "crossed", "split")


@dataclass(frozen=True)
class Criterion:
    """
    Attributes:
        name: key in answers and exports.
        question: what the rater reads.
        anchors: what 1 to 5 mean, from the worst to the best.
    """

    name: str
    question: str
    anchors: tuple[str, ...] = ("unusable", "poor", "fair", "good", "excellent")

    def __post_init__(self) -> None:
        if not self.name or len(self.anchors) != len(SCALE):
            raise FeedbackError("A criterion needs a name and five anchors", value=self.name)


@dataclass(frozen=True)
class Rubric:
    """
    Attributes:
        criteria: what is scored, or chosen between where several outputs are compared.
        defects: labels for regions on an image; none where nothing is to be marked.
        errors: classes for spans of a text.
    """

    criteria: tuple[Criterion, ...]
    defects: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Rubric:
        criteria = tuple(Criterion(c["name"], c["question"], tuple(c["anchors"])) for c in data["criteria"])
        return cls(criteria, tuple(data["defects"]), tuple(data["errors"]))


REALISM = Criterion("realism", "Could this be a real image?", (
    "obviously synthetic", "synthetic at a glance", "synthetic on inspection", "small doubts", "as a real one",
))  # fmt: skip
ANATOMY = Criterion("anatomy", "Is the anatomy right?", (
    "impossible", "gross errors", "errors that matter", "small errors", "correct",
))  # fmt: skip
PATHOLOGY = Criterion("pathology", "Does it show the findings that it should, and no others?", (
    "other or no findings", "mostly wrong", "partly right", "small deviations", "exactly those",
))  # fmt: skip
PROMPT = Criterion("prompt", "Does it follow the request?", (
    "ignores it", "follows little of it", "follows half of it", "small deviations", "follows it fully",
))  # fmt: skip
ARTEFACTS = Criterion("artefacts", "Is it free of artefacts?", (
    "unreadable", "many", "some that disturb", "few that do not disturb", "none",
))  # fmt: skip
PRESERVATION = Criterion("preservation", "Is everything that should stay as in the source?", (
    "another image", "much is changed", "some is changed", "details are changed", "all is kept",
))  # fmt: skip
OVERALL = Criterion("overall", "How good is it overall?")
QUALITY = tuple(Criterion(name, name.replace("_", " ").capitalize() + "?") for name in DIMENSIONS)

RUBRICS = {
    "image": Rubric((REALISM, ANATOMY, PATHOLOGY, PROMPT, ARTEFACTS, OVERALL), DEFECTS),
    "edit": Rubric((REALISM, ANATOMY, PATHOLOGY, PROMPT, ARTEFACTS, PRESERVATION, OVERALL), DEFECTS),
    "text": Rubric((OVERALL,), errors=ERRORS),
    "training data": Rubric(QUALITY, DEFECTS),
}
"""By what they are for."""


@dataclass(frozen=True)
class Plan:
    """How items come to raters.

    Attributes:
        design: ``open`` (an item goes to whoever is free, to ``overlap`` people in all), ``crossed`` (everybody rates
            everything) or ``split`` (split-plot: readers and items are dealt into ``groups``, and a reader gets the
            items of the own group alone).
        order_seed: of the order, which is another one for each person.
        washout_days: so long nobody sees an item again that is to be rated twice.
        lease_minutes: so long an item stays with somebody who does not go on.
        correction_minutes: so long one's own judgement may be revised.
        dispute_range: a difference between two scores of one criterion that calls for an adjudicator.
    """

    design: str = "open"
    overlap: int = 2
    groups: int = 2
    order_seed: int = 0
    washout_days: float = 0.0
    lease_minutes: float = 60.0
    correction_minutes: float = 24 * 60.0
    dispute_range: int = 2

    def __post_init__(self) -> None:
        if self.design not in DESIGNS:
            raise FeedbackError("Unknown design", value=self.design, remedy=f"Use one of {', '.join(DESIGNS)}")
        numbers = (self.overlap >= 1, self.groups >= 1, self.washout_days >= 0, self.lease_minutes > 0)
        if not all(numbers) or self.correction_minutes < 0 or self.dispute_range < 1:
            raise FeedbackError("The plan has a number that is too small", value=self)

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Plan:
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})
