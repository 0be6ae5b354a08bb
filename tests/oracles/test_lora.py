"""Oracles of LoRA: the dense weight W + scale · B A, counts by hand, autograd through the dense weight, a real model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

lora = solution("lora")
sizes = st.integers(1, 5)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(I: int, O: int, r: int, alpha: float, bias: bool = True, seed: int = 0, dropout: float = 0.0) -> nn.Module:
    made = lora.LoRALinear(nn.Linear(I, O, bias=bias).double(), r, alpha, dropout)
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + i))
    return made


@given(I=sizes, O=sizes, r=sizes, alpha=st.sampled_from([0.5, 1.0, 16.0]), bias=st.booleans(), seed=seeds)
@settings(max_examples=50, deadline=None)
def test_layer_is_a_dense_one_with_another_weight(I: int, O: int, r: int, alpha: float, bias: bool, seed: int) -> None:
    """In value; and by the chain rule, from the gradient G of the dense weight: dB = scale · G Aᵀ, dA = scale · Bᵀ G."""
    ours, x, upstream = layer(I, O, r, alpha, bias, seed), normal(2, 3, I, seed=seed + 9).requires_grad_(), normal(2, 3, O, seed=seed + 8)
    outer = torch.stack([torch.outer(ours.B[:, n], ours.A[n]) for n in range(r)]).sum(0)
    dense = (ours.base.weight + alpha / r * outer).detach().requires_grad_()
    wanted = F.linear(x, dense, ours.base.bias)
    torch.testing.assert_close(ours(x), wanted)
    G, dx = torch.autograd.grad((wanted * upstream).sum(), (dense, x))
    found = torch.autograd.grad((ours(x) * upstream).sum(), (ours.A, ours.B, x))
    torch.testing.assert_close(found, (alpha / r * ours.B.T @ G, alpha / r * G @ ours.A.T, dx))
    ours.merge()
    torch.testing.assert_close(ours.base.weight, dense, check_stride=False)
    torch.testing.assert_close(ours(x), wanted)


@given(calls=st.lists(st.sampled_from(["merge", "unmerge"]), max_size=6), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_only_the_last_of_any_calls_counts(calls: list[str], seed: int) -> None:
    ours, x = layer(3, 4, 2, 3.0, seed=seed), normal(5, 3, seed=seed)
    weight, out = ours.base.weight.clone(), ours(x)
    for call in calls:
        getattr(ours, call)()
    merged = bool(calls) and calls[-1] == "merge"
    torch.testing.assert_close(ours.base.weight, weight + merged * 1.5 * ours.B @ ours.A)
    torch.testing.assert_close(ours(x), out)


def test_first_step_moves_b_and_the_second_a() -> None:
    base = nn.Linear(4, 3)
    ours, x, target = lora.LoRALinear(base, 2, 4.0), torch.randn(8, 4), torch.randn(8, 3)
    torch.testing.assert_close(ours(x), base(x))
    before = {name: parameter.clone() for name, parameter in ours.named_parameters()}
    optimizer = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], lr=0.1)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(ours(x), target).backward()
        optimizer.step()
        moved.append({name for name, parameter in ours.named_parameters() if not torch.equal(parameter, before[name])})
    assert moved == [{"B"}, {"A", "B"}]


def test_dropout_keeps_the_expectation_and_the_base() -> None:
    ours, x = layer(3, 2, 2, 4.0, dropout=0.5), normal(1, 3, seed=1)
    torch.manual_seed(0)
    many = ours(x.expand(40000, 3))
    torch.testing.assert_close(many.mean(0), ours.eval()(x)[0], atol=0.1, rtol=0)
    assert many.unique(dim=0).shape[0] == 2**3
    kept = torch.tensor([[k >> i & 1 for i in range(3)] for k in range(8)]).double()
    sets = ours.base(x) + 2.0 * (kept * x * 2) @ ours.A.T @ ours.B.T
    torch.testing.assert_close(many.unique(dim=0), sets.unique(dim=0))


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    torch.manual_seed(0)
    small = {"vocab_size": 11, "num_hidden_layers": 2, "max_position_embeddings": 16, "attn_implementation": "eager"}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=24, **small, **heads)).eval()


def test_a_real_model_is_adapted(llama: nn.Module) -> None:
    """Counted by hand: in two layers q_proj 16 → 16, v_proj 16 → 8, rank 3. Then trained, stored, and loaded into another copy."""
    model, ids = copy.deepcopy(llama), torch.arange(8)[None]
    with torch.no_grad():
        before = model(ids).logits
    assert lora.add_lora(model, ["q_proj", "v_proj"], 3, 6.0) == 2 * (3 * (16 + 16) + 3 * (16 + 8))
    assert sum(isinstance(module, lora.LoRALinear) for module in model.modules()) == 4
    torch.testing.assert_close(model(ids).logits.detach(), before)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model(ids).logits.detach()
    assert (after - before).abs().max() > 1e-4
    state = lora.lora_state_dict(model)
    assert sorted(state)[:2] == ["model.layers.0.self_attn.q_proj.A", "model.layers.0.self_attn.q_proj.B"]
    assert sum(tensor.numel() for tensor in state.values()) == 336
    other = copy.deepcopy(llama)
    lora.add_lora(other, {"v_proj", "q_proj"}, 3, 6.0)
    assert other.load_state_dict(state, strict=False).unexpected_keys == []
    torch.testing.assert_close(other(ids).logits.detach(), after)
    for module in other.modules():
        if isinstance(module, lora.LoRALinear):
            module.merge()
    torch.testing.assert_close(other(ids).logits, after, atol=1e-5, rtol=1e-4)


def test_no_layer_chosen_leaves_the_model_as_it_was(llama: nn.Module) -> None:
    model = copy.deepcopy(llama)
    with pytest.raises(ValueError, match="query"):
        lora.add_lora(model, ["query", "proj", "self_attn"], 2, 2.0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert lora.lora_state_dict(model) == {}
    with pytest.raises(ValueError, match="-2"):
        lora.LoRALinear(nn.Linear(2, 2), -2, 1.0)
