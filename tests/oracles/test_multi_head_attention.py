"""Oracles of multi-head attention: PyTorch's module with the same weights, loops, and identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

ours = solution("multi_head_attention")
sizes = st.integers(1, 5)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(d_model: int, num_heads: int, bias: bool = True, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """Our module and PyTorch's, in float64, with the same weights and without zero biases."""
    module = ours.MultiHeadAttention(d_model, num_heads, bias=bias).double()
    theirs = nn.MultiheadAttention(d_model, num_heads, bias=bias, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + i))
        projections = (module.q_proj, module.k_proj, module.v_proj)
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.out_proj.weight.copy_(module.out_proj.weight)
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
            theirs.out_proj.bias.copy_(module.out_proj.bias)
    return module, theirs


@given(B=sizes, L=sizes, H=sizes, D=sizes, seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_heads_equal_a_loop_and_come_back_together(B: int, L: int, H: int, D: int, seed: int) -> None:
    x = normal(B, L, H * D, seed=seed)
    heads = ours.split_heads(x, H)
    assert heads.shape == (B, H, L, D)
    for h in range(H):
        for d in range(D):
            assert torch.equal(heads[:, h, :, d], x[:, :, h * D + d])
    assert torch.equal(ours.merge_heads(heads), x)
    assert torch.equal(ours.merge_heads(heads.contiguous()), x)


@pytest.mark.parametrize("d_model, num_heads", [(10, 4), (4, 8), (7, 2)])
def test_what_cannot_be_divided_is_refused_with_both_numbers(d_model: int, num_heads: int) -> None:
    for call in (lambda: ours.split_heads(torch.zeros(1, 2, d_model), num_heads), lambda: ours.MultiHeadAttention(d_model, num_heads)):
        with pytest.raises(ValueError, match=rf"\b{d_model}\b.*\b{num_heads}\b"):
            call()


@given(B=sizes, L=sizes, S=sizes, H=sizes, D=sizes, bias=st.booleans(), masked=st.sampled_from([0, 2, 3, 4]), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_module_equals_pytorchs_in_value_and_gradient(B: int, L: int, S: int, H: int, D: int, bias: bool, masked: int, seed: int) -> None:
    module, theirs = pair(H * D, H, bias, seed)
    inputs = [normal(B, length, H * D, seed=seed + 10 + i).requires_grad_() for i, length in enumerate((L, S, S))]
    mask = theirs_mask = None
    if masked:
        shape = {2: (L, S), 3: (B, L, S), 4: (B, H, L, S)}[masked]
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
        mask[..., 0] |= ~mask.any(-1)  # PyTorch gives NaN for a row without keys
        full = mask[:, None] if masked == 3 else mask
        theirs_mask = ~full.expand(B, H, L, S).reshape(B * H, L, S)  # True means blocked there
    upstream = normal(B, L, H * D, seed=seed + 20)
    out, weights = module(*inputs, mask=mask, need_weights=True)
    wanted, wanted_weights = theirs(*inputs, attn_mask=theirs_mask, average_attn_weights=False)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(weights, wanted_weights)
    torch.testing.assert_close(torch.autograd.grad((out * upstream).sum(), inputs), torch.autograd.grad((wanted * upstream).sum(), inputs))


def test_parameters_gradients_equal_pytorchs() -> None:
    module, theirs = pair(6, 2)
    x, upstream = normal(2, 4, 6, seed=50), normal(2, 4, 6, seed=51)
    (module(x) * upstream).sum().backward()
    (theirs(x, x, x)[0] * upstream).sum().backward()
    projections = (module.q_proj, module.k_proj, module.v_proj)
    torch.testing.assert_close(torch.cat([p.weight.grad for p in projections]), theirs.in_proj_weight.grad)
    torch.testing.assert_close(torch.cat([p.bias.grad for p in projections]), theirs.in_proj_bias.grad)
    torch.testing.assert_close(module.out_proj.weight.grad, theirs.out_proj.weight.grad)
    torch.testing.assert_close(module.out_proj.bias.grad, theirs.out_proj.bias.grad)


def test_padding_equals_pytorchs_key_padding_mask() -> None:
    module, theirs = pair(6, 3)
    query, key = normal(2, 4, 6, seed=60), normal(2, 5, 6, seed=61)
    allowed = torch.arange(5) < torch.tensor([[3], [5]])
    torch.testing.assert_close(module(query, key, mask=allowed[:, None, None]), theirs(query, key, key, key_padding_mask=~allowed)[0])


def test_module_equals_a_loop_where_rows_have_no_keys() -> None:
    B, H, L, S, D = 2, 3, 4, 5, 2
    module, _ = pair(H * D, H)
    query, key = normal(B, L, H * D, seed=70), normal(B, S, H * D, seed=71)
    mask = torch.rand(B, H, L, S, generator=torch.Generator().manual_seed(72)) < 0.5
    mask[0, :, 1] = False
    q, k, v = (project(x).detach() for project, x in ((module.q_proj, query), (module.k_proj, key), (module.v_proj, key)))
    mixed = torch.zeros(B, L, H * D, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            own = slice(h * D, (h + 1) * D)
            for i in range(L):
                keys = [j for j in range(S) if mask[b, h, i, j]]
                powers = [math.exp(float(q[b, i, own] @ k[b, j, own]) / math.sqrt(D)) for j in keys]
                for j, power in zip(keys, powers):
                    mixed[b, i, own] += power / sum(powers) * v[b, j, own]
    out = module(query, key, mask=mask)
    torch.testing.assert_close(out, module.out_proj(mixed))
    torch.testing.assert_close(out[0, 1], module.out_proj.bias)


def test_gradients_are_finite_where_rows_have_no_keys() -> None:
    module, _ = pair(4, 2)
    x = normal(1, 3, 4, seed=80).requires_grad_()
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    out, weights = module(x, mask=mask, need_weights=True)
    assert (weights[:, :, 1] == 0).all()
    gradients = torch.autograd.grad((out * normal(1, 3, 4, seed=81)).sum(), [x, *module.parameters()])
    assert all(g.isfinite().all() for g in gradients)


def test_one_head_equals_pytorchs_attention_function() -> None:
    module, _ = pair(4, 1)
    x, mask = normal(2, 3, 4, seed=90), torch.ones(3, 3).tril().bool()
    attended = nn.functional.scaled_dot_product_attention(module.q_proj(x), module.k_proj(x), module.v_proj(x), mask)
    torch.testing.assert_close(module(x, mask=mask), module.out_proj(attended))


def test_without_a_mask_the_order_of_tokens_does_not_matter() -> None:
    module, _ = pair(6, 2)
    x, order = normal(2, 5, 6, seed=100), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])


def test_dropout_keeps_the_mean_and_only_works_in_training() -> None:
    module = ours.MultiHeadAttention(8, 2, dropout=0.25).double()
    x = normal(1, 6, 8, seed=110)
    module.eval()
    _, full = module(x, need_weights=True)
    assert torch.equal(module(x), module(x))
    torch.testing.assert_close(full.sum(-1), torch.ones(1, 2, 6, dtype=torch.float64))
    module.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.stack([module(x, need_weights=True)[1] for _ in range(2000)])
    kept = drawn != 0
    assert abs(float(kept.double().mean()) - 0.75) < 0.005
    torch.testing.assert_close(drawn[kept], (full / 0.75).expand_as(drawn)[kept])
    torch.testing.assert_close(drawn.mean(0), full, atol=0.03, rtol=0)
