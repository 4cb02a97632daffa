"""What a task is: its inputs, its wordings and its outputs. Demo, command line, training and evaluation read this."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass

from core.errors import PromptError
from core.sequence import Image, Sequence, Text


@dataclass(frozen=True)
class Task:
    """One thing the model does.

    Attributes:
        name: as it stands in commands, in the API and in records.
        title: for a person.
        description: one sentence on what goes in and what comes out.
        images: how many images it takes (0 or 1).
        outputs: "text" and "image", in the order in which the model gives them.
        templates: wordings of the instruction; the first is used, the others vary the training data.
            ``{prompt}`` is where the user's words go; a task without it needs none.
        prompt_label: what the user's words are ("Question", "Structure to segment"); empty when there are none.
        examples: prompts worth trying.
        reads_directly: the ViT sees the picture itself instead of the autoencoder's resize of it, as in the
            reference's question answering.
    """

    name: str
    title: str
    description: str
    images: int
    outputs: tuple[str, ...]
    templates: tuple[str, ...]
    prompt_label: str = ""
    examples: tuple[str, ...] = ()
    reads_directly: bool = False

    def instruction(self, prompt: str = "", wording: int = 0) -> str:
        """The text that the model is given.

        Raises:
            PromptError: the task needs a prompt and there is none, or takes none and there is one.
        """
        template = self.templates[wording % len(self.templates)]
        prompt = prompt.strip()
        if self.prompt_label and not prompt:
            raise PromptError(f"{self.title} needs a prompt", remedy=f"Give one, for example {self.examples[0]!r}")
        if prompt and not self.prompt_label:
            raise PromptError(f"{self.title} takes no prompt", remedy="Leave it out, or ask with the task vqa")
        return template.replace("{prompt}", prompt)

    def build(self, images: ListLike[Image], prompt: str = "", wording: int = 0) -> Sequence:
        """The model's input: the images, then the instruction.

        Raises:
            PromptError: a missing image, one too many, or a missing prompt.
        """
        if len(images) != self.images:
            wanted = "an image" if self.images else "no image"
            raise PromptError(f"{self.title} takes {wanted}", value=f"{len(images)} given")
        return [*images, Text(self.instruction(prompt, wording))]
