"""Tasks that read: image in, text out."""

from core.tasks.base import Task

VQA = Task(
    name="vqa",
    title="Visual question answering",
    description="Answers a question about an image.",
    images=1,
    outputs=("text",),
    templates=("{prompt}",),
    prompt_label="Question",
    examples=("What imaging modality is this?", "Which organ is shown?", "Is there an abnormality?"),
    reads_directly=True,
)

REPORT = Task(
    name="report",
    title="Report",
    description="Describes an image in the form of a short report.",
    images=1,
    outputs=("text",),
    templates=("Write a short report of this image.", "Describe this image in a report.", "Report the findings."),
    reads_directly=True,
)
