"""Incremental equals packed, forks share, and nothing that is not committed leaves a trace."""

import torch

from core.model.unified import LatentPiece, TextPiece


def run(generator, *pieces):
    return generator.model.step(list(pieces), generator.tokenizer.soi, generator.tokenizer.eoi)


def test_token_by_token_equals_one_call(tiny_generator):
    ids = tiny_generator.tokenizer.segment("Which organ is shown?")
    whole, single = tiny_generator.model.new_cache(), tiny_generator.model.new_cache()
    (expected,) = run(tiny_generator, TextPiece(whole, ids, logits=True))
    for token in ids:
        (ours,) = run(tiny_generator, TextPiece(single, [token], logits=True))
    assert torch.allclose(ours, expected, atol=1e-5)
    assert torch.allclose(single.keys, whole.keys, atol=1e-5)


def test_forks_share_their_prefix_and_diverge_unharmed(tiny_generator):
    one = tiny_generator.model.new_cache()
    run(tiny_generator, TextPiece(one, [5, 6, 7]))
    two = one.fork()
    assert two.shares_storage_with(one)
    run(tiny_generator, TextPiece(one, [8, 9]))
    assert two.shares_storage_with(one), "the first to go on must not copy"
    run(tiny_generator, TextPiece(two, [10]))
    assert not two.shares_storage_with(one)
    for kv, ids in ((one, [5, 6, 7, 8, 9]), (two, [5, 6, 7, 10])):
        fresh = tiny_generator.model.new_cache()
        run(tiny_generator, TextPiece(fresh, ids))
        assert torch.allclose(kv.keys, fresh.keys, atol=1e-5)
        assert torch.allclose(kv.values, fresh.values, atol=1e-5)


def test_two_forks_may_append_in_the_same_step(tiny_generator):
    one = tiny_generator.model.new_cache()
    run(tiny_generator, TextPiece(one, [5, 6, 7]))
    two = one.fork()
    run(tiny_generator, TextPiece(one, [8]), TextPiece(two, [9, 10]))
    fresh = tiny_generator.model.new_cache()
    run(tiny_generator, TextPiece(fresh, [5, 6, 7, 9, 10]))
    assert torch.allclose(two.keys, fresh.keys, atol=1e-5)
    assert (one.length, two.length, two.position) == (4, 5, 5)


def test_denoising_leaves_no_trace(tiny_generator):
    kv = tiny_generator.model.new_cache()
    run(tiny_generator, TextPiece(kv, [5, 6, 7]))
    before = (kv.length, kv.position, kv.keys.clone())
    grid = torch.arange(4)
    piece = LatentPiece(kv, torch.randn(4, 64), grid, t=0.5)
    (first,) = run(tiny_generator, piece)
    (second,) = run(tiny_generator, piece)
    assert torch.equal(first, second)
    assert (kv.length, kv.position) == before[:2] and torch.equal(kv.keys, before[2])


def test_growing_keeps_what_was_cached(tiny_generator):
    kv = tiny_generator.model.new_cache()
    ids = [4 + i % 200 for i in range(700)]
    for start in range(0, 700, 100):
        run(tiny_generator, TextPiece(kv, ids[start : start + 100]))
    fresh = tiny_generator.model.new_cache()
    run(tiny_generator, TextPiece(fresh, ids))
    assert torch.allclose(kv.values, fresh.values, atol=1e-4)
