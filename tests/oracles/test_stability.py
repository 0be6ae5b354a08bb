"""Oracles of stability: PyTorch's clipping, its GradScaler, its recipe for mixed precision, and one big batch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

stability = solution("stability")
seeds = st.integers(0, 999)
shapes = st.lists(st.lists(st.integers(1, 4), max_size=3), max_size=5)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradients(shapes: list[list[int]], seed: int, scale: float = 1.0) -> list[nn.Parameter]:
    """Parameters of these shapes; every third has no gradient."""
    made = []
    for i, shape in enumerate(shapes):
        param = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        param.grad = None if i % 3 == 2 else scale * normal(*shape, seed=seed + i)
        made.append(param)
    return made


@given(shapes=shapes, scale=st.sampled_from([1e-8, 1.0, 1e8]), seed=seeds)
@settings(max_examples=50, deadline=None)
def test_norm_equals_pytorchs(shapes: list[list[int]], scale: float, seed: int) -> None:
    params = with_gradients(shapes, seed, scale)
    norm = stability.grad_norm(param for param in params)
    assert norm.shape == ()
    torch.testing.assert_close(norm.double(), torch.nn.utils.clip_grad_norm_(params, math.inf).double())


@given(shapes=shapes, scale=st.sampled_from([0.01, 1.0, 100.0]), max_norm=st.sampled_from([0.5, 1.0, 20.0]), seed=seeds)
@settings(max_examples=50, deadline=None)
def test_clipping_equals_pytorchs(shapes: list[list[int]], scale: float, max_norm: float, seed: int) -> None:
    ours, theirs = (with_gradients(shapes, seed, scale) for _ in range(2))
    held = [param.grad for param in ours]
    norms = stability.clip_grad_norm(iter(ours), max_norm), torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(norms[0].double(), norms[1].double())
    for before, one, other in zip(held, ours, theirs, strict=True):
        assert one.grad is before
        if before is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_norm_that_is_not_finite_changes_nothing(bad: float) -> None:
    ours, theirs = (with_gradients([[3], [2, 2]], seed=0) for _ in range(2))
    for params in (ours, theirs):
        params[1].grad[0, 1] = bad
    before = [param.grad.clone() for param in ours]
    norms = stability.clip_grad_norm(ours, 0.1), torch.nn.utils.clip_grad_norm_(theirs, 0.1)  # theirs spoils what it scales
    torch.testing.assert_close(*norms, equal_nan=True, check_dtype=False)
    torch.testing.assert_close([param.grad for param in ours], before, equal_nan=True, rtol=0, atol=0)
    assert not torch.equal(theirs[0].grad, before[0])


class Line(nn.Module):
    """A loss whose gradient is given: weight · direction."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.other = nn.Parameter(torch.tensor([0.5]))

    def forward(self, direction: Tensor) -> Tensor:
        return (self.weight * direction).sum() + self.other.sum()


def optimizers(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.1)


@given(
    overflows=st.lists(st.booleans(), max_size=30),
    unscaled_first=st.lists(st.booleans(), min_size=30, max_size=30),
    interval=st.integers(1, 4),
    factors=st.sampled_from([(2.0, 0.5), (3.0, 0.25)]),
)
@settings(max_examples=40, deadline=None)
def test_scaler_equals_pytorchs_step_by_step(
    overflows: list[bool], unscaled_first: list[bool], interval: int, factors: tuple[float, float]
) -> None:
    ours, theirs = Line(), Line()
    our_optimizer, their_optimizer = optimizers(ours), optimizers(theirs)
    our_scaler = stability.LossScaler(1024.0, *factors, interval)
    their_scaler = torch.amp.GradScaler("cpu", 1024.0, *factors, interval)
    for step, (overflow, first) in enumerate(zip(overflows, unscaled_first)):
        direction = normal(3, seed=step).float()
        direction[step % 3] = (math.inf, math.nan)[step % 2] if overflow else direction[step % 3]
        for model, optimizer in ((ours, our_optimizer), (theirs, their_optimizer)):
            optimizer.zero_grad()
            scaler = our_scaler if model is ours else their_scaler
            scaler.scale(model(direction)).backward()
        before = [param.detach().clone() for param in ours.parameters()]
        if first:
            assert our_scaler.unscale(ours.parameters()) is overflow
            their_scaler.unscale_(their_optimizer)
            if not overflow:
                torch.testing.assert_close(ours.weight.grad, direction)
                torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
            with pytest.raises(RuntimeError):
                our_scaler.unscale(ours.parameters())
            with pytest.raises(RuntimeError):
                their_scaler.unscale_(their_optimizer)
        assert our_scaler.step(our_optimizer, ours.parameters()) is not overflow
        their_scaler.step(their_optimizer)
        with pytest.raises(RuntimeError):
            our_scaler.unscale(ours.parameters())
        our_scaler.update()
        their_scaler.update()
        assert our_scaler.value == pytest.approx(their_scaler.get_scale(), rel=1e-6)  # theirs is a float32
        torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))
        assert overflow is all(map(torch.equal, before, ours.parameters()))


