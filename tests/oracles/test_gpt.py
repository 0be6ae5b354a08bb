"""Oracles of the GPT: Hugging Face's GPT-2 with the same weights, its greedy generation and its count, and decoding with a KV cache."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import GPT2Config, GPT2LMHeadModel

gpt = solution("gpt")
kv_cache = solution("kv_cache")

V, MAX_LEN = 13, 7
seeds = st.integers(0, 999)


def model(seed: int, layers: int = 2, heads: int = 3, d_model: int = 12, **options: float) -> nn.Module:
    """Weights far from those it begins with, so that every one of them matters."""
    made = gpt.GPT(V, MAX_LEN, d_model, layers, heads, **options).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / parameter.shape[-1] ** 0.5)
    return made


def drawn(seed: int, *shape: int, below: int = V) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def config(layers: int, heads: int, d_model: int, **options: object) -> GPT2Config:
    sizes = {"vocab_size": V, "n_positions": MAX_LEN, "n_embd": d_model, "n_layer": layers, "n_head": heads}
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return GPT2Config(**{**sizes, **tokens, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **options})


NAMES = {  # theirs, after "transformer.": ours
    "wte": "token_embedding",
    "wpe": "position_embedding",
    "ln_f": "final_norm",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.c_proj": "attn.out_proj",
    "mlp.c_fc": "ff.up",
    "mlp.c_proj": "ff.down",
}


def as_hugging_face(ours: nn.Module) -> GPT2LMHeadModel:
    """Their GPT-2 with our weights. Its Conv1D holds matrices the other way around, and q, k and v in one."""
    block = ours.blocks[0].attn
    theirs = GPT2LMHeadModel(config(len(ours.blocks), block.num_heads, ours.final_norm.weight.numel())).double().eval()
    state = ours.state_dict()
    wanted = {}
    for name in theirs.state_dict():
        path, kind = name.removeprefix("transformer.").rsplit(".", 1)
        layer, part = (f"blocks.{path.split('.')[1]}.", path.split(".", 2)[2]) if path.startswith("h.") else ("", path)
        if part == "attn.c_attn":
            value = torch.cat([state[f"{layer}attn.{each}_proj.{kind}"] for each in "qkv"])
        else:
            value = state[f"{layer}{NAMES.get(part, part)}.{kind}"]
        turned = value.ndim == 2 and layer != ""
        wanted[name] = value.T if turned else value
    theirs.load_state_dict(wanted)
    return theirs


@given(seed=seeds, B=st.integers(1, 3), L=st.integers(1, MAX_LEN), layers=st.integers(1, 3), heads=st.sampled_from([1, 2, 3, 4]))
@settings(max_examples=20, deadline=None)
def test_logits_are_those_of_hugging_face(seed: int, B: int, L: int, layers: int, heads: int) -> None:
    ours = model(seed, layers, heads)
    ids = drawn(seed, B, L)
    torch.testing.assert_close(ours(ids), as_hugging_face(ours)(ids).logits)


@given(seed=seeds, L=st.integers(2, MAX_LEN), ignored=st.integers(0, 6))
@settings(max_examples=20, deadline=None)
def test_loss_and_gradients_are_those_of_hugging_face(seed: int, L: int, ignored: int) -> None:
    """They shift the labels themselves, and take the loss in float32; ours is given what is shifted."""
    ours = model(seed)
    theirs = as_hugging_face(ours)
    ids = drawn(seed, 2, L)
    labels = ids.clone()
    labels[0, 1 : 1 + ignored] = -100
    wanted = theirs(ids, labels=labels).loss
    _, loss = ours(ids[:, :-1], labels[:, 1:])
    near = {"atol": 1e-5, "rtol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(loss, wanted, **near)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(ours.token_embedding.weight.grad, theirs.transformer.wte.weight.grad, **near)
    torch.testing.assert_close(ours.position_embedding.weight.grad, theirs.transformer.wpe.weight.grad, **near)
    torch.testing.assert_close(ours.blocks[0].ff.up.weight.grad, theirs.transformer.h[0].mlp.c_fc.weight.grad.T, **near)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_generation_is_that_of_hugging_face(seed: int) -> None:
    """Within max_len: theirs does not crop."""
    ours = model(seed)
    ids = drawn(seed, 2, 3)
    theirs = as_hugging_face(ours).generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(gpt.generate(ours, ids, 4), theirs)


@given(seed=seeds, L=st.integers(1, MAX_LEN + 3), max_new=st.integers(0, 9), training=st.booleans())
@settings(max_examples=25, deadline=None)
def test_generation_equals_a_slow_loop(seed: int, L: int, max_new: int, training: bool) -> None:
    """Each row by itself, on lists, with a window that is counted from the end."""
    ours = model(seed, dropout=0.5).train(training)
    ids = drawn(seed, 3, L)
    given = ids.clone()
    out = gpt.generate(ours, ids, max_new)
    assert ours.training is training and torch.equal(ids, given)
    ours.eval()
    for row, said in zip(ids.tolist(), out.tolist()):
        for _ in range(max_new):
            start = max(len(row) - MAX_LEN, 0)
            row.append(int(ours(torch.tensor([row[start:]]))[0, -1].argmax()))
        assert said == row


@given(seed=seeds, L=st.integers(1, 4), max_new=st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_generation_with_a_cache_is_the_same(seed: int, L: int, max_new: int) -> None:
    """The cache and the layer of the KV cache's topic, under this model's weights."""
    ours = model(seed, layers=2, heads=3, d_model=12)
    layers = [kv_cache.CachedSelfAttention(12, 3, bias=True).double() for _ in ours.blocks]
    for layer, block in zip(layers, ours.blocks):
        layer.load_state_dict(block.attn.state_dict())
    caches = [kv_cache.KVCache(2, 3, MAX_LEN, 4, torch.float64) for _ in layers]

    def step(ids: Tensor, caches: list) -> Tensor:
        start = caches[0].length
        x = ours.token_embedding(ids) + ours.position_embedding(torch.arange(start, start + ids.shape[1]))
        for layer, block, cache in zip(layers, ours.blocks, caches):
            x = x + layer(block.norm1(x), cache)
            x = x + block.ff(block.norm2(x))
        return ours.lm_head(ours.final_norm(x))

    ids = drawn(seed, 2, L)
    out = kv_cache.generate(step, ids, max_new, caches)
    assert torch.equal(out, gpt.generate(ours, ids, max_new))
    assert {cache.length for cache in caches} == {L + max_new - 1 if max_new else 0}


def formula(V: int, max_len: int, M: int, N: int) -> int:
    """Two tables; in each block 4 M² + 4 M, 8 M² + 5 M and two norms; one norm more; the head is the first table."""
    return V * M + max_len * M + N * (12 * M * M + 13 * M) + 2 * M


@given(layers=st.integers(1, 3), heads=st.integers(1, 3), D=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_count_is_that_of_hugging_face_and_of_the_formula(layers: int, heads: int, D: int) -> None:
    ours = gpt.GPT(V, MAX_LEN, heads * D, layers, heads)
    theirs = GPT2LMHeadModel(config(layers, heads, heads * D))
    assert gpt.num_parameters(ours) == theirs.num_parameters() == formula(V, MAX_LEN, heads * D, layers)


def test_gpt2_small_has_124_million() -> None:
    assert formula(50257, 1024, 768, 12) == 124_439_808


@pytest.mark.parametrize("layers", [1, 6])
def test_weights_begin_as_those_of_hugging_face(layers: int) -> None:
    """Name by name the same spread, within what chance allows."""
    torch.manual_seed(0)
    ours, theirs = gpt.GPT(200, 100, 96, layers, 4), GPT2LMHeadModel(config(layers, 4, 96, vocab_size=200, n_positions=100))
    ours_std = {
        "wte": ours.token_embedding.weight.std().item(),
        "wpe": ours.position_embedding.weight.std().item(),
        **{f"h.{i}.attn.c_proj": block.attn.out_proj.weight.std().item() for i, block in enumerate(ours.blocks)},
        **{f"h.{i}.attn.c_attn": block.attn.q_proj.weight.std().item() for i, block in enumerate(ours.blocks)},
        **{f"h.{i}.mlp.c_fc": block.ff.up.weight.std().item() for i, block in enumerate(ours.blocks)},
        **{f"h.{i}.mlp.c_proj": block.ff.down.weight.std().item() for i, block in enumerate(ours.blocks)},
    }
    their_std = {
        name.removesuffix(".weight"): weight.std().item() for name, weight in theirs.transformer.named_parameters() if weight.ndim == 2
    }
    assert ours_std.keys() == their_std.keys()
    for name, std in ours_std.items():
        assert std / their_std[name] == pytest.approx(1, abs=0.05), name


def test_a_new_model_knows_nothing() -> None:
    """Its first loss is ln V, at any size: the logits are small."""
    torch.manual_seed(0)
    ours = gpt.GPT(500, 64, 96, 6, 4)
    ids, targets = drawn(0, 4, 64, below=500), drawn(1, 4, 64, below=500)
    assert ours(ids, targets)[1].item() == pytest.approx(math.log(500), abs=0.05)


def test_a_few_steps_learn_a_row_by_heart() -> None:
    torch.manual_seed(0)
    ours = gpt.GPT(V, MAX_LEN, 24, 2, 3)
    row = drawn(5, 1, MAX_LEN + 1)
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2)
    for _ in range(60):
        _, loss = ours(row[:, :-1], row[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert torch.equal(gpt.generate(ours, row[:, :1], MAX_LEN), row)


def test_half_of_the_numbers_are_dropped_and_the_rest_doubled() -> None:
    """What the first norm reads, when all embeddings are one: 0 or 2, as often."""
    torch.manual_seed(0)
    ours = gpt.GPT(V, MAX_LEN, 96, 1, 3, dropout=0.5)
    nn.init.ones_(ours.token_embedding.weight), nn.init.zeros_(ours.position_embedding.weight)
    seen = []
    ours.blocks[0].norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ours(drawn(0, 20, MAX_LEN))
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}
    assert seen[0].mean().item() == pytest.approx(1, abs=0.05)


def test_tanh_gelu_and_not_the_exact_one() -> None:
    ff = gpt._FeedForward(1)
    with torch.no_grad():
        for part in (ff.up, ff.down):
            part.weight.fill_(1.0), part.bias.zero_()
        x = torch.linspace(-4, 4, 101)[:, None]
        wanted = 4 * 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        torch.testing.assert_close(ff(x), wanted, atol=1e-5, rtol=1e-5)
        assert (ff(x) - 4 * F.gelu(x)).abs().max() > 1e-3
