"""Oracles of t5: what proves the reference right, independently of it."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rooms import solution
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack

t5 = solution("t5")

CONFIGURATIONS = [(32, 128), (8, 20), (16, 50), (12, 30), (8, 50), (4, 8)]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_buckets, max_distance", CONFIGURATIONS)
def test_buckets_are_those_of_hugging_face(num_buckets, max_distance, bidirectional) -> None:
    places = torch.arange(-600, 601)
    ours = t5.relative_position_bucket(places, bidirectional, num_buckets, max_distance)
    assert torch.equal(ours, T5Attention._relative_position_bucket(places, bidirectional, num_buckets, max_distance))
    assert set(ours.tolist()) <= set(range(num_buckets))


def exact_bucket(n: int, count: int, max_distance: int) -> int:
    """Without logarithms: how many borders E (max_distance / E)^(k / (N - E)) are at most n."""
    E = count // 2
    ratio, reach = Fraction(n, E) if n else Fraction(0), Fraction(max_distance, E)
    passed = sum(ratio ** (count - E) >= reach**k for k in range(1, count - E))
    return n if n < E else E + passed


@pytest.mark.parametrize("num_buckets, max_distance", CONFIGURATIONS)
def test_buckets_are_those_of_exact_fractions(num_buckets, max_distance) -> None:
    for n in range(200):
        back, ahead = exact_bucket(n, num_buckets // 2, max_distance), num_buckets // 2 if n else 0
        assert t5.relative_position_bucket(torch.tensor(-n), True, num_buckets, max_distance) == back
        assert t5.relative_position_bucket(torch.tensor(n), True, num_buckets, max_distance) == back + ahead
        assert t5.relative_position_bucket(torch.tensor(-n), False, num_buckets, max_distance) == exact_bucket(n, num_buckets, max_distance)


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("L, S, offset", [(4, 7, 0), (150, 3, 0), (1, 60, 59), (3, 20, 17)])
def test_bias_is_that_of_hugging_face(decoder, L, S, offset) -> None:
    theirs = T5Attention(T5Config(num_heads=3, d_model=6, d_kv=2, is_decoder=decoder), has_relative_attention_bias=True, layer_idx=0)
    ours = t5.RelativeBias(3, bidirectional=not decoder)
    ours.embedding.load_state_dict(theirs.relative_attention_bias.state_dict())
    torch.testing.assert_close(ours(L, S, offset), theirs.compute_bias(L, S, past_seen_tokens=offset))


M, H, D, HIDDEN, N = 10, 3, 4, 14, 2  # H·D is not M
IN_LAYERS = {
    "norm1": "layer.0.layer_norm",
    "attn.q_proj": "layer.0.SelfAttention.q",
    "attn.k_proj": "layer.0.SelfAttention.k",
    "attn.v_proj": "layer.0.SelfAttention.v",
    "attn.out_proj": "layer.0.SelfAttention.o",
    "cross_norm": "layer.1.layer_norm",
    "cross_attn.q_proj": "layer.1.EncDecAttention.q",
    "cross_attn.k_proj": "layer.1.EncDecAttention.k",
    "cross_attn.v_proj": "layer.1.EncDecAttention.v",
    "cross_attn.out_proj": "layer.1.EncDecAttention.o",
    "norm2": "layer.{last}.layer_norm",
    "ff.up": "layer.{last}.DenseReluDense.wi",
    "ff.down": "layer.{last}.DenseReluDense.wo",
}


def stacks(decoder: bool):
    """Our blocks and bias, and Hugging Face's stack with the same random weights; its last norm is one of PyTorch's."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=11,
        d_model=M,
        d_kv=D,
        d_ff=HIDDEN,
        num_layers=N,
        num_heads=H,
        is_decoder=decoder,
        use_cache=False,
        is_encoder_decoder=False,
        attn_implementation="eager",
    )
    theirs = T5Stack(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.5)
    named = dict(theirs.named_parameters())
    bias = t5.RelativeBias(H, bidirectional=not decoder).double()
    bias.embedding.weight.data.copy_(named["block.0.layer.0.SelfAttention.relative_attention_bias.weight"])
    blocks = [t5.T5Block(M, H, D, HIDDEN, decoder).double() for _ in range(N)]
    copied = 1  # the bias
    for i, block in enumerate(blocks):
        for name, parameter in block.named_parameters():
            path = IN_LAYERS[name.removesuffix(".weight")].format(last=2 if decoder else 1)
            parameter.data.copy_(named[f"block.{i}.{path}.weight"])
            copied += 1
    assert copied == len(named) - 2  # all but the token embedding and the last norm
    norm = torch.nn.RMSNorm(M, eps=1e-6).double()
    norm.weight.data.copy_(theirs.final_layer_norm.weight)
    return blocks, bias, norm, theirs


