"""Tasks whose output mixes images and text."""

from core.tasks.base import Task

COUNTERFACTUAL = Task(
    name="counterfactual",
    title="Counterfactual",
    description="Draws how the image would look in another state, then explains the change.",
    images=1,
    outputs=("image", "text"),
    templates=("Show this image with {prompt} and explain what changed.", "What would this look like with {prompt}?"),
    prompt_label="Other state",
    examples=("no finding", "a pleural effusion", "pneumonia"),
)
