"""exp and log in float32, a buffer with a batch axis, scaled by math.sqrt; the look-up is indexing, after a check."""

import math

import torch
import torch.nn as nn
from torch.autograd import Variable


def sinusoidal_positions(length, d_model, base=10000.0):
    pe = torch.zeros(length, d_model)
    position = torch.arange(0, length).unsqueeze(1).float()
    div_term = torch.exp(torch.arange(0, d_model, 2).float() * -(math.log(base) / d_model))
    pe[:, 0::2] = torch.sin(position * div_term)
    pe[:, 1::2] = torch.cos(position * div_term[: pe[:, 1::2].size(1)])
    return pe


class TokenEmbedding(nn.Module):
    def __init__(self, vocab_size, d_model):
        super(TokenEmbedding, self).__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        nn.init.xavier_uniform_(self.weight)
        self.d_model = d_model

    def forward(self, ids):
        if ids.min() < 0 or ids.max() >= self.weight.size(0):
            raise IndexError("id out of range")
        return self.weight[ids] * math.sqrt(self.d_model)


class LearnedPositions(nn.Module):
    def __init__(self, max_len, d_model):
        super(LearnedPositions, self).__init__()
        self.weight = nn.Parameter(torch.zeros(max_len, d_model))

    def forward(self, x, start=0):
        stop = start + x.size(1)
        if stop > self.weight.size(0):
            raise ValueError("start + L = %d > max_len = %d" % (stop, self.weight.size(0)))
        return x + self.weight[start:stop].unsqueeze(0).repeat(x.size(0), 1, 1)


class SinusoidalPositions(nn.Module):
    def __init__(self, d_model, max_len=5000, dropout=0.0):
        super(SinusoidalPositions, self).__init__()
        self.dropout = nn.Dropout(p=dropout)
        self.register_buffer("pe", sinusoidal_positions(max_len, d_model).unsqueeze(0), persistent=False)

    def forward(self, x, start=0):
        stop = start + x.size(1)
        if stop > self.pe.size(1):
            raise ValueError("start + L = %d > max_len = %d" % (stop, self.pe.size(1)))
        x = x + Variable(self.pe[:, start:stop], requires_grad=False)
        return self.dropout(x)