def test_defaults_are_those_of_pytorchs_scaler() -> None:
    ours, theirs = stability.LossScaler(), torch.amp.GradScaler("cpu")
    assert ours.value == theirs.get_scale()
    assert ours.growth_factor == theirs.get_growth_factor()
    assert ours.backoff_factor == theirs.get_backoff_factor()
    assert ours.growth_interval == theirs.get_growth_interval()


VOCABULARY = 7


def language_model(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    model = nn.Sequential(nn.Embedding(VOCABULARY, 5), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, VOCABULARY)).to(dtype)
    with torch.no_grad():
        for i, param in enumerate(model.parameters()):
            param.copy_(normal(*param.shape, seed=seed + i))
    return model


def token_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    inputs, targets = batch
    losses = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), ignore_index=-100, reduction="sum")
    return losses, int((targets != -100).sum())


@given(B=st.integers(1, 6), L=st.integers(1, 5), size=st.integers(1, 6), share=st.sampled_from([0.0, 0.5, 0.9]), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_accumulation_equals_one_big_batch(B: int, L: int, size: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randint(VOCABULARY, (2, B, L), generator=generator)
    targets[torch.rand(B, L, generator=generator) < share] = -100
    targets[-1, -1] = 0  # at least one counts
    small = language_model(seed)
    big = copy.deepcopy(small)
    loss = stability.accumulate_gradients(small, zip(inputs.split(size), targets.split(size)), token_losses)
    wanted = F.cross_entropy(big(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)
    wanted.backward()
    assert type(loss) is float and loss == pytest.approx(wanted.item())
    torch.testing.assert_close([param.grad for param in small.parameters()], [param.grad for param in big.parameters()])


def test_one_graph_at_a_time_is_alive() -> None:
    """The graphs of earlier micro-batches are freed: memory does not grow with their number."""
    alive = set()

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            alive.add(id(ctx))
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            alive.discard(id(ctx))
            return grad

    largest = []

    def loss_fn(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
        loss = Marked.apply(model(x)).sum()
        largest.append(len(alive))
        return loss, len(x)

    stability.accumulate_gradients(nn.Linear(2, 1), torch.ones(4, 3, 2), loss_fn)
    assert largest == [1, 1, 1, 1]


@pytest.mark.parametrize("max_norm", [0.01, 1e3])
@pytest.mark.parametrize("scale", [2.0**10, 2.0**126])
def test_mixed_precision_equals_pytorchs_recipe(max_norm: float, scale: float) -> None:
    ours = language_model(1, torch.float32)
    theirs = copy.deepcopy(ours)
    our_optimizer, their_optimizer = optimizers(ours), optimizers(theirs)
    settings = {"backoff_factor": 2.0**-60, "growth_interval": 2}
    our_scaler, their_scaler = stability.LossScaler(scale, **settings), torch.amp.GradScaler("cpu", scale, **settings)
    told = []
    for step in range(5):
        inputs, targets = torch.randint(VOCABULARY, (2, 4, 3), generator=torch.Generator().manual_seed(step))

        def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
            loss, tokens = token_losses(model, batch)
            return 100 * loss, tokens  # enough for 2 ** 126 to overflow

        our_optimizer.zero_grad()
        told.append(stability.mixed_precision_step(ours, (inputs, targets), loss_fn, our_optimizer, our_scaler, max_norm))
        their_optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, tokens = loss_fn(theirs, (inputs, targets))
        their_scaler.scale(loss / tokens).backward()
        their_scaler.unscale_(their_optimizer)
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        their_scaler.step(their_optimizer)
        their_scaler.update()
        assert told[-1]["loss"] == pytest.approx(loss.item() / tokens)
        assert not math.isfinite(norm) or told[-1]["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
        assert our_scaler.value == pytest.approx(their_scaler.get_scale(), rel=1e-6)  # theirs is a float32
        torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))
    assert [each["stepped"] for each in told] == [scale < 2.0**100, True, True, True, True]


def test_forward_pass_is_in_bfloat16_and_weights_stay_in_float32() -> None:
    """In float32 the loss would be another: 1 + 2 ** -9 is 1 in bfloat16."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1 + 2.0**-9)
    seen = []

    def loss_fn(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
        out = model(x)
        seen.append(out.dtype)
        return out.float().sum(), len(x)

    optimizer = torch.optim.SGD(model.parameters(), lr=2.0**-10)
    told = stability.mixed_precision_step(model, torch.ones(3, 1), loss_fn, optimizer, stability.LossScaler(), 1e9)
    assert seen == [torch.bfloat16] and told["loss"] == 1.0
    assert model.weight.dtype == torch.float32 and model.weight.item() == 1 + 2.0**-9 - 2.0**-10
