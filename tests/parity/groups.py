"""One function for each group of vectors."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from functools import cache
from pathlib import Path

import torch
from PIL import Image as PILImage
from torch import Tensor

from core.config import ImageSampling, ResizeRule, TextSampling
from core.data.images import to_rgb
from core.data.packing import DropRates, LatentItem, TextItem, ViTItem, pack
from core.data.transforms import (
    patchify,
    position_ids,
    resize,
    resized_size,
    to_image,
    to_tensor,
    unpatchify,
)
from core.inference.events import SegmentDone
from core.inference.generator import THINK_PROMPTS, Generator
from core.inference.session import Contexts, Turn
from core.model.cache import KVCache
from core.model.checkpoint import load, official_key
from core.model.flow import guided, schedule, sinusoid
from core.model.objective import packed_losses
from core.model.transformer import Rotary
from core.model.unified import LatentPiece, TextPiece
from core.model.vit import sincos_table
from core.sequence import Image, Text
from tests.parity.vectors import Group, sha256_of

TIME = r"\d+(?:\.\d+)?"
MARKERS = {"bos_token_id": "bos", "eos_token_id": "eos", "start_of_image": "soi", "end_of_image": "eoi"}


class Reference:
    """The checkpoint and images of a folder, and the generator under test in float32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = load(folder / "ckpt", torch.device("cpu"), torch.float32)
        self.about = json.loads((folder / "vectors" / "01_preprocess.json").read_text(encoding="utf-8"))
        self.rules = {name: ResizeRule(**rule) for name, rule in self.about["transforms"].items()}
        self.model, self.tokenizer = self.checkpoint.model, self.checkpoint.tokenizer
        self.model.config = dataclasses.replace(
            self.model.config,
            vae_resize=self.rules["small_vae"],
            vit_resize=self.rules["small_vit"],
            chat_resize=self.rules["small_vit"],
        )
        self.config = self.model.config
        self.generator = Recorder(self.checkpoint)
        self.last_grid = torch.zeros(0, dtype=torch.long)  # of the image drawn in the packing sequence

    @cache  # noqa: B019 - one reference lives as long as the program
    def picture(self, name: str) -> PILImage.Image:
        with PILImage.open(self.folder / self.about["images"][name]["file"]) as file:
            return to_rgb(file, reference=True)

    def vae_picture(self, name: str) -> PILImage.Image:
        return resize(self.picture(name), self.rules["small_vae"])

    def vit_picture(self, name: str, *, chained: bool = False) -> PILImage.Image:
        return resize(self.vae_picture(name) if chained else self.picture(name), self.rules["small_vit"])

    def described(self, array: str, pattern: str) -> re.Match:
        """What the set's README says of an array, for settings that stand nowhere else."""
        text = (self.folder / "README.md").read_text(encoding="utf-8")
        row = next((line for line in text.splitlines() if line.startswith(f"| {array} |")), "")
        if found := re.search(pattern, row):
            return found
        raise ValueError(f"README.md does not describe {array} as expected: {row!r}")

    def candidates(self, size: list[int]) -> list[str]:
        """Images whose autoencoder size is this (width, height)."""
        return [name for name in self.about["images"] if list(self.vae_picture(name).size) == list(size)]

    def run(self, pieces: list) -> list[Tensor | None]:
        return self.model.step(pieces, self.tokenizer.soi, self.tokenizer.eoi)

    def text(self, kv: KVCache, ids: list[int]) -> None:
        self.run([TextPiece(kv, ids)])


class Recorder(Generator):
    """A generator that notes what every drawn image started from and ended in."""

    def __init__(self, checkpoint) -> None:
        super().__init__(checkpoint)
        self.drawn: list[tuple[list[tuple[int, int]], Tensor]] = []

    def draw(self, contexts: Contexts, *arguments):
        state = [(c.length, c.position) for c in (contexts.full, contexts.text_free, contexts.image_free)]
        tokens = yield from super().draw(contexts, *arguments)
        self.drawn.append((state, tokens))
        return tokens


class HiddenStates:
    """Notes the hidden states of one pass: the input, after each layer, after the final norms."""

    def __init__(self, ref: Reference) -> None:
        lm = ref.model.language_model
        self.states: list[Tensor] = []
        self.layout = None
        self.hooks = [lm.register_forward_pre_hook(self._start), lm.register_forward_hook(self._note)]
        self.hooks += [layer.register_forward_hook(self._note) for layer in lm.layers]

    def _start(self, _module, arguments) -> None:
        und, gen, self.layout, _ = arguments
        self.states = [torch.cat([und, gen])[self.layout.merge]]

    def _note(self, _module, _arguments, output) -> None:
        self.states.append(torch.cat(output)[self.layout.merge])

    def __enter__(self) -> HiddenStates:
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()

    def stacked(self) -> Tensor:
        return torch.stack(self.states)


