"""Which tensors of a checkpoint the vectors do not notice: ``python -m tests.parity.sensitivity FOLDER``.

Each tensor in turn is made 1% larger in memory and the groups are replayed until one fails. Some tensors can never be
noticed, because what follows cancels the change, whatever implements it: the key biases of the vision encoder and of
the autoencoder add the same number to all scores of a query, which the softmax takes out again; and where every group
of a group norm is one channel, as in the tiny autoencoder, a convolution before it may be scaled or shifted freely, and
so may what is added to all pixels of a channel at the decoder's finest level, where nothing but such norms follows.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

from core.model.checkpoint import Entry, expected_tensors
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


def cancels(entry: Entry, norm_groups: int) -> bool:
    """Whether what follows a tensor takes a change of its scale out again, in any implementation."""
    if re.search(r"(vision_model.*self_attn\.k_proj|mid\.attn_1\.k)\.bias$", entry.key):
        return True  # the same number on all scores of a query
    before_a_norm = re.search(r"(block\.\d+|block_\d)\.conv1\.(weight|bias)$", entry.key)
    finest = r"decoder\.up\.(1\.upsample\.conv|0\.block\.\d+\.(conv2|nin_shortcut))\.bias$"
    one_channel = entry.shape[0] == norm_groups  # in a group of the norm
    return one_channel and bool(before_a_norm or re.match(finest, entry.key))


def unnoticed_tensors(folder: Path) -> dict[str, bool]:
    """Official names of the tensors that can change by 1% without any group failing, and whether they must."""
    reference = Reference(folder)
    main, vae = expected_tensors(reference.model)
    state, missed = reference.model.state_dict(), {}
    for entry in main + vae:
        tensor = state[entry.parameter]
        original = tensor.clone()
        tensor.copy_(original * 1.01)
        if not noticed(folder, reference):
            missed[entry.key] = cancels(entry, reference.config.vae.norm_num_groups)
        tensor.copy_(original)
    return missed


if __name__ == "__main__":
    found = unnoticed_tensors(Path(sys.argv[1]))
    for key, expected in found.items():
        print(key, "(cancels)" if expected else "UNNOTICED")
    sys.exit(0 if all(found.values()) else 1)