def normal(seed: int, *shape: int):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_encoder_is_that_of_hugging_face() -> None:
    blocks, bias, norm, theirs = stacks(decoder=False)
    x, keep = normal(0, 2, 20, M), torch.arange(20) < torch.tensor([[20], [13]])
    wanted = theirs(inputs_embeds=x, attention_mask=keep.long()).last_hidden_state
    for block in blocks:
        x = block(x, bias(20, 20), keep[:, None, None])
    torch.testing.assert_close(norm(x)[keep], wanted[keep], rtol=1e-5, atol=1e-5)  # theirs computes norms and softmax in float32


def test_decoder_is_that_of_hugging_face() -> None:
    blocks, bias, norm, theirs = stacks(decoder=True)
    x, memory, keep = normal(1, 2, 20, M), normal(2, 2, 20, M), torch.arange(20) < torch.tensor([[6], [20]])
    wanted = theirs(inputs_embeds=x, encoder_hidden_states=memory, encoder_attention_mask=keep.long()).last_hidden_state
    causal = torch.ones(20, 20, dtype=torch.bool).tril()
    for block in blocks:
        x = block(x, bias(20, 20), causal, memory, keep[:, None, None])
    torch.testing.assert_close(norm(x), wanted, rtol=1e-5, atol=1e-5)


def test_gradients_of_bias_are_those_of_hugging_face() -> None:
    blocks, bias, norm, theirs = stacks(decoder=False)
    x = normal(3, 2, 9, M)
    theirs(inputs_embeds=x).last_hidden_state[..., 0].sum().backward()
    for block in blocks:
        x = block(x, bias(9, 9))
    norm(x)[..., 0].sum().backward()
    torch.testing.assert_close(
        bias.embedding.weight.grad, theirs.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad, msg="shared by all blocks"
    )


def test_one_query_at_its_offset_is_the_last_of_all() -> None:
    attention, bias = t5.T5Attention(M, H, D).double(), t5.RelativeBias(H, bidirectional=False).double()
    x, causal = normal(4, 2, 30, M), torch.ones(30, 30, dtype=torch.bool).tril()
    whole = attention(x, bias=bias(30, 30), mask=causal)
    for t in (0, 1, 17, 29):
        alone = attention(x[:, t : t + 1], x[:, : t + 1], bias(1, t + 1, offset=t))
        torch.testing.assert_close(alone, whole[:, t : t + 1])


@st.composite
def texts(draw):
    """A text and spans that lie apart or touch, in any order."""
    ids = draw(st.lists(st.integers(0, 99), min_size=0, max_size=20))
    borders = sorted(draw(st.sets(st.integers(0, len(ids)), max_size=8)))
    spans = [(a, b - a) for a, b in pairwise(borders) if draw(st.booleans())]
    return ids, draw(st.permutations(spans))


def mended(inputs: list[int], targets: list[int]) -> list[int]:
    """The text again: sentinels, all above 900, replaced by what the targets say."""
    parts, current = {}, []
    for token in targets:
        if token > 900:
            current = parts[token] = []
        else:
            current.append(token)
    return [i for token in inputs for i in (parts[token] if token > 900 else [token])]


@given(texts())
def test_what_was_cut_can_be_put_back(text) -> None:
    ids, spans = text
    before = list(ids)
    inputs, targets = t5.corrupt_spans(ids, spans, 999)
    assert mended(inputs, targets) == ids == before
    sentinels = [999 - i for i in range(len(spans))]
    assert [i for i in inputs if i > 900] == sentinels
    assert [i for i in targets if i > 900] == [*sentinels, 999 - len(spans)]
    assert len(inputs) + len(targets) == len(ids) + 2 * len(spans) + 1


def test_figure_2_of_the_paper() -> None:
    words = "Thank you for inviting me to your party last week .".split()
    ids = {word: i for i, word in enumerate(words)}
    X, Y, Z = 99, 98, 97
    inputs, targets = t5.corrupt_spans([ids[word] for word in words], [(2, 2), (8, 1)], X)
    assert inputs == [*(ids[word] for word in "Thank you".split()), X, *(ids[word] for word in "me to your party".split()), Y, 9, 10]
    assert targets == [X, ids["for"], ids["inviting"], Y, ids["last"], Z]


@pytest.mark.parametrize("spans", [[(0, 0)], [(-1, 2)], [(4, 2)], [(0, 3), (2, 1)], [(2, 1), (0, 3)], [(1, 1), (1, 1)], [(3, -1)]])
def test_bad_spans_are_refused(spans) -> None:
    with pytest.raises(ValueError, match="span"):
        t5.corrupt_spans([1, 2, 3, 4, 5], spans, 99)
