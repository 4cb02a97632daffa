"""Sizes of a model and settings of the program. Nothing here loads torch.

Field names are those of the official JSON files, so that a configuration is a file read and nothing more.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from dataclasses import dataclass, field, fields
from pathlib import Path

from core.errors import CheckpointError, SettingsError

ROOT = Path(__file__).resolve().parent.parent
NANO = ROOT / "assets" / "nano"
LEARN_RECIPES = ROOT / "core" / "training" / "recipes" / "learn"
STUDIO_PORT = 8501
COMPARE = 40
"""So many requests two versions answer where nothing else is said, for people to compare."""


@dataclass(frozen=True)
class LLMConfig:
    """Mixture-of-Transformers decoder (Qwen2.5 with query/key norms and a second, generating expert)."""

    hidden_size: int = 3584
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    intermediate_size: int = 18944
    vocab_size: int = 152064
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class ViTConfig:
    """SigLIP vision encoder. The official file counts one layer more than the checkpoint holds."""

    hidden_size: int = 1152
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    intermediate_size: int = 4304
    image_size: int = 980
    patch_size: int = 14
    num_channels: int = 3
    layer_norm_eps: float = 1e-6

    @property
    def used_layers(self) -> int:
        return self.num_hidden_layers - 1

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patch_dim(self) -> int:
        return self.num_channels * self.patch_size**2


@dataclass(frozen=True)
class VAEConfig:
    """FLUX autoencoder. Official folders carry no such file: these defaults are its constants."""

    in_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    norm_num_groups: int = 32
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159

    @property
    def downsample(self) -> int:
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class ResizeRule:
    """Limits of one image transform: sides and stride in pixels, area in pixels (spec section 3.2)."""

    max_image_size: int
    min_image_size: int
    stride: int
    max_pixels: int = 14 * 14 * 9 * 1024


@dataclass(frozen=True)
class ImageSampling:
    """How an image is drawn (spec section 9). The defaults are those of the reference's interleaved inferencer."""

    num_timesteps: int = 50
    timestep_shift: float = 3.0
    cfg_text_scale: float = 3.0
    cfg_img_scale: float = 1.5
    cfg_interval: tuple[float, float] = (0.4, 1.0)
    cfg_renorm_type: str = "global"
    cfg_renorm_min: float = 0.0
    size: tuple[int, int] = (1024, 1024)
    """Height and width in pixels, where no input image dictates them."""

    def __post_init__(self) -> None:
        _need_finite(self, "timestep_shift", "cfg_text_scale", "cfg_img_scale", "cfg_renorm_min", "cfg_interval")
        if self.cfg_renorm_type not in RENORMS:
            raise SettingsError("Unknown renorm", value=self.cfg_renorm_type, remedy=f"Use one of {RENORMS}")
        if self.num_timesteps < 2:
            raise SettingsError("num_timesteps must be at least 2", value=self.num_timesteps, remedy="N is N-1 steps")
        if self.timestep_shift <= 0:
            raise SettingsError("timestep_shift must be positive", value=self.timestep_shift, remedy="Try 1 or 3")


RENORMS = ("global", "channel", "text_channel")


def _need_finite(settings: object, *names: str) -> None:
    """Refuses settings that are not finite numbers."""
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float) or not math.isfinite(number):
                raise SettingsError(f"{name} must be a finite number", value=value, remedy="Give a number such as 1.5")


