"""Scores a checkpoint beside naive baselines. What a command line says of it stands here, where no torch is loaded."""

HELP = (
    "what Fréchet distances are measured in: small (a classifier trained on the spot, comparable only within one run), "
    "or the hub id or folder of an image network that transformers' AutoModel loads: CLIP and its like, ViT, DINOv2, "
    "ResNet. Inception is not among them, and BiomedCLIP in open_clip's format needs a converted copy (default: small)"
)
"""Help of the option --features. It holds no per cent sign, which argparse would take for a placeholder."""
