"""Tasks that draw: text or an image in, an image out."""

from core.tasks.base import Task

MODALITIES = (
    "chest X-ray",
    "CT",
    "MRI",
    "ultrasound",
    "fundus photograph",
    "OCT",
    "endoscopy",
    "histopathology",
)
"""The eight modalities, by the names that captions and answers use."""


def with_article(noun: str) -> str:
    """"a chest X-ray", "an OCT", "an MRI"."""
    return f"{'an' if noun[0].lower() in 'aeiou' or noun.startswith('MRI') else 'a'} {noun}"


def plain_caption(modality: str) -> str:
    """The shortest caption of a modality: "An MRI."."""
    text = with_article(modality)
    return f"{text[0].upper()}{text[1:]}."


TEXT_TO_IMAGE = Task(
    name="text_to_image",
    title="Text to image",
    description="Draws the image that a caption describes.",
    images=0,
    outputs=("image",),
    templates=("{prompt}",),
    prompt_label="Caption",
    examples=("A chest X-ray.", "An axial brain MRI, T2-weighted.", "A fundus photograph of the eye."),
)

SEGMENTATION = Task(
    name="segmentation",
    title="Segmentation",
    description="Draws the mask of the structure named in the prompt: white inside, black outside.",
    images=1,
    outputs=("image",),
    templates=("Segment the {prompt}.", "Draw the mask of the {prompt}.", "Mark the {prompt} in white on black."),
    prompt_label="Structure",
    examples=("polyp", "vessels", "fetal head", "nuclei", "lesions"),
)

SUPER_RESOLUTION = Task(
    name="super_resolution",
    title="Super-resolution",
    description="Redraws a coarse image with finer detail.",
    images=1,
    outputs=("image",),
    templates=("Increase the resolution of this image.", "Sharpen this image.", "Restore the fine detail."),
)

VIRTUAL_STAINING = Task(
    name="virtual_staining",
    title="Virtual staining",
    description="Redraws a histological section in another stain.",
    images=1,
    outputs=("image",),
    templates=("Show this section stained with {prompt}.", "Stain this section with {prompt}."),
    prompt_label="Stain",
    examples=("Ki-67", "CD31", "proSPC", "H&E"),
)

CROSS_MODAL = Task(
    name="cross_modal",
    title="Cross-modal synthesis",
    description="Redraws an image as another sequence or modality would show it.",
    images=1,
    outputs=("image",),
    templates=("Convert this image to {prompt}.", "Show the same slice as {prompt}.", "Synthesize {prompt} from this."),
    prompt_label="Target",
    examples=("T2-weighted MRI", "FLAIR MRI", "T1-weighted MRI"),
)
