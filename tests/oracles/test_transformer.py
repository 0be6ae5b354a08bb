"""Oracles of the Transformer: nn.Transformer with the same weights, and a slow loop for greedy decoding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

transformer = solution("transformer")
SIZES = {"d_model": 12, "num_heads": 3, "num_layers": 2, "d_hidden": 16}


def model(seed: int, **options) -> nn.Module:
    torch.manual_seed(seed)
    return transformer.Transformer(11, 7, **SIZES | options).double().eval()


def ids(seed: int, batch: int, length: int, below: int) -> Tensor:
    return torch.randint(1, below, (batch, length), generator=torch.Generator().manual_seed(seed))


def attention_weights(ours: nn.Module, name: str) -> dict[str, Tensor]:
    """Our four projections under the names of nn.MultiheadAttention."""
    parts = [ours.q_proj, ours.k_proj, ours.v_proj]
    return {
        f"{name}.in_proj_weight": torch.cat([part.weight for part in parts]),
        f"{name}.in_proj_bias": torch.cat([part.bias for part in parts]),
        f"{name}.out_proj.weight": ours.out_proj.weight,
        f"{name}.out_proj.bias": ours.out_proj.bias,
    }


def torch_transformer(ours: nn.Module) -> nn.Transformer:
    theirs = nn.Transformer(12, 3, 2, 2, 16, dropout=0.0, batch_first=True, norm_first=True).double().eval()
    state = {}
    for stack in ("encoder", "decoder"):
        state |= {f"{stack}.norm.{key}": value for key, value in getattr(ours, f"{stack}_norm").state_dict().items()}
        for i, layer in enumerate(getattr(ours, stack)):
            at = f"{stack}.layers.{i}"
            state |= attention_weights(layer.self_attn, f"{at}.self_attn")
            if stack == "decoder":
                state |= attention_weights(layer.cross_attn, f"{at}.multihead_attn")
            for name, part in {"linear1": layer.ff[0], "linear2": layer.ff[2]}.items():
                state |= {f"{at}.{name}.{key}": value for key, value in part.state_dict().items()}
            for name in ("norm1", "norm2", "norm3")[: 2 if stack == "encoder" else 3]:
                state |= {f"{at}.{name}.{key}": value for key, value in getattr(layer, name).state_dict().items()}
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@given(seed=st.integers(0, 999), S=st.integers(1, 5), L=st.integers(1, 5), padding=st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_equals_torch_transformer(seed: int, S: int, L: int, padding: int) -> None:
    ours = model(seed)
    theirs = torch_transformer(ours)
    src, tgt = ids(seed, 3, S, 11), ids(seed + 1, 3, L, 7)
    src[1, max(S - padding, 1) :] = 0
    hidden = theirs(
        ours.src_embedding(src) + ours.positions[:S],
        ours.tgt_embedding(tgt) + ours.positions[:L],
        tgt_mask=torch.ones(L, L, dtype=torch.bool).triu(1),
        src_key_padding_mask=src == 0,
        memory_key_padding_mask=src == 0,
    )
    torch.testing.assert_close(ours(src, tgt), ours.to_logits(hidden))


@given(seed=st.integers(0, 999), max_new=st.integers(1, 6), eos=st.integers(0, 6), bos=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_greedy_decoding_equals_a_slow_loop(seed: int, max_new: int, eos: int, bos: int) -> None:
    """Each row by itself, without padding of the source, to its own end."""
    ours = model(seed)
    src = ids(seed, 4, 5, 11)
    src[1, 2:] = src[3, 4:] = 0
    rows = []
    for row in src:
        row, said = row[row != 0][None], [bos]
        for _ in range(max_new):
            said.append(int(ours(row, torch.tensor([said]))[0, -1].argmax()))
            if said[-1] == eos:
                break
        rows.append(said[1:])
    longest = max(map(len, rows))
    wanted = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    assert torch.equal(ours.greedy_decode(src, bos, eos, max_new), wanted)


@pytest.mark.parametrize("d_model", [7, 8])
def test_positions_are_those_of_the_paper(d_model: int) -> None:
    table = transformer._sinusoids(20, d_model)
    for position in range(20):
        for channel in range(d_model):
            angle = torch.tensor(position / 10000 ** (2 * (channel // 2) / d_model))
            wanted = angle.sin() if channel % 2 == 0 else angle.cos()
            torch.testing.assert_close(table[position, channel], wanted, atol=1e-5, rtol=1e-5)
