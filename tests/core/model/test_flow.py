"""The guidance interval, whose bounds decide for whole steps."""

import pytest
import torch

from core.config import ImageSampling
from core.model.flow import active_scales, guided, schedule


@pytest.mark.parametrize(("interval", "steps"), [((0.4, 1.0), 3), ((0.0, 0.8), 4), ((0.2, 0.8), 3), ((0.0, 1.0), 5)])
def test_the_lower_bound_is_outside_and_the_upper_inside(interval, steps):
    """Six timesteps of shift 1 lie at 1, 0.8, 0.6, 0.4 and 0.2, none of which a float32 holds exactly."""
    settings = ImageSampling(num_timesteps=6, timestep_shift=1.0, cfg_interval=interval)
    times, _ = schedule(6, 1.0)
    assert sum(active_scales(t, settings) != (1.0, 1.0) for t in times.tolist()) == steps


def test_no_text_guidance_means_no_image_guidance():
    settings = ImageSampling(cfg_text_scale=1.0, cfg_img_scale=2.0)
    assert active_scales(0.9, settings) == (1.0, 1.0)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_renorm_never_enlarges(renorm):
    full, text_free, image_free = torch.randn(3, 6, 64, generator=torch.Generator().manual_seed(0))
    settings = ImageSampling(cfg_renorm_type=renorm)
    v = guided(full, text_free, image_free, (4.0, 1.0), settings)
    assert v.norm() <= full.norm() * (1 + 1e-5)
