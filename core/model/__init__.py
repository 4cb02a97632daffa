"""The network. It knows tokens, patches and latents, and nothing of text, files or widgets."""

import logging

# diffusers imports xformers wherever it is installed; without a GPU that prints six lines about kernels that
# nobody asked for (attention.py takes torch's there).
logging.getLogger("xformers").setLevel(logging.ERROR)
