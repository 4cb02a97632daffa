"""Quality control drops what its rules say and tells why; the scorers tell fitting texts from others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
)

from core.config import NANO
from core.data.oct_phantom import b_scan
from core.data.quality import DIMENSIONS, QualityRules, StepReport, filter_records, read_ratings
from core.data.records import Message, PictureStore, Record, read_records, write_records
from core.errors import CheckpointError, RecordError, SettingsError
from core.evaluation.alignment import scorer_of
from core.model.checkpoint import load
from core.model.unified import TextPiece
from tests.core.data.test_records import drawing, vqa

LENIENT = QualityRules(alignment_drop=0)


class ByNumber:
    """A scorer that reads the score out of the last word of the text and keeps what it was asked."""

    name = "by number"

    def __init__(self) -> None:
        self.asked: list[tuple[PILImage.Image, str]] = []

    def scores(self, pairs: list[tuple[PILImage.Image, str]]) -> list[float]:
        self.asked += pairs
        return [float(text.split()[-1]) for _, text in pairs]


@pytest.fixture
def store(tmp_path: Path) -> PictureStore:
    return PictureStore(tmp_path / "r.jsonl", max_side=512)


def saying(record: Record, *values: str) -> Record:
    """The record with other words, human and model in turn."""
    return replace(record, message=tuple(Message(("human", "gpt")[i % 2], value) for i, value in enumerate(values)))


def drawn(store: PictureStore, number: int, caption: str) -> Record:
    """A text_to_image record of ``drawing(number)``."""
    record = vqa(store, number)
    return replace(
        record, id=f"g{number}", main_task_type="generation", sub_task_type="text_to_image", input_img=(),
        output_img=record.input_img, message=(Message("human", caption),),
    )  # fmt: skip


def step(reports: list[StepReport], name: str) -> StepReport:
    return next(report for report in reports if report.name == name)


def ids(records: list[Record]) -> list[str]:
    return [record.id for record in records]


def test_sound_records_pass_in_their_order(store, tmp_path: Path) -> None:
    records = [vqa(store, n) for n in (2, 0, 1)]
    kept, reports = filter_records(records, tmp_path, LENIENT, None)
    assert kept == records
    assert [report.name for report in reports] == ["text", "image size", "alignment", "expert ratings"]
    assert [(report.kept, report.dropped) for report in reports] == [(3, 0)] * 4


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        (("x" * 5, "y" * 4), False),
        (("x" * 5, "y" * 5), True),
        (("x" * 1000, "y" * 24), True),
        (("x" * 1000, "y" * 25), False),
        (("a", "b", "cdefgh", "ij"), True),
    ],
)
def test_the_text_of_all_messages_counts(store, tmp_path: Path, values: tuple[str, ...], passes: bool) -> None:
    kept, reports = filter_records([saying(vqa(store, 0), *values)], tmp_path, LENIENT, None)
    assert bool(kept) is passes
    if not passes:
        assert f"{sum(map(len, values))} characters" in step(reports, "text").reasons[0][1]


def test_every_image_needs_both_sides(store, tmp_path: Path) -> None:
    record = vqa(store, 0)
    small = {size: store.add(drawing(1, size)) for size in ((128, 128), (127, 300), (300, 127))}
    records = [replace(record, id=f"{size}", input_img=(path,), sha256=(sha,)) for size, (path, sha) in small.items()]
    path, digest = small[127, 300]
    records.append(replace(record, id="output", output_img=(path,), sha256=(*record.sha256, digest)))
    write_records(tmp_path / "r.jsonl", records)
    kept, reports = filter_records(read_records(tmp_path / "r.jsonl"), tmp_path, LENIENT, None)
    assert ids(kept) == ["(128, 128)"]
    assert [place for place, _ in step(reports, "image size").reasons] == ["r.jsonl:2", "r.jsonl:3", "r.jsonl:4"]
    assert path in step(reports, "image size").reasons[0][1]


def test_a_missing_image_is_an_error_with_its_line(store, tmp_path: Path) -> None:
    record = replace(vqa(store, 0), input_img=("lost.png",), place="r.jsonl:4")
    with pytest.raises(RecordError, match=r"^r\.jsonl:4: the image is missing"):
        filter_records([record], tmp_path, LENIENT, None)


def test_the_worst_share_of_each_task_of_each_dataset_goes(store, tmp_path: Path) -> None:
    scores = {0: -3.0, 1: 5.0, 2: 1.0, 3: 9.0, 4: 2.0}
    bad = [saying(vqa(store, n), "What is shown?", f"{score}") for n, score in scores.items()]
    good = [replace(drawn(store, n, f"A caption {100 + n}"), dataset="other") for n in range(4)]
    kept, reports = filter_records(bad + good, tmp_path, QualityRules(), ByNumber())
    assert ids(kept) == ["r1", "r3", "r4", "g2", "g3"]
    assert step(reports, "alignment").notes == ["scored by by number"]
    assert [place for place, _ in step(reports, "alignment").reasons] == ["r0", "r2", "g0", "g1"]
    assert "number 1 from below of 5 vqa of drawn" in step(reports, "alignment").reasons[0][1]


def test_ties_go_by_id_whatever_the_order(store, tmp_path: Path) -> None:
    records = [saying(vqa(store, n), "What is shown?", "7") for n in range(5)]
    for order in (records, records[::-1]):
        kept, _ = filter_records(order, tmp_path, QualityRules(), ByNumber())
        assert sorted(ids(kept)) == ["r2", "r3", "r4"]


def test_understanding_is_scored_by_question_and_answer_and_generation_by_caption(store, tmp_path: Path) -> None:
    edit = vqa(store, 2)
    edit = replace(
        edit, main_task_type="interleaved", sub_task_type="super_resolution", output_img=edit.input_img,
        sha256=edit.sha256 * 2, message=(Message("human", "Sharpen this image."),),
    )  # fmt: skip
    text = replace(vqa(store, 3), main_task_type="text", sub_task_type="text", input_img=(), sha256=())
    scorer = ByNumber()
    records = [saying(vqa(store, 0), "What is shown?", "A scan 1"), drawn(store, 1, "A caption 2"), edit, text]
    kept, reports = filter_records(records, tmp_path, QualityRules(), scorer)
    assert [said for _, said in scorer.asked] == ["What is shown?\nA scan 1", "A caption 2"]
    assert [image.tobytes() for image, _ in scorer.asked] == [drawing(n).tobytes() for n in range(2)]
    assert kept == records  # half of one is none
    assert step(reports, "alignment").notes[1:] == [
        "1 interleaved records are not scored and kept",
        "1 text records are not scored and kept",
    ]


def test_alignment_can_be_off_and_says_so(store, tmp_path: Path) -> None:
    records = [vqa(store, n) for n in range(4)]
    kept, reports = filter_records(records, tmp_path, LENIENT, ByNumber())
    assert (kept, step(reports, "alignment").notes) == (records, ["switched off"])
    for rules in (QualityRules(), LENIENT):
        kept, reports = filter_records(records, tmp_path, rules, None)
        assert kept == records
        assert step(reports, "alignment").notes == ["the paper's alignment step was not run: no scorer was named"]


def test_a_score_that_is_no_number_is_an_error(store, tmp_path: Path) -> None:
    records = [saying(vqa(store, n), "What is shown?", "nan") for n in range(2)]
    with pytest.raises(RecordError, match="by number gives no finite score"):
        filter_records(records, tmp_path, QualityRules(), ByNumber())


def rating(record_id: str, score: float, dimension: str, rater: str = "A") -> dict:
    return {"record_id": record_id, "rater": rater, "dimension": dimension, "score": score}


def rules_with(tmp_path: Path, ratings: list[dict]) -> QualityRules:
    path = tmp_path / "ratings.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in ratings), encoding="utf-8")
    return replace(LENIENT, ratings=path)


def test_experts_are_averaged_over_raters_then_over_dimensions(store, tmp_path: Path) -> None:
    one = [rating("r0", 1.0, d) for d in DIMENSIONS] + [rating("r1", 0.8, d) for d in DIMENSIONS]
    # Three raters agree on one dimension of r2: it still weighs no more than the others.
    three = [rating("r2", 1.0 if d != "safety" else 0.4, d) for d in DIMENSIONS]
    three += [rating("r2", 0.4, "safety", rater) for rater in "BC"]
    incomplete = [rating("r3", 1.0, d) for d in DIMENSIONS[1:]]
    rules = rules_with(tmp_path, one + three + incomplete + [rating("gone", 0.1, "clarity")])
    kept, reports = filter_records([vqa(store, n) for n in range(5)], tmp_path, rules, None)
    experts = step(reports, "expert ratings")
    assert ids(kept) == ["r0", "r2", "r4"]
    assert experts.reasons == [
        ("r1", "mean rating 0.800, below 0.85"),
        ("r3", "incomplete ratings, factual_accuracy missing"),
    ]
    assert experts.notes == [
        "1 unrated records are kept",
        "mean rating of 3 completely rated records: 0.905",
        "1 rated ids are not among the records that came this far",
    ]


def test_a_mean_on_the_gate_passes(store, tmp_path: Path) -> None:
    rules = rules_with(tmp_path, [rating("r0", 0.85, d) for d in DIMENSIONS])
    assert ids(filter_records([vqa(store, 0)], tmp_path, rules, None)[0]) == ["r0"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not valid JSON"),
        ("3", "must be a JSON object"),
        (json.dumps(rating("r0", 0.5, "beauty")), "unknown dimension: 'beauty'"),
        (json.dumps(rating("r0", 1.5, "clarity")), "score must be a number from 0 to 1: 1.5"),
        (json.dumps(rating("r0", float("nan"), "clarity")), "score must be"),
        (json.dumps(rating("r0", True, "clarity")), "score must be"),
        (json.dumps(rating("r0", "0.5", "clarity")), "score must be"),
        (json.dumps(rating("r0", 0.5, "clarity") | {"rater": None}), "rater must be a string"),
        (json.dumps(rating("r0", 0.9, "safety")), "in ratings.jsonl:1 already"),
    ],
)
def test_a_malformed_rating_is_refused_with_its_line(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "ratings.jsonl"
    path.write_text(json.dumps(rating("r0", 0.5, "safety")) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(RecordError) as error:
        read_ratings(path)
    assert str(error.value).startswith("ratings.jsonl:3: ")
    assert what in str(error.value)


def test_the_lines_tell_what_was_dropped_and_why(store, tmp_path: Path) -> None:
    _, reports = filter_records([saying(vqa(store, 0), "Hm?"), vqa(store, 1)], tmp_path, LENIENT, None)
    assert reports[0].lines() == ["text: kept 1, dropped 1", "  r0: 3 characters, fewer than 10"]
    assert reports[3].lines() == ["expert ratings: kept 1, dropped 0", "  no ratings were named"]


@pytest.mark.parametrize(
    "wrong", [{"min_text": 20, "max_text": 10}, {"alignment_drop": 1.0}, {"rating_gate": 85}, {"min_text": -1}]
)
def test_impossible_rules_are_refused(wrong: dict) -> None:
    with pytest.raises(SettingsError):
        QualityRules(**wrong)


def test_the_likelihood_score_is_what_the_picture_adds_to_the_text(tiny_checkpoint: Path) -> None:
    scorer = scorer_of(f"likelihood:{tiny_checkpoint}")
    texts = ["A scan.", "Which organ is shown?\nThe image shows a chest.", ""]
    pairs = [(drawing(n, (60 + 20 * n, 80)), text) for n, text in enumerate(texts)]
    together = scorer.scores(pairs)
    assert together == pytest.approx([scorer.scores([pair])[0] for pair in pairs], abs=1e-5)
    assert together == pytest.approx(scorer.scores(pairs * 5)[-3:], abs=1e-5)
    assert scorer.scores([]) == []
    other = scorer.scores([(drawing(7), text) for _, text in pairs])
    assert all(abs(a - b) > 1e-6 for a, b in zip(together, other, strict=True))


def test_the_likelihood_score_equals_decoding_token_by_token(tiny_checkpoint: Path, tiny_generator) -> None:
    image, question, answer = drawing(3, (84, 70)), "Which organ is shown?", "The image shows a chest."
    model, tokenizer = tiny_generator.model, tiny_generator.tokenizer
    ids = [*tokenizer.encode(answer), tokenizer.eos]

    def log_likelihood(seen: bool) -> float:
        cache, total, token = model.new_cache(), 0.0, tokenizer.bos
        if seen:
            model.step([tiny_generator.vit_piece(cache, image)], tokenizer.soi, tokenizer.eoi)
        model.step([TextPiece(cache, tokenizer.segment(question))], tokenizer.soi, tokenizer.eoi)
        for target in ids:
            (logits,) = model.step([TextPiece(cache, [token], logits=True)], tokenizer.soi, tokenizer.eoi)
            total += float(torch.log_softmax(logits.float(), -1)[target])
            token = target
        return total / len(ids)

    expected = log_likelihood(True) - log_likelihood(False)
    scores = scorer_of(f"likelihood:{tiny_checkpoint}").scores([(image, f"{question}\n{answer}")])
    assert scores == pytest.approx([expected], abs=1e-4)


def test_the_shipped_model_prefers_the_right_modality() -> None:
    scorer = scorer_of("likelihood")
    scan = b_scan(3, "normal", 128, 160)
    question = "What imaging modality is this?"
    right, wrong = scorer.scores([(scan, f"{question}\nOCT"), (scan, f"{question}\nchest X-ray")])
    assert right > wrong
    assert scorer.name == f"likelihood:{load(NANO).name}"


def write_clip(folder: Path) -> None:
    """A CLIP with random weights, small, with its processor."""
    words = ["[UNK]", "[PAD]", "[EOS]", "a", "scan", "of", "the", "chest", "retina"]
    bpe = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    bpe.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]", model_max_length=16
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    text = CLIPTextConfig(**sizes, **special, vocab_size=len(words), max_position_embeddings=16)
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=16)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)


def test_a_clip_model_of_a_folder_scores_by_cosine(tmp_path: Path) -> None:
    write_clip(tmp_path)
    scorer = scorer_of(f"clip:{tmp_path}")
    pairs = [(drawing(0), "a scan of the chest"), (drawing(1), "a retina"), (drawing(0), "a " * 100)]
    scores = scorer.scores(pairs)
    assert scorer.name == f"clip:{tmp_path}"
    assert all(-1 <= score <= 1 for score in scores)
    assert len(set(scores)) == 3
    assert scores == pytest.approx([scorer.scores([pair])[0] for pair in pairs], abs=1e-5)


def test_an_unknown_scorer_and_a_model_that_is_not_there_are_named(tmp_path: Path) -> None:
    for name in ("clip", "clip:", "bert:x", ""):
        with pytest.raises(SettingsError, match="Unknown scorer"):
            scorer_of(name)
    with pytest.raises(CheckpointError, match="No model of the CLIP family"):
        scorer_of(f"clip:{tmp_path}")
    with pytest.raises(CheckpointError):
        scorer_of(f"likelihood:{tmp_path / 'absent'}")


def test_the_steps_work_with_the_shipped_model(store, tmp_path: Path) -> None:
    records = [replace(vqa(store, n), dataset="all") for n in range(4)]
    kept, reports = filter_records(records, tmp_path, QualityRules(), scorer_of("likelihood"))
    assert len(kept) == 2
    assert step(reports, "alignment").dropped == 2