def units(group: Group, ref: Reference) -> None:
    for entry in group.json["schedules"]:
        times, steps = schedule(entry["num_timesteps"], entry["timestep_shift"])
        label = f"schedule {entry['num_timesteps']}/{entry['timestep_shift']}"
        group.floats(f"{label} times", times, entry["times"])
        group.floats(f"{label} steps", steps, entry["dt"])
    for name, number in group.json["special_token_ids"].items():
        group.equal(f"special token {name}", getattr(ref.tokenizer, MARKERS[name]), number)
    t = group.read("time.t")
    group.array("time.sinusoid", sinusoid(t))
    group.array("time.embedding", ref.model.time_embedder(t))
    for name in group.names:
        if match := re.fullmatch(r"sincos\.dim(\d+)_side(\d+)", name):
            group.array(name, sincos_table(int(match[2]), int(match[1])))
    width = ref.config.llm.hidden_size
    for kind, table, side in (
        ("latent", ref.model.latent_pos_embed, ref.config.max_latent_size),
        ("vit", ref.model.vit_pos_embed, ref.config.vit_table_side),
    ):
        rows = group.read(f"sincos.{kind}_rows_idx")
        formula = sincos_table(side, width)
        group.array(f"sincos.{kind}_rows", formula[rows])
        off = float((table - formula).abs().max())  # a set may store it rounded to bfloat16, by up to 2^-9
        group.equal(f"stored {kind} table is the formula's", off < 4e-3, True)
    positions = group.read("rope.positions")
    rotary = Rotary(positions, ref.config.llm.head_dim, ref.config.llm.rope_theta)
    group.array("rope.cos", rotary.cos)
    group.array("rope.sin", rotary.sin)


