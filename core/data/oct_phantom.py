"""Simulated retinal OCT B-scans: layered retina, foveal pit, drusen, fluid, shadow and speckle.

Openly licensed OCT is too scarce to train on, so the nano checkpoint learns the look of the modality from
this phantom. It is a drawing, not physics: reflectivities are relative and chosen by eye, speckle is the
fully developed multiplicative kind (Goodman 2007, chapter 3).
"""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage
from scipy.ndimage import gaussian_filter, gaussian_filter1d

LAYERS = (  # thickness as a fraction of the retina, reflectivity from 0 to 1; inner surface first
    (0.10, 0.80),  # nerve fibre layer
    (0.16, 0.50),  # ganglion cells, inner plexiform
    (0.12, 0.28),  # inner nuclear
    (0.08, 0.48),  # outer plexiform
    (0.22, 0.20),  # outer nuclear
    (0.05, 0.72),  # ellipsoid zone
    (0.07, 0.35),  # outer segments
    (0.08, 0.95),  # pigment epithelium
    (0.12, 0.55),  # choriocapillaris
)
FINDINGS = ("normal", "drusen", "fluid")


def b_scan(seed: int, finding: str, height: int = 128, width: int = 176) -> PILImage.Image:
    """One scan as an 8-bit RGB image [height, width].

    The same seed gives the same eye with the same speckle, whatever the ``finding`` (one of ``FINDINGS``) is: two
    scans of a seed are a counterfactual pair whose truth is known.
    """
    rng, lesions = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    x = np.linspace(-1, 1, width)
    tilt, bow = 0.10 * rng.standard_normal(), 0.08 * rng.random()
    base = height * (0.62 + 0.06 * rng.standard_normal() + tilt * x + bow * x**2)
    thickness = height * (0.30 + 0.06 * rng.random()) * np.ones(width)
    fovea, depth = rng.uniform(-0.5, 0.5), rng.uniform(0.25, 0.55)
    pit = depth * np.exp(-((x - fovea) ** 2) / (2 * rng.uniform(0.10, 0.18) ** 2))
    rows = np.arange(height)[:, None]
    bumps = np.zeros(width)
    if finding == "drusen":
        for _ in range(lesions.integers(2, 7)):
            tall, place, wide = lesions.uniform(2, 6), lesions.uniform(-0.9, 0.9), lesions.uniform(0.03, 0.09)
            bumps += tall * np.exp(-((x - place) ** 2) / (2 * wide**2))
    inner_fraction = sum(t for t, _ in LAYERS[:5])
    scan = np.full((height, width), 0.04)
    bottom_of_retina = base - bumps
    top = bottom_of_retina - thickness * (1 - pit * inner_fraction)
    for fraction, reflectivity in LAYERS:
        band = thickness * fraction * (1 - pit if fraction and reflectivity < 0.7 else 1)
        scan = np.where((rows >= top) & (rows < top + band), reflectivity, scan)
        top = top + band
    below = np.clip((rows - top) / (height * 0.25), 0, 3)
    scan = np.where(rows >= top, 0.42 * np.exp(-below), scan)
    if finding == "fluid":
        for _ in range(lesions.integers(1, 5)):
            cx, ry = fovea + lesions.uniform(-0.3, 0.3), lesions.uniform(0.03, 0.08) * height
            rx, cy = lesions.uniform(0.05, 0.16), np.interp(cx, x, base) - thickness[0] * lesions.uniform(0.3, 0.6)
            scan = np.where(((rows - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1, 0.05, scan)
    shadows = 1 - 0.6 * gaussian_filter1d((rng.random(width) < 0.02).astype(float), 1.2, mode="nearest")
    scan = gaussian_filter(scan, 0.7) * (0.85 + 0.15 * gaussian_filter1d(rng.standard_normal(width), 6)) * shadows
    speckle = gaussian_filter(rng.gamma(rng.uniform(2.5, 8), 1.0, scan.shape), (0.4, 0.7))
    scan = scan * speckle / speckle.mean() + 0.03 * rng.random(scan.shape)
    grey = (255 * np.clip(scan * rng.uniform(0.8, 1.1), 0, 1) ** rng.uniform(0.6, 0.9)).astype(np.uint8)
    return PILImage.fromarray(grey).convert("RGB")
