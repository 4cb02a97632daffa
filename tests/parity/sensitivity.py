"""Which tensors of a checkpoint the vectors do not notice: ``python -m tests.parity.sensitivity FOLDER``.

Each tensor in turn is made 1% larger in memory and the groups are replayed until one fails. Some tensors can never be
noticed, because what follows cancels the change, whatever implements it: the key biases of the vision encoder and of
the autoencoder add the same number to all scores of a query, which the softmax takes out again; and where every group
of a group norm is one channel, as in the tiny autoencoder, a convolution before it may be scaled or shifted freely.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

from core.model.checkpoint import expected_tensors
from tests.parity.groups import GROUPS, Reference
from tests.parity.vectors import Group

QUICKEST_FIRST = ("00_units", "03_vit", "05_vae", "04_understand", "06_generate", "07_train", "08_inferencer")


def noticed(folder: Path, reference: Reference) -> bool:
    """True when some group fails."""
    for name in QUICKEST_FIRST:
        group = Group(folder, name)
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                GROUPS[name](group, reference)
            except Exception:  # a pass that breaks has noticed
                return True
            if not group.finish():
                return True
    return False


def unnoticed_tensors(folder: Path) -> list[str]:
    """Official names of the tensors that can change by 1% without any group failing."""
    reference = Reference(folder)
    main, vae = expected_tensors(reference.model)
    state, missed = reference.model.state_dict(), []
    for entry in main + vae:
        tensor = state[entry.parameter]
        original = tensor.clone()
        tensor.copy_(original * 1.01)
        if not noticed(folder, reference):
            missed.append(entry.key)
        tensor.copy_(original)
    return missed


if __name__ == "__main__":
    for key in unnoticed_tensors(Path(sys.argv[1])):
        print(key)
