"""The fate of each token from one multinomial draw; queries, keys and values from one product; positions and segments as one-hot rows."""

import torch
import torch.nn.functional as F
from torch import nn

NOT_CHOSEN, HIDDEN, RANDOM, UNCHANGED = range(4)


def mask_tokens(ids, mask_id, vocab_size, special_ids, rate=0.15, generator=None):
    chances = torch.tensor([1 - rate, 0.8 * rate, 0.1 * rate, 0.1 * rate])
    fate = torch.multinomial(chances, ids.numel(), replacement=True, generator=generator).reshape(ids.shape)
    special = (ids[..., None] == torch.tensor(special_ids, dtype=ids.dtype)).any(-1)
    fate[special] = NOT_CHOSEN
    inputs, labels = ids.clone(), torch.full_like(ids, -100)
    labels[fate != NOT_CHOSEN] = ids[fate != NOT_CHOSEN]
    inputs[fate == HIDDEN] = mask_id
    randoms = fate == RANDOM
    inputs[randoms] = torch.randint(0, vocab_size, (int(randoms.sum()),), generator=generator)
    return inputs, labels


class Layer(nn.Module):
    def __init__(self, M, H, hidden):
        super().__init__()
        self.H = H
        self.norm1, self.norm2 = nn.LayerNorm(M, eps=1e-12), nn.LayerNorm(M, eps=1e-12)
        self.attn = nn.ModuleDict({f"{n}_proj": nn.Linear(M, M) for n in ("q", "k", "v", "out")})
        self.ff = nn.ModuleDict(dict(up=nn.Linear(M, hidden), down=nn.Linear(hidden, M)))

    def forward(self, x, keep):
        B, L, M = x.shape
        parts = [self.attn[f"{n}_proj"] for n in "qkv"]
        weight, bias = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
        q, k, v = F.linear(x, weight, bias).view(B, L, 3, self.H, M // self.H).permute(2, 0, 3, 1, 4)
        mask = None if keep is None else torch.zeros(B, 1, 1, L, dtype=x.dtype).masked_fill(~keep[:, None, None], -torch.inf)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.attn["out_proj"](out.transpose(1, 2).reshape(B, L, M)))
        return self.norm2(x + self.ff["down"](F.gelu(self.ff["up"](x), approximate="none")))


class Bert(nn.Module):
    def __init__(self, vocab_size, max_len, d_model, num_layers, num_heads, d_hidden, num_segments=2):
        super().__init__()
        self.sizes = max_len, num_segments
        self.token_embedding, self.position_embedding = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.segment_embedding, self.embedding_norm = nn.Embedding(num_segments, d_model), nn.LayerNorm(d_model, eps=1e-12)
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.append(Layer(d_model, num_heads, d_hidden))
        self.pooler, self.mlm_transform = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.mlm_norm, self.mlm_bias = nn.LayerNorm(d_model, eps=1e-12), nn.Parameter(torch.zeros(vocab_size))

    def forward(self, ids, segments=None, keep=None):
        max_len, num_segments = self.sizes
        if ids.shape[1] > max_len:
            raise ValueError("no positions for so many tokens")
        tokens = self.token_embedding(ids)
        positions = torch.eye(ids.shape[1], max_len, dtype=tokens.dtype) @ self.position_embedding.weight
        segments = torch.zeros_like(ids) if segments is None else segments
        x = tokens + positions + F.one_hot(segments, num_segments).to(tokens.dtype) @ self.segment_embedding.weight
        x = self.embedding_norm(x)
        for layer in self.layers:
            x = layer(x, keep)
        return x, self.pooler(x[:, :1]).squeeze(1).tanh()

    def mlm_logits(self, hidden):
        x = self.mlm_norm(F.gelu(self.mlm_transform(hidden)))
        return (x.unsqueeze(-2) * self.token_embedding.weight).sum(-1) + self.mlm_bias
