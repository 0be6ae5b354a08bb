"""nn.Embedding itself as the parent of both learned tables; positions are looked up; two buffers, sines and cosines."""

import torch
import torch.nn.functional as F
from torch import nn


def sinusoidal_positions(length, d_model, base=10000.0):
    channel = torch.arange(d_model)
    pair = torch.div(channel, 2, rounding_mode="floor")
    angle = torch.arange(length).unsqueeze(-1) * torch.pow(torch.tensor(base), -2.0 * pair / d_model)
    return torch.where(channel % 2 == 0, torch.sin(angle), torch.cos(angle))


class TokenEmbedding(nn.Embedding):
    def __init__(self, vocab_size, d_model):
        super().__init__(vocab_size, d_model)

    def forward(self, ids):
        return super().forward(ids) * self.embedding_dim**0.5


class LearnedPositions(nn.Embedding):
    def __init__(self, max_len, d_model):
        super().__init__(max_len, d_model)

    def forward(self, x, start=0):
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        try:
            return super().forward(positions).expand_as(x) + x
        except IndexError as error:
            raise ValueError(f"{start + x.shape[1]} > {self.num_embeddings}") from error


class SinusoidalPositions(nn.Module):
    def __init__(self, d_model, max_len=5000, dropout=0.0):
        nn.Module.__init__(self)
        table = sinusoidal_positions(max_len, d_model)
        self.register_buffer("sines", table[:, 0::2].clone(), persistent=False)
        self.register_buffer("cosines", table[:, 1::2].clone(), persistent=False)
        self.dropout, self.max_len = dropout, max_len

    def forward(self, x, start=0):
        end = start + x.shape[1]
        if self.max_len < end:
            raise ValueError(f"the sequence of {x.shape[1]} tokens from {start} ends at {end}, past max_len={self.max_len}")
        out = x.clone()
        out[..., 0::2] += self.sines[start:end]
        out[..., 1::2] += self.cosines[start:end]
        return F.dropout(out, p=self.dropout, training=self.training, inplace=True)
