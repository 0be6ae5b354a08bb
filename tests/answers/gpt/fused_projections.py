"""q, k and v in one product of joined weights, PyTorch's fused attention with a boolean mask, subclasses of nn.Embedding and nn.Linear, a preallocated row."""

import torch
import torch.nn.functional as F
from torch import nn


class Normal(nn.Linear):
    """A linear layer that begins as GPT-2's do."""

    def __init__(self, inputs, outputs, std=0.02, bias=True):
        self.std = std
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self):
        self.weight.data.normal_(std=self.std)
        if self.bias is not None:
            self.bias.data.zero_()


class Table(nn.Embedding):
    def reset_parameters(self):
        self.weight.data.normal_(std=0.02)


class Attention(nn.Module):
    def __init__(self, width, heads, std, p):
        super().__init__()
        self.heads, self.p = heads, p
        for name in "qkv":
            self.add_module(f"{name}_proj", Normal(width, width))
        self.out_proj = Normal(width, width, std)

    def forward(self, x, mask):
        parts = [self.q_proj, self.k_proj, self.v_proj]
        joined = F.linear(x, torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        q, k, v = joined.view(len(x), -1, 3, self.heads, x.shape[-1] // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, mask, self.p * self.training)
        return self.out_proj(out.permute(0, 2, 1, 3).reshape_as(x))


class Block(nn.Module):
    def __init__(self, width, heads, std, p):
        super().__init__()
        self.attn = Attention(width, heads, std, p)
        self.ff = nn.ModuleDict({"up": Normal(width, 4 * width), "down": Normal(4 * width, width, std)})
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)


class GPT(nn.Module):
    def __init__(self, vocab_size, max_len, d_model, num_layers, num_heads, dropout=0.0):
        super().__init__()
        std = 0.02 / (num_layers + num_layers) ** 0.5
        self.max_len, self.p = max_len, dropout
        self.token_embedding = Table(vocab_size, d_model)
        self.position_embedding = Table(max_len, d_model)
        self.blocks = nn.Sequential(*[Block(d_model, num_heads, std, dropout) for _ in range(num_layers)])
        self.final_norm = nn.LayerNorm(d_model)
        self.lm_head = Normal(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight
        self.register_buffer("causal", torch.ones(max_len, max_len, dtype=torch.bool).tril(), persistent=False)

    def forward(self, ids, targets=None):
        B, L = ids.shape
        if L > self.max_len:
            raise ValueError("too long")

        def drop(x):
            return F.dropout(x, self.p, self.training)

        x = drop(self.token_embedding(ids) + self.position_embedding.weight[None, :L])
        for block in self.blocks:
            x = x + drop(block.attn(block.norm1(x), self.causal[:L, :L]))
            hidden = F.gelu(block.ff["up"](block.norm2(x)), approximate="tanh")
            x = x + drop(block.ff["down"](hidden))
        logits = self.lm_head(self.final_norm(x))
        return logits if targets is None else (logits, F.cross_entropy(logits.transpose(1, 2), targets))


def num_parameters(model):
    return nn.utils.parameters_to_vector([p.detach() for p in model.parameters()]).shape[0]


@torch.inference_mode()
def generate(model, ids, max_new):
    mode, L = model.training, ids.size(1)
    row = ids.new_zeros(len(ids), L + max_new)
    row[:, :L] = ids
    model.eval()
    for end in range(L, L + max_new):
        row[:, end] = model(row[:, max(0, end - model.max_len) : end])[:, -1].argmax(dim=1)
    model.train(mode)
    return row