def preprocess(group: Group, ref: Reference) -> None:
    for name, about in group.json["images"].items():
        rgb = ref.picture(name)
        group.equal(f"{name} size", [rgb.width, rgb.height], [about["width"], about["height"]])
        group.equal(f"{name} rgb", sha256_of(rgb), about["rgb_sha256"])
        means = to_tensor(rgb).double().mean((1, 2)) * 127.5 + 127.5
        group.floats(f"{name} mean", means, about["rgb_mean"])
        for rule, expected in about["transforms"].items():
            _check_resized(group, f"{name} {rule}", resize(rgb, ref.rules[rule]), expected)
        for chain, expected in about.items():
            if match := re.fullmatch(r"chained_(\w+)_then_(\w+)|(\w+)_applied_twice", chain):
                first, second = ref.rules[match[1] or match[3]], ref.rules[match[2] or match[3]]
                _check_resized(group, f"{name} {chain}", resize(resize(rgb, first), second), expected)
    for entry in group.json["size_table"]:
        for rule, size in entry["out"].items():
            _check_size(group, entry, rule, size, ref)
    for entry in group.json["target_size_table"]:
        for key in (k for k in entry if k.endswith("_HW")):
            w, h = resized_size(entry["width"], entry["height"], ref.rules[key.removesuffix("_HW")])
            group.equal(f"target size {entry['width']}x{entry['height']} {key}", [h, w], entry[key])
    for key, e in group.json["position_ids"].items():
        grid = (e["h"] // e["patch"], e["w"] // e["patch"], e["side"])
        group.equal(f"position ids {key}", position_ids(*grid).tolist(), e["extrapolate"])
        group.equal(f"interpolated {key}", position_ids(*grid, interpolate=True).tolist(), e["interpolate"])
    _preprocess_arrays(group, ref)


def _check_resized(group: Group, what: str, image: PILImage.Image, expected: dict) -> None:
    group.equal(f"{what} size", [image.width, image.height], [expected["width"], expected["height"]])
    if hashes := [value for key, value in expected.items() if "sha256" in key]:
        group.equal(f"{what} pixels", sha256_of(image) in hashes, True)
    if "tensor_mean" in expected:
        tensor = to_tensor(image).double()
        group.floats(f"{what} mean", tensor.mean((1, 2)), expected["tensor_mean"])
        deviations = [tensor.std((1, 2), correction=c) for c in (0, 1)]
        closest = min(deviations, key=lambda s: (s - torch.tensor(expected["tensor_std"])).abs().max())
        group.floats(f"{what} std", closest, expected["tensor_std"])


def _check_size(group: Group, entry: dict, rule: str, size: list, ref: Reference) -> None:
    name, _, count = rule.partition("/img_num=")
    ours = list(resized_size(entry["width"], entry["height"], ref.rules[name], int(count or 1)))
    group.equal(f"size {entry['width']}x{entry['height']} {rule}", ours, size)


def _preprocess_arrays(group: Group, ref: Reference) -> None:
    patch = ref.config.vit.patch_size
    for name in group.names:
        parts = name.split(".")
        if parts[0] == "latent_patchify":
            continue
        rgb = ref.picture(parts[0])
        pixels = _uint8(rgb)
        if parts[1] == "rgb_sample":
            strides = max(1, rgb.height // 12), max(1, rgb.width // 12)
            group.equal(name, pixels[:: strides[0], :: strides[1]].tolist(), group.read(name).tolist())
            continue
        resized = resize(rgb, ref.rules[parts[1]])
        tensor = to_tensor(resized)
        ours = {
            "sample": lambda r=resized: _uint8(r)[5::41, 3::37],
            "uint8": lambda r=resized: _uint8(r),
            "tensor": lambda t=tensor: t,
            "patches": lambda t=tensor: patchify(t, patch),
        }[parts[2]]()
        group.array(name, ours)
    counting, tokens = group.read("latent_patchify.in"), group.read("latent_patchify.out")
    side = ref.config.latent_patch_size
    group.floats("latent_patchify", patchify(counting, side), tokens)
    grid = (counting.shape[1] // side, counting.shape[2] // side)
    group.floats("latent_unpatchify", unpatchify(tokens, *grid, side), counting)


def _uint8(image: PILImage.Image) -> Tensor:
    return (to_tensor(image).permute(1, 2, 0) * 127.5 + 127.5).round().to(torch.uint8)


def packing(group: Group, ref: Reference) -> None:
    """Token ids, positions and cache lengths of an interleaved context, step by step."""
    for name, prompt in group.json["prompts"].items():
        group.equal(f"ids of {name}", ref.tokenizer.encode(prompt["text"], parse_special=True), prompt["token_ids"])
        with_markers = ref.tokenizer.segment(prompt["text"], parse_special=True)
        group.equal(f"segment {name}", with_markers, prompt["with_markers"])
    for entry in group.json["decode"]:
        group.equal(f"decoded {entry['ids'][:4]}", ref.tokenizer.decode(entry["ids"]), entry["text"])
    kv = ref.model.new_cache()
    for step in group.json["sequence"]:
        inputs = {k: v.get("values") if isinstance(v, dict) else v for k, v in step["inputs"].items()}
        _packing_step(group, ref, step, inputs, kv)
        if "kv_lens" in step and not step["step"].startswith("the same"):
            group.equal(f"{step['step']}: cache length", [kv.length], step["kv_lens"])
            group.equal(f"{step['step']}: next position", [kv.position], step["ropes"])


def _packing_step(group: Group, ref: Reference, step: dict, inputs: dict, kv: KVCache) -> None:
    """Compares what the reference fed in one step with what we feed, then runs it where it writes."""
    name, before = step["step"], kv.length

    def same(key: str, ours: list) -> None:
        if inputs.get(key) is not None:
            group.equal(f"{name}: {key}", ours, inputs[key])

    if name == "text":
        piece = TextPiece(kv, inputs["packed_text_ids"])
    elif name == "start of text generation":
        piece = TextPiece(kv, [ref.tokenizer.bos])
        same("packed_start_tokens", piece.ids)
        same("packed_query_position_ids", _positions(ref, piece))
        same("key_values_lens", [before])
        same("packed_key_value_indexes", list(range(before)))
        return
    elif name.startswith("the same"):
        other = ref.model.new_cache()
        other.length, other.position = inputs["cfg_key_values_lens"][0], int(re.search(r"rope (\d+)", name)[1])
        grid = ref.last_grid
        piece = LatentPiece(other, torch.zeros(len(grid), ref.config.latent_dim), grid, 1.0)
        positions = _positions(ref, piece)
        same("cfg_packed_position_ids", positions)
        same("cfg_packed_query_indexes", list(range(other.length, other.length + len(positions))))
        same("cfg_packed_key_value_indexes", list(range(other.length)))
        return
    else:
        piece = _image_piece(group, ref, step, kv)
    layout, _, _ = ref.model.pack([piece], ref.tokenizer.soi, ref.tokenizer.eoi)
    positions = layout.positions.tolist()
    same("packed_position_ids", positions)
    same("packed_text_position_ids", positions)
    same("packed_vae_token_indexes", layout.latents.tolist())
    same("packed_seqlens", [len(positions)])
    same("packed_indexes", list(range(before, before + len(positions))))
    same("packed_key_value_indexes", list(range(before)))
    same("key_values_lens", [before])
    if name == "text":
        same("text_token_lens", [len(positions)])
        same("packed_text_indexes", list(range(before, before + len(positions))))
    else:
        same("packed_text_ids", [ref.tokenizer.soi, ref.tokenizer.eoi])
        same("packed_text_indexes", [0, len(positions) - 1])
        same("packed_vit_token_indexes", list(range(1, len(positions) - 1)))
        same("packed_vae_position_ids", piece.position_ids.tolist())
        same("packed_vit_position_ids", piece.position_ids.tolist())
        same("vit_token_seqlens", [len(positions) - 2])
    if not layout.blocks[0].noised:
        ref.run([piece])


def _positions(ref: Reference, piece) -> list[int]:
    return ref.model.pack([piece], ref.tokenizer.soi, ref.tokenizer.eoi)[0].positions.tolist()


def _image_piece(group: Group, ref: Reference, step: dict, kv: KVCache):
    """The image block of a step; its picture is the one whose sizes fit."""
    name, inputs = step["step"], step["inputs"]
    if name == "vae image":
        height, width = inputs["padded_images"]["shape"][2:]
        image = ref.candidates([width, height])[0]  # only its size matters here
        piece = ref.generator.latent_piece(kv, ref.vae_picture(image), torch.Generator().manual_seed(0))
        grid = [[height // ref.config.latent_stride, width // ref.config.latent_stride]]
        group.equal(f"{name}: grid", inputs["patchified_vae_latent_shapes"], grid)
        return piece
    if name == "vit image":
        options = [ref.vit_picture(name, chained=c) for name in ref.about["images"] for c in (False, True)]
        pieces = [ref.generator.vit_piece(kv, picture) for picture in options]
        ids = inputs["packed_vit_position_ids"]["values"]
        return next(p for p in pieces if p.position_ids.tolist() == ids)
    size = tuple(int(n) for n in re.search(r"(\d+)x(\d+) pixels", name).groups())
    noise = ref.generator.noise(size, torch.Generator().manual_seed(0))
    group.equal(f"{name}: noise", list(noise.shape), inputs["packed_init_noises"]["shape"])
    ref.last_grid = position_ids(*ref.generator.latent_grid(size), ref.config.max_latent_size)
    return LatentPiece(kv, noise, ref.last_grid, 1.0)


def vision(group: Group, ref: Reference) -> None:
    patches, ids, lengths = group.read("patches"), group.read("position_ids"), group.read("seqlens").tolist()
    start = 0
    for number, length in enumerate(lengths):
        part, grid = patches[start : start + length], ids[start : start + length]
        ours = [ref.generator.vit_piece(ref.model.new_cache(), ref.vit_picture(name)) for name in ref.about["images"]]
        ours = [p for p in ours if len(p.patches) == length and p.position_ids.tolist() == grid.tolist()]
        closest = min(ours, key=lambda p, part=part: (p.patches - part).abs().max())
        group.floats(f"patches of image {number}", closest.patches, part)
        start += length
    group.array("embeddings", ref.model.vit.embed(patches, ids))
    out = ref.model.vit(patches, ids, lengths)
    group.array("vit_out", out)
    group.array("connector_out", ref.model.connector(out))
    group.array("llm_input", ref.model.embed_vit(patches, ids, lengths))


def understand(group: Group, ref: Reference) -> None:
    for name, case in group.json["cases"].items():
        if name == "chat_api":
            _chat(group, ref, case)
            continue
        kv = ref.model.new_cache()
        images = case["image"] if isinstance(case["image"], list) else [case["image"]] if case["image"] else []
        steps = []
        for i, image in enumerate(images):
            piece = ref.generator.vit_piece(kv, ref.vit_picture(image))
            group.array(f"{name}.image{i}.patches", piece.patches)
            group.array(f"{name}.image{i}.position_ids", piece.position_ids)
            steps.append(piece)
        steps.append(TextPiece(kv, ref.tokenizer.segment(case["prompt"], parse_special=True)))
        group.array(f"{name}.prompt_ids", torch.tensor(steps[-1].ids))
        for i, piece in enumerate(steps):
            if piece is steps[-1]:
                group.array(f"{name}.prompt_positions", torch.tensor(_positions(ref, piece)))
            with HiddenStates(ref) as hidden:
                ref.run([piece])
            if f"{name}.step{i}.hidden" in group:
                group.array(f"{name}.step{i}.hidden", hidden.stacked())
        group.equal(f"{name}: cache length", [kv.length], case["kv_len"])
        group.equal(f"{name}: next position", [kv.position], case["next_rope"])
        group.array(f"{name}.prefill.key_cache", kv.keys)
        group.array(f"{name}.prefill.value_cache", kv.values)
        summary = case["cache_summary"]
        group.floats(f"{name}: mean key", kv.keys.abs().mean((1, 2, 3)), summary["key_abs_mean"])
        group.floats(f"{name}: mean value", kv.values.abs().mean((1, 2, 3)), summary["value_abs_mean"])
        _greedy(group, ref, name, kv)
        _stop_run(group, ref, name, case["stop_run"], kv)


def _greedy(group: Group, ref: Reference, name: str, kv: KVCache) -> None:
    """Greedy ids and logits with the end marker ignored."""
    count = len(group.read(f"{name}.greedy_ids"))
    fork, ids, rows = kv.fork(), [ref.tokenizer.bos], []
    for _ in range(count):
        (logits,) = ref.run([TextPiece(fork, [ids[-1]], logits=True)])
        rows.append(logits)
        ids.append(int(logits.argmax()))
    group.array(f"{name}.greedy_ids", torch.tensor(ids[:count]))
    group.array(f"{name}.greedy_logits", torch.stack(rows))


def _write(ref: Reference, kv: KVCache, max_length: int) -> list[int]:
    """Our greedy ids for the reference's length limit, of which the start marker takes one."""
    sampling = TextSampling(max_new_tokens=max_length - 1, suppress_special=False)
    program = ref.generator.write(kv, sampling, torch.Generator())
    out: list[int] = []

    def collect():
        out.extend((yield from program))

    for _ in ref.generator.drive([collect()]):
        pass
    return out


def _stop_run(group: Group, ref: Reference, name: str, run: dict, kv: KVCache) -> None:
    ids = _write(ref, kv, run["max_length"])
    with_start = [ref.tokenizer.bos, *ids]
    group.equal(f"{name}: answer ids", with_start, run["ids"])
    group.equal(f"{name}: answer", ref.tokenizer.decode(with_start), run["text"])
    group.equal(f"{name}: final answer", ref.generator.text_of(ids), run["final_text"])
    group.equal(f"{name}: cache after the answer", kv.length + len(with_start), run["cache_len"])


def _chat(group: Group, ref: Reference, case: dict) -> None:
    """The VQA script's way: a whole turn through the public generator."""
    turn = Turn(
        ref.generator.session(), [Image(ref.picture(case["image"])), Text(case["prompt"])],
        text=TextSampling(max_new_tokens=case["max_length"] - 1, suppress_special=False),
        chained_resize=False, parse_special=True,
    )  # fmt: skip
    done = [e.segment.text for e in ref.generator.stream(turn) if isinstance(e, SegmentDone)]
    group.equal("chat answer", done, [case["text"]])


def autoencoder(group: Group, ref: Reference) -> None:
    x, eps, z = (group.read(name) for name in ("x", "eps", "z"))
    ours = [to_tensor(ref.vae_picture(name))[None] for name in ref.about["images"]]
    ours = [o for o in ours if o.shape == x.shape]
    group.floats("x", min(ours, key=lambda o: (o - x).abs().max()), x)
    with torch.no_grad():
        mean, logvar = ref.model.vae.moments(x)
        group.array("mean", mean)
        group.array("logvar", logvar)
        group.floats("z", ref.model.vae.encode(x, eps), z)
        group.array("decoded", ref.model.vae.decode(z))
    group.array("z_tokens", patchify(z[0], ref.config.latent_patch_size))


def generate(group: Group, ref: Reference) -> None:
    context = group.json["context"]
    picture = ref.vae_picture(context["image"])
    size = tuple(context["shape_hw"])
    edit = Contexts(ref.model, sees_latents=True)
    pixels, eps = to_tensor(picture)[None], group.read("edit.vae_eps")
    group.array("edit.vae_pixels", pixels)
    with torch.inference_mode():
        z = ref.model.vae.encode(pixels, eps)
    group.array("edit.vae_latent", z)
    side = ref.config.latent_patch_size
    grid = position_ids(z.shape[2] // side, z.shape[3] // side, ref.config.max_latent_size)
    ref.run(edit.add_image(LatentPiece(edit.full, patchify(z[0], side), grid)))
    seen = ref.generator.vit_piece(edit.full, ref.vit_picture(context["image"], chained=True))
    group.array("edit.vit_patches", seen.patches)
    group.array("edit.vit_position_ids", seen.position_ids)
    ref.run(edit.add_image(seen))
    edit.after_image()
    ids = ref.tokenizer.segment(context["prompt"], parse_special=True)
    group.array("edit.prompt_ids", torch.tensor(ids))
    ref.run(edit.add_text(ids))
    caches = {"full": edit.full, "cfg_text": edit.text_free, "cfg_img": edit.image_free}
    for name, kv in caches.items():
        group.equal(f"{name}: cache length", [kv.length], context[name]["kv"])
        group.equal(f"{name}: next position", [kv.position], context[name]["rope"])
        if f"edit.{name}.key_cache" in group:
            group.array(f"edit.{name}.key_cache", kv.keys)
            group.array(f"edit.{name}.value_cache", kv.values)
    _velocities(group, ref, edit, size)
    plain = [n for n, run in group.json["runs"].items() if "prompt" not in run]
    for name in plain:
        _sampling_run(group, ref, name, group.json["runs"][name], edit, size)
    _text_to_image(group, ref, size)
    _packed_batch(group, ref)


def _velocities(group: Group, ref: Reference, edit: Contexts, size: tuple[int, int]) -> None:
    """Single velocity calls in the three contexts, and the guided ones."""
    noise = group.read("noise")
    grid = position_ids(*ref.generator.latent_grid(size), ref.config.max_latent_size)
    branches = {"cond": edit.full, "text_uncond": edit.text_free, "img_uncond": edit.image_free}
    for name in group.names:
        if match := re.fullmatch(rf"edit\.v_(cond|text_uncond|img_uncond)\.t({TIME})(\.hidden)?", name):
            with HiddenStates(ref) as hidden:
                (v,) = ref.run([LatentPiece(branches[match[1]], noise, grid, float(match[2]))])
            group.array(name, hidden.stacked() if match[3] else v)
        elif match := re.fullmatch(rf"edit\.v_cfg(?:_textonly)?\.(\w+)\.t({TIME})", name):
            packed = [LatentPiece(kv, noise, grid, float(match[2])) for kv in branches.values()]
            about = ref.described(name, r"text scale ([\d.]+), image scale ([\d.]+)(?:.*?renorm_min ([\d.]+))?")
            settings = ImageSampling(cfg_renorm_type=match[1], cfg_renorm_min=float(about[3] or 0))
            group.array(name, guided(*ref.run(packed), (float(about[1]), float(about[2])), settings))


def _settings(run: dict) -> ImageSampling:
    known = {f.name for f in dataclasses.fields(ImageSampling)}
    return ImageSampling(**{k: tuple(v) if isinstance(v, list) else v for k, v in run.items() if k in known})


def _draw(ref: Reference, jobs: list[tuple[Contexts, tuple[int, int], ImageSampling, Tensor]]) -> list[Tensor]:
    """Final latents of drawings that run packed."""
    out: list[Tensor | None] = [None] * len(jobs)

    def keep(i: int, job):
        out[i] = yield from Generator.draw(ref.generator, *job)

    for _ in ref.generator.drive([keep(i, job) for i, job in enumerate(jobs)]):
        pass
    return out


def _sampling_run(
    group: Group, ref: Reference, name: str, run: dict, contexts: Contexts, size: tuple[int, int]
) -> None:
    (tokens,) = _draw(ref, [(contexts, size, _settings(run), group.read("noise"))])
    group.array(f"run.{name}.latent", tokens)
    with torch.inference_mode():
        z = unpatchify(tokens, *ref.generator.latent_grid(size), ref.config.latent_patch_size)[None]
        pixels = ref.model.vae.decode(z)
    if f"run.{name}.image" in group:
        group.array(f"run.{name}.image", pixels)
    if f"run.{name}.uint8" in group:
        group.array(f"run.{name}.uint8", _uint8(to_image(pixels[0])))


def _text_to_image(group: Group, ref: Reference, size: tuple[int, int]) -> None:
    """The recorded caches and velocities are those of the first prompt."""
    runs = {n: run for n, run in group.json["runs"].items() if "prompt" in run}

    def read(prompt: str) -> Contexts:
        contexts = Contexts(ref.model, sees_latents=True)
        ref.run(contexts.add_text(ref.tokenizer.segment(prompt, parse_special=True)))
        return contexts

    contexts = read(next(iter(runs.values()))["prompt"])
    group.array("t2i.full.key_cache", contexts.full.keys)
    group.array("t2i.full.value_cache", contexts.full.values)
    noise = group.read("noise")
    grid = position_ids(*ref.generator.latent_grid(size), ref.config.max_latent_size)
    for name in group.names:
        if match := re.fullmatch(rf"t2i\.v_(cond|uncond)\.t({TIME})", name):
            kv = contexts.full if match[1] == "cond" else contexts.text_free
            group.array(name, ref.run([LatentPiece(kv, noise, grid, float(match[2]))])[0])
    for name, run in runs.items():
        _sampling_run(group, ref, name, run, read(run["prompt"]), size)


def _packed_batch(group: Group, ref: Reference) -> None:
    """Two drawings in one pack; sizes, prompts and steps stand in the description of the arrays."""
    noise = group.read("batch.noise")
    first_about = ref.described("batch.latent0", r"\((\d+)x(\d+), prompt (\w+), (\d+) timesteps, shift ([\d.]+)")
    height, width, first, steps, shift = first_about.groups()
    height1, width1, second = ref.described("batch.latent1", r"\((\d+)x(\d+), prompt (\w+)").groups()
    prompts = json.loads((ref.folder / "vectors" / "02_packing.json").read_text(encoding="utf-8"))["prompts"]
    settings = ImageSampling(num_timesteps=int(steps), timestep_shift=float(shift), cfg_text_scale=1.0)
    jobs, start = [], 0
    for name, size in ((first, (int(height), int(width))), (second, (int(height1), int(width1)))):
        contexts = Contexts(ref.model, sees_latents=True)
        ref.run(contexts.add_text(prompts[name]["with_markers"]))
        rows, columns = ref.generator.latent_grid(size)
        jobs.append((contexts, size, settings, noise[start : start + rows * columns]))
        start += rows * columns
    for i, tokens in enumerate(_draw(ref, jobs)):
        group.array(f"batch.latent{i}", tokens)
        (alone,) = _draw(ref, [jobs[i]])
        group.floats(f"batch.latent{i} alone", alone, tokens)


def train(group: Group, ref: Reference) -> None:
    for name, batch in group.json["batches"].items():
        _train_batch(group, ref, name, batch)


def _train_items(ref: Reference, sample: dict, special: bool) -> list:
    config, items = ref.config, []
    for item in sample["items"]:
        drop, loss = bool(item["droppable"]), bool(item["loss"])
        if item["kind"] == "text":
            ids = ref.tokenizer.encode(item["content"], parse_special=True)
            items.append(TextItem(ids, loss, drop, ref.tokenizer.soi if special and loss else None))
        elif item["kind"] == "vit":
            picture, patch = ref.vit_picture(item["content"]), config.vit.patch_size
            grid = (picture.height // patch, picture.width // patch)
            items.append(ViTItem(patchify(to_tensor(picture), patch), grid, drop))
        else:
            picture, stride = ref.vae_picture(item["content"]), config.latent_stride
            grid = (picture.height // stride, picture.width // stride)
            items.append(LatentItem(torch.zeros(grid[0] * grid[1], config.latent_dim), grid, loss, drop))
    return items


def _train_batch(group: Group, ref: Reference, name: str, batch: dict) -> None:
    """Packs the samples, compares every column, then losses and gradients."""
    model, config = ref.model, ref.config
    recorded = group.read(f"{name}.packed_timesteps")
    draws = iter([u for sample in batch["samples"] for u in sample["uniform_draws"]])
    times = iter(torch.unique_consecutive(recorded[recorded > float("-inf")]))
    samples = [_train_items(ref, sample, batch["special_token_loss"]) for sample in batch["samples"]]
    p = pack(
        samples, ref.tokenizer, (config.vit_table_side, config.max_latent_size), DropRates(**batch["dropout"]),
        lambda: next(draws), lambda: next(times),
    )  # fmt: skip
    group.equal(f"{name}: sample lengths", [length for _, length in p.layout.samples], batch["sample_lens"])
    columns = {
        "packed_text_ids": p.text_ids, "packed_text_indexes": p.text_index,
        "packed_position_ids": p.layout.positions, "packed_vit_tokens": p.vit_patches,
        "packed_vit_position_ids": p.vit_position_ids, "packed_vit_token_indexes": p.vit_index,
        "vit_token_seqlens": torch.tensor(p.vit_lengths), "packed_latent_position_ids": p.latent_position_ids,
        "packed_vae_token_indexes": p.layout.latents, "mse_loss_indexes": p.mse_index,
        "packed_label_ids": p.labels, "ce_loss_indexes": p.ce_index, "ce_loss_weights": p.ce_weights,
    }  # fmt: skip
    for column, ours in columns.items():
        group.array(f"{name}.{column}", ours)
    group.equal(f"{name}: raw times", p.raw_times.tolist(), recorded.tolist())
    mask = p.layout.mask()
    for i, (start, length) in enumerate(p.layout.samples):
        group.array(f"{name}.mask{i}", mask[start : start + length, start : start + length])
    padded, patch = group.read(f"{name}.padded_latent"), config.latent_patch_size
    if f"{name}.padded_images_shape" in group:
        expected = [len(padded), 3, *(n * config.vae.downsample for n in padded.shape[2:])]
        group.equal(f"{name}: padded images", group.read(f"{name}.padded_images_shape").tolist(), expected)
    p.latents = torch.cat([
        patchify(z[:, : h * patch, : w * patch], patch)
        for z, (h, w) in zip(padded, batch["latent_shapes_hw"], strict=True)
    ])  # fmt: skip
    _train_losses(group, ref, name, batch, p)
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


def _train_losses(group: Group, ref: Reference, name: str, batch: dict, p) -> None:
    parameters = {official_key(n): w for n, w in ref.model.named_parameters() if not n.startswith("vae.")}
    tables = [key for key in parameters if key.endswith(".pos_embed")]
    trained = {key: w for key, w in parameters.items() if key not in tables}
    for weight in trained.values():
        weight.requires_grad_(True)
    losses = packed_losses(ref.model, p, group.read(f"{name}.noise"), batch["timestep_shift"])
    hidden = torch.cat([losses.und_hidden, losses.gen_hidden])[p.layout.merge]
    group.array(f"{name}.last_hidden", hidden)
    group.array(f"{name}.ce", losses.ce)
    group.array(f"{name}.mse", losses.mse)
    total = losses.total()
    group.floats(f"{name}: ce", losses.ce.mean(), batch["ce"])
    group.floats(f"{name}: mse", losses.mse.mean(), batch["mse"])
    group.floats(f"{name}: loss", total, batch["loss"])
    reweighted = (losses.ce * p.ce_weights).sum() / p.ce_weights.sum()
    group.floats(f"{name}: reweighted ce", reweighted, batch["ce_reweighted"])
    total.backward()
    for key in (n for n in group.names if n.startswith(f"{name}.grad.")):
        group.array(key, trained[key.removeprefix(f"{name}.grad.")].grad)
    without = sorted([key for key, w in trained.items() if w.grad is None] + tables)
    group.equal(f"{name}: without gradient", without, sorted(batch["params_without_grad"]))
    norms = {key: float(w.grad.norm()) for key, w in trained.items() if w.grad is not None}
    floor = 1e-7 * batch["grad_total_norm"]
    for key, recorded in batch["grad_norms"].items():
        group.gradient(f"{name} {key}", norms.get(key, float("nan")), recorded, floor)
    group.gradient(f"{name} total", sum(n**2 for n in norms.values()) ** 0.5, batch["grad_total_norm"], floor)


def inferencer(group: Group, ref: Reference) -> None:
    group.equal("think prompt, text", THINK_PROMPTS["text"], group.json["think_prompts"]["understanding"])
    group.equal("think prompt, image", THINK_PROMPTS["image"], group.json["think_prompts"]["generation"])
    for name, case in group.json["cases"].items():
        _inferencer_case(group, ref, name, case)


def _inferencer_case(group: Group, ref: Reference, name: str, case: dict) -> None:
    """Runs a case; where several pictures have the size that was recorded, the one that fits is meant."""
    first = case["events"][0]["context"]
    sizes = [op["size_wh"] for op in first if op["op"] == "image"]
    options = list(itertools.product(*(ref.candidates(size) for size in sizes)))
    run = _reconstruction if name.startswith("vqa_reconstruction") else _plain_case
    if name.endswith("edit_flow"):
        run = _describe_then_edit
    random = torch.Generator().manual_seed(case["manual_seed"])
    for i, draw in enumerate(case["normal_draws"]):
        group.array(f"{name}.draw{i}", torch.randn(draw["shape"], generator=random))
    best = None
    for images in options:
        ref.generator.drawn.clear()
        outputs = run(ref, case, list(images))
        trial = Group.__new__(Group)
        trial.__dict__ |= {**group.__dict__, "problems": [], "unread": set(group.unread), "checks": 0}
        _compare_case(trial, ref, name, case, outputs)
        if best is None or len(trial.problems) < len(best.problems):
            best = trial
        if not trial.problems:
            break
    if best is None:
        raise ValueError(f"{name}: no image of size {sizes}")
    group.problems += best.problems
    group.unread, group.worst, group.worst_at = best.unread, best.worst, best.worst_at
    group.checks += best.checks


def _compare_case(group: Group, ref: Reference, name: str, case: dict, outputs: list) -> None:
    texts = [o["text"] for o in case["outputs"] if o["type"] == "text"]
    group.equal(f"{name}: texts", [o.text for o in outputs if isinstance(o, Text)], texts)
    images = [o for o in outputs if isinstance(o, Image)]
    sizes = [o["size_wh"] for o in case["outputs"] if o["type"] == "image"]
    group.equal(f"{name}: image sizes", [list(i.pixels.size) for i in images], sizes)
    for i, image in enumerate(images):
        group.array(f"{name}.image{i}", _uint8(image.pixels))
    drawn = [e for e in case["events"] if e["event"] == "gen_image"]
    for i, (event, (state, tokens)) in enumerate(zip(drawn, ref.generator.drawn, strict=True)):
        group.array(f"{name}.latent{i}", tokens)
        for key, (length, position) in zip(("context", "cfg_text_context", "cfg_img_context"), state, strict=True):
            end = event[key][-1] if event[key] else {"kv": [0, 0], "rope": [0, 0]}
            group.equal(f"{name}: {key} of image {i}", [length, position], [end["kv"][1], end["rope"][1]])


def _inputs(ref: Reference, operations: list[dict], images: list[str]) -> list:
    names = iter(images)
    return [Text(op["text"]) if op["op"] == "text" else Image(ref.picture(next(names))) for op in operations]


def _turn(ref: Reference, case: dict, inputs: list, outputs: tuple[str, ...], think: bool = False) -> Turn:
    texts = [e for e in case["events"] if e["event"] == "gen_text"]
    drawn = [e for e in case["events"] if e["event"] == "gen_image"]
    return Turn(
        ref.generator.session(), inputs, outputs, seed=case["manual_seed"], think=think, parse_special=True,
        image=_settings(drawn[0]["params"]) if drawn else ImageSampling(),
        size=tuple(drawn[0]["image_shape_hw"]) if drawn else None,
        text=TextSampling(max_new_tokens=texts[0]["max_length"] - 1 if texts else 1, suppress_special=False),
    )  # fmt: skip


def _segments(ref: Reference, turn: Turn) -> list:
    return [e.segment for e in ref.generator.stream(turn) if isinstance(e, SegmentDone)]


def _plain_case(ref: Reference, case: dict, images: list[str]) -> list:
    operations = case["events"][0]["context"]
    think = operations[0].get("text") in THINK_PROMPTS.values()
    inputs = _inputs(ref, operations[1:] if think else operations, images)
    draws = any(e["event"] == "gen_image" for e in case["events"])
    return _segments(ref, _turn(ref, case, inputs, ("image",) if draws else ("text",), think))


def _describe_then_edit(ref: Reference, case: dict, images: list[str]) -> list:
    """UniMedVL's image script: answer the instruction first, then edit with instruction and answer together."""
    inputs = _inputs(ref, case["events"][0]["context"], images)
    (answer,) = _segments(ref, _turn(ref, case, inputs, ("text",)))
    combined = Text(f"{inputs[-1].text}\n\n{answer.text}")
    return [answer, *_segments(ref, _turn(ref, case, [*inputs[:-1], combined], ("image",)))]


def _reconstruction(ref: Reference, case: dict, images: list[str]) -> list:
    """Answer, then redraw each input image; every drawn image re-enters full and text-free as latents alone."""
    generator, random = ref.generator, torch.Generator().manual_seed(case["manual_seed"])
    inputs = _inputs(ref, case["events"][0]["context"], images)
    turn, contexts, outputs = _turn(ref, case, inputs, ("image",)), Contexts(ref.model, sees_latents=True), []

    def program():
        for segment in inputs:
            yield from generator.read(contexts, segment, turn, random)
        answer = Text(generator.text_of((yield from generator.write(contexts.full, turn.text, random))))
        outputs.append(answer)
        yield contexts.add_text(ref.tokenizer.segment(answer.text, parse_special=True))
        for segment in inputs:
            if not isinstance(segment, Image):
                continue
            width, height = resized_size(*segment.pixels.size, ref.config.vae_resize)
            size = (height, width)
            tokens = yield from generator.draw(contexts, size, turn.image, generator.noise(size, random))
            outputs.append(generator.image_of(tokens, size))
            again = resize(outputs[-1].pixels, ref.config.vae_resize)
            for kv in (contexts.full, contexts.text_free):
                yield [generator.latent_piece(kv, again, random)]

    for _ in generator.drive([program()]):
        pass
    return outputs


GROUPS = {
    "00_units": units,
    "01_preprocess": preprocess,
    "02_packing": packing,
    "03_vit": vision,
    "04_understand": understand,
    "05_vae": autoencoder,
    "06_generate": generate,
    "07_train": train,
    "08_inferencer": inferencer,
}
