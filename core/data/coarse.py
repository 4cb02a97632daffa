"""The input of super-resolution: a picture that has lost its fine detail, at its old size."""

from PIL import Image as PILImage


def coarse(image: PILImage.Image, side: int = 16) -> PILImage.Image:
    """The picture averaged (BOX) until its longest side has ``side`` pixels, then interpolated (BICUBIC) to its size.

    A picture that is no larger than ``side`` comes back as it is. Mode and size stay.
    """
    k = side / max(image.size)
    if k >= 1:
        return image.copy()
    small = image.resize([max(1, round(length * k)) for length in image.size], PILImage.Resampling.BOX)
    return small.resize(image.size, PILImage.Resampling.BICUBIC)