@dataclass(frozen=True)
class TextSampling:
    """How text is drawn (spec section 8): greedy when ``temperature`` is zero."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    suppress_special: bool = True
    """Never write a marker but the end of the text. The reference does not suppress them."""

    def __post_init__(self) -> None:
        _need_finite(self, "temperature", "top_p")
        if self.max_new_tokens < 1:
            raise SettingsError("max_new_tokens must be at least 1", value=self.max_new_tokens, remedy="Try 128")
        if self.temperature < 0:
            raise SettingsError("temperature must not be negative", value=self.temperature, remedy="0 means greedy")
        if not 0 < self.top_p <= 1:
            raise SettingsError("top_p must lie in (0, 1]", value=self.top_p, remedy="1 switches it off")


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a checkpoint folder that is not a tensor."""

    llm: LLMConfig = field(default_factory=LLMConfig)
    vit: ViTConfig = field(default_factory=ViTConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    latent_patch_size: int = 2
    max_latent_size: int = 64
    timestep_shift: float = 1.0
    vae_resize: ResizeRule = ResizeRule(1024, 32, 16)
    vit_resize: ResizeRule = ResizeRule(980, 387, 14)
    chat_resize: ResizeRule = ResizeRule(980, 378, 14, 2_007_040)
    image: ImageSampling = field(default_factory=ImageSampling)
    edit: ImageSampling | None = None
    """How an image is drawn out of another one; None means like any other."""
    text: TextSampling = field(default_factory=TextSampling)
    vit_max_num_patch_per_side: int | None = None
    version: str = ""
    untrained_tasks: tuple[str, ...] = ()
    """Tasks that the weights run but never learned; what they put out means nothing."""

    @property
    def vit_table_side(self) -> int:
        """Side of the table of positions that ViT tokens get on their way into the decoder."""
        return self.vit_max_num_patch_per_side or self.vit.patches_per_side

    @property
    def latent_stride(self) -> int:
        """Pixels on a side of one latent token."""
        return self.vae.downsample * self.latent_patch_size

    @property
    def latent_dim(self) -> int:
        """Values of one latent token."""
        return self.vae.z_channels * self.latent_patch_size**2

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Reads the JSON files of a checkpoint folder.

        ``llm_config.json`` and ``vit_config.json`` are required. ``vae_config.json``, and the keys ``version``,
        ``untrained_tasks``, ``resize`` and ``sampling`` of the other files, are ours: official folders have none of
        them and get the constants of the reference.
        """
        model = _read(folder / "config.json", optional=True)
        resize = _read(folder / "preprocessor_config.json", optional=True).get("resize", {})
        sampling = _read(folder / "generation_config.json", optional=True).get("sampling", {})
        default = cls()
        return cls(
            llm=_build(LLMConfig, _read(folder / "llm_config.json")),
            vit=_build(ViTConfig, _read(folder / "vit_config.json")),
            vae=read_vae_config(folder),
            latent_patch_size=model.get("latent_patch_size", default.latent_patch_size),
            max_latent_size=model.get("max_latent_size", default.max_latent_size),
            timestep_shift=model.get("timestep_shift", default.timestep_shift),
            vae_resize=_build(ResizeRule, resize["vae"]) if "vae" in resize else default.vae_resize,
            vit_resize=_build(ResizeRule, resize["vit"]) if "vit" in resize else default.vit_resize,
            chat_resize=_build(ResizeRule, resize["chat"]) if "chat" in resize else default.chat_resize,
            image=_build(ImageSampling, sampling.get("image", {})),
            edit=_build(ImageSampling, sampling["edit"]) if "edit" in sampling else None,
            text=_build(TextSampling, sampling.get("text", {})),
            vit_max_num_patch_per_side=model.get("vit_max_num_patch_per_side"),
            version=model.get("version", ""),
            untrained_tasks=tuple(model.get("untrained_tasks", ())),
        )


def read_vae_config(folder: Path) -> VAEConfig:
    """Sizes of the autoencoder in a folder; FLUX's where there is no ``vae_config.json``."""
    return _build(VAEConfig, _read(folder / "vae_config.json", optional=True))


def _read(path: Path, *, optional: bool = False) -> dict:
    if optional and not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise CheckpointError(f"{path.name} must hold a JSON object", remedy="Copy the file again")
        return values
    except FileNotFoundError as error:
        raise CheckpointError(
            "The checkpoint folder lacks a file", value=path.name, remedy=f"Put it into {path.parent}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path.name} is not valid JSON ({error})", remedy="Copy the file again") from error


def _build(cls: type, values: dict):
    """An instance of a dataclass from the keys that it knows; lists become tuples, other keys are ignored."""
    known = {f.name for f in fields(cls)}
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})
    except TypeError as error:
        raise CheckpointError(f"Cannot read {cls.__name__} ({error})", remedy="Compare with assets/nano") from error


def default_model() -> str:
    """The checkpoint used when none is named: ``UNIMED_MODEL``, else the nano checkpoint that ships."""
    return os.environ.get("UNIMED_MODEL", str(NANO))


def revision() -> str:
    """Which code this is, as git names it; in a container ``UNIMED_REVISION`` says so. Empty where nothing does."""
    if named := os.environ.get("UNIMED_REVISION"):
        return named
    try:
        command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def data_folder() -> Path:
    """Where feedback is kept: ``UNIMED_DATA``, else a Space's persistent storage, else ``feedback`` in the project."""
    if named := os.environ.get("UNIMED_DATA"):
        return Path(named)
    persistent = Path("/data")
    return persistent / "feedback" if os.environ.get("SPACE_ID") and persistent.is_dir() else ROOT / "feedback"


def database_url(folder: Path) -> str:
    """The feedback's database: ``UNIMED_DATABASE`` (such as ``postgresql+psycopg://…``), else SQLite in the folder."""
    return os.environ.get("UNIMED_DATABASE", f"sqlite:///{(folder / 'feedback.sqlite').resolve()}")


def pictures_place(folder: Path) -> str:
    """Where the feedback's pictures are: ``UNIMED_PICTURES`` (a folder, or a URL that fsspec knows, such as
    ``s3://BUCKET/FOLDER``), else in the folder."""
    return os.environ.get("UNIMED_PICTURES", str(folder / "pictures"))


def versions_folder(data: Path) -> Path:
    """Where learned model versions lie, a folder each: in that of the feedback."""
    return data / "versions"


def records_file() -> Path | None:
    """The records on which every task of a learned version is evaluated: ``UNIMED_RECORDS``; None where it is not
    set."""
    named = os.environ.get("UNIMED_RECORDS")
    return Path(named) if named else None


def is_lasting(folder: Path) -> bool:
    """Whether what is kept there, or in the named database, outlives this program: on a Space only with storage."""
    return not os.environ.get("SPACE_ID") or "UNIMED_DATABASE" in os.environ or folder.is_relative_to("/data")


def mirror_settings() -> tuple[str, str] | None:
    """Dataset repository that the feedback is copied to (``UNIMED_FEEDBACK_REPO``) and the token for it (``HF_TOKEN``);
    None where one of them is not set."""
    repo, token = os.environ.get("UNIMED_FEEDBACK_REPO"), os.environ.get("HF_TOKEN")
    return (repo, token) if repo and token else None
