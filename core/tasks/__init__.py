"""The registry of tasks. These names are used everywhere: commands, API, records, evaluation."""

from core.errors import PromptError
from core.tasks.base import Task
from core.tasks.generation import (
    CROSS_MODAL,
    MODALITIES,
    SEGMENTATION,
    SUPER_RESOLUTION,
    TEXT_TO_IMAGE,
    VIRTUAL_STAINING,
)
from core.tasks.interleaved import COUNTERFACTUAL
from core.tasks.understanding import REPORT, VQA

__all__ = ["MODALITIES", "TASKS", "Task", "get_task"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        VQA,
        REPORT,
        TEXT_TO_IMAGE,
        SEGMENTATION,
        SUPER_RESOLUTION,
        VIRTUAL_STAINING,
        CROSS_MODAL,
        COUNTERFACTUAL,
    )
}


def get_task(name: str) -> Task:
    """The task of this name.

    Raises:
        PromptError: there is none.
    """
    if name not in TASKS:
        raise PromptError("Unknown task", value=name, remedy=f"Use one of {', '.join(TASKS)}")
    return TASKS[name]
