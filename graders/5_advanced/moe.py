"""What a right mixture of experts does."""

import torch

from kata.grading import (
    at_most,
    check,
    choice,
    close,
    cost,
    count,
    distinct,
    failure,
    gradients,
    index,
    indices,
    inputs_after,
    normal,
    parameters,
    seed,
    size,
    with_weights,
)

# Routing.


@check(points=2, logits=distinct("T E"), k=count("E"), sizes={"T": (1, 3), "E": (1, 5)}, draws=2)
def routing_chooses_and_weighs(impl, logits, k):
    """top_k_routing gives the softmax over the k largest logits of each token, and the experts they belong to, best first."""
    return impl.top_k_routing(logits, k)


@check(points=1, after=routing_chooses_and_weighs, logits=distinct("T E"), sizes={"T": (3,), "E": (4,)})
def k_goes_from_one_to_all(impl, logits):
    """k may be 1, which gives the weight 1, and E; anything below or above raises ValueError."""
    E = logits.shape[1]
    refused = {f"k = {k}": failure(impl.top_k_routing, logits, k)[0] for k in (0, -1, E + 1)}
    return impl.top_k_routing(logits, 1), impl.top_k_routing(logits, E), refused


@check(
    points=1, after=routing_chooses_and_weighs, logits=distinct("T E"), k=count("E"), seed=seed(), sizes={"T": (3,), "E": (2, 5)}, draws=2
)
def routing_weights_carry_gradients(impl, logits, k, seed):
    """The routing weights are differentiable: through them the router learns which expert helps."""
    return gradients(impl.top_k_routing, logits, k, seed=seed)["inputs"]


# The losses.


@check(points=2, logits=distinct("T E"), experts=indices("T K", below="E", unique=True), sizes={"E": (3, 4, 5), "K": (1, 2, 3)})
def balance_is_share_times_probability(impl, logits, experts):
    """load_balancing_loss is E · Σ f·P: f counts all the given assignments, P is the mean of the full softmax."""
    return impl.load_balancing_loss(logits, experts)


@check(
    points=1,
    after=balance_is_share_times_probability,
    logits=distinct("T E"),
    experts=indices("T K", below="E", unique=True),
    seed=seed(),
    sizes={"T": (2, 3), "E": (3, 5), "K": (2,)},
)
def balance_teaches_the_router(impl, logits, experts, seed):
    """The gradient of load_balancing_loss flows through P, the probabilities."""
    return gradients(impl.load_balancing_loss, logits, experts, seed=seed)["inputs"]


@check(points=1, logits=normal("T E", scale=3.0), seed=seed(), sizes={"T": (1, 3), "E": (4,)})
def z_loss_is_the_mean_squared_logsumexp(impl, logits, seed):
    """router_z_loss is the mean over the tokens of logsumexp(logits)², in value and in gradient."""
    return impl.router_z_loss(logits), gradients(impl.router_z_loss, logits, seed=seed)["inputs"]


@check(
    points=1,
    after=(routing_chooses_and_weighs, balance_is_share_times_probability, z_loss_is_the_mean_squared_logsumexp),
    compare=close(rtol=1e-3, atol=1e-5),
    logits=distinct("T E"),
    experts=indices("T 2", below="E", unique=True),
    shift=choice(1000.0, -1000.0),
    seed=seed(),
    sizes={"T": (3,), "E": (4,)},
    draws=2,
)
def large_logits_stay_finite(impl, logits, experts, shift, seed):
    """Logits around 1000 or -1000, or both in one batch, give the right weights, losses and gradients, never infinity or NaN."""
    large, unlike = logits + shift, logits + shift * torch.tensor([[1.0], [-1.0], [1.0]])
    z_losses = impl.router_z_loss(large), impl.router_z_loss(unlike)
    seen = {"routing": impl.top_k_routing(large, 2), "balance": impl.load_balancing_loss(large, experts), "z-losses": z_losses}
    functions = {"routing": (impl.top_k_routing, 2), "balance": (impl.load_balancing_loss, experts), "z-loss": (impl.router_z_loss,)}
    return seen | {
        f"gradients, {name}": gradients(function, large, *rest, seed=seed)["inputs"][0] for name, (function, *rest) in functions.items()
    }


# Capacity.


@check(points=1, n=count(20), num_experts=choice(8, 16), k=choice(2, 3), draws=2)
def capacity_is_rounded_up(impl, n, num_experts, k):
    """expert_capacity is capacity_factor · T · k / E, rounded up to an int, where that is a whole number, also 0, and where not."""
    even = n * num_experts
    cases = (even, 1.0), (even + 1, 1.0), (even + 1, 2.0), (even - 1, 16.0), (4 * even + 1, 0.25), (1, 0.01), (even, 0.0)
    seen = {f"T = {T}, factor {factor}": impl.expert_capacity(T, num_experts, k, factor) for T, factor in cases}
    return seen | {"T = 5, E = 8, k = 3, factor 0.5": impl.expert_capacity(5, 8, 3, 0.5)}  # 7.5 / 8: rounded once, at the end


@check(
    points=1,
    experts=indices("T K", below="E", unique=True),
    E=size("E"),
    capacity=index(4),
    sizes={"T": (1, 4, 7, 10), "K": (1, 2, 3), "E": (3, 4, 5)},
    draws=2,
)
def first_come_first_served(impl, experts, E, capacity):
    """Each expert keeps `capacity` assignments: all first slots come before the second ones, then in the order of the tokens."""
    return impl.dispatch_mask(experts, E, capacity)


@check(points=1, after=first_come_first_served, experts=indices("2200 1", below=32))
def long_queues_are_counted_exactly(impl, experts):
    """dispatch_mask is exact with thousands of tokens as well: a place in a queue is an integer."""
    experts = (experts == 0).long()  # nearly all want expert 0; float16 has neither 2049 nor 2051
    return {f"capacity {capacity}": impl.dispatch_mask(experts, 2, capacity) for capacity in (2048, 2049)}


# The modules.


@check(points=1, M=size("M"), F=size("F"), E=size("E"), sizes={"M": (3,), "F": (5,), "E": (4,)})
def parameters_have_their_names(impl, M, F, E):
    """Expert has gate, up and down, MoELayer a router and experts: matrices, no biases."""
    return {"Expert": parameters(impl.Expert(M, F)), "MoELayer": parameters(impl.MoELayer(M, F, E, 1))}


@check(
    points=1,
    after=parameters_have_their_names,
    x=normal("B L M"),
    F=size("F"),
    seed=seed(),
    sizes={"B": (2,), "L": (4,), "M": (3,), "F": (2, 5)},
)
def expert_is_swiglu(impl, x, F, seed):
    """Expert is down(silu(gate(x)) · up(x)), for x with any axes before the last: one token, a row of them, a batch."""
    expert = with_weights(impl.Expert(x.shape[-1], F), seed)
    return {"(B, L, M)": expert(x), "(M,)": expert(x[0, 0]), "(B, 1, L, M)": expert(x[:, None])}


@check(
    points=2,
    after=(routing_chooses_and_weighs, expert_is_swiglu),
    x=normal("B L M"),
    F=size("F"),
    E=size("E"),
    k=size("K"),
    seed=seed(),
    sizes={"M": (2, 3, 4), "E": (3, 4, 6), "K": (1, 2, 3)},
)
def layer_mixes_the_chosen_experts(impl, x, F, E, k, seed):
    """MoELayer gives each token the weighted sum of its k experts' outputs; the logits and the experts come with it.

    (In training and in evaluation.)
    """
    layer = with_weights(impl.MoELayer(x.shape[-1], F, E, k), seed)
    in_training = layer(x)
    layer.eval()
    return {"in training": in_training, "in evaluation": layer(x)}


@check(
    points=2,
    after=(layer_mixes_the_chosen_experts, capacity_is_rounded_up, first_come_first_served),
    x=normal("B L M"),
    F=size("F"),
    E=size("E"),
    k=size("K"),
    capacity_factor=choice(0.5, 1.0),
    seed=seed(),
    sizes={"B": (2,), "L": (2, 5), "M": (3,), "F": (4,), "E": (2, 4), "K": (1, 2)},
)
def dropped_assignments_add_zero(impl, x, F, E, k, capacity_factor, seed):
    """With a capacity_factor the layer leaves out what dispatch_mask drops, over the whole batch, and changes nothing else.

    (In training and in evaluation, for however many tokens, and with a factor of 0 as well.)
    """
    layer = with_weights(impl.MoELayer(x.shape[-1], F, E, k, capacity_factor), seed)
    alike = x[:1, :1] + x / 10  # nearly all tokens want the same experts
    seen = {"tokens unlike": layer(x), "tokens alike": layer(alike), "fewer tokens": layer(alike[:1])}
    seen["factor 0"] = with_weights(impl.MoELayer(x.shape[-1], F, E, k, 0.0), seed)(x)
    layer.eval()
    return seen | {"tokens alike, in evaluation": layer(alike)}


@check(
    points=1,
    after=layer_mixes_the_chosen_experts,
    x=normal("B L M"),
    F=size("F"),
    E=size("E"),
    seed=seed(),
    sizes={"B": (1, 2), "L": (2,), "M": (3,), "F": (4,), "E": (2, 7)},
)
def gradients_reach_router_experts_and_input(impl, x, F, E, seed):
    """Gradients with respect to the router, each expert and x are right; an expert without tokens gets none, or zeros."""
    return gradients(with_weights(impl.MoELayer(x.shape[-1], F, E, 2), seed), x, seed=seed)


@check(
    points=1,
    after=(dropped_assignments_add_zero, gradients_reach_router_experts_and_input),
    x=normal("B L M"),
    seed=seed(),
    sizes={"B": (2,), "L": (5,), "M": (3,)},
)
def gradients_pass_over_what_is_dropped(impl, x, seed):
    """Gradients are right also where assignments were dropped."""
    return gradients(with_weights(impl.MoELayer(x.shape[-1], 4, 4, 2, capacity_factor=0.5), seed), x, seed=seed)


@check(
    points=1,
    after=layer_mixes_the_chosen_experts,
    logits=distinct("T E"),
    experts=indices("T 2", below="E", unique=True),
    x=normal("2 T M"),
    seed=seed(),
    sizes={"T": (3,), "E": (4,), "M": (3,)},
)
def dtype_is_that_of_the_input(impl, logits, experts, x, seed):
    """In float32 the weights, the losses and the layer's output are float32; in bfloat16 they are bfloat16."""
    low, half = logits.float(), logits.bfloat16()
    losses = impl.load_balancing_loss(low, experts), impl.router_z_loss(low)
    layer = with_weights(impl.MoELayer(x.shape[-1], 4, 4, 2), seed).float()
    seen = {"routing": impl.top_k_routing(low, 2), "losses": losses, "layer": layer(x.float())}
    y, *_ = with_weights(layer, seed, torch.bfloat16)(x.bfloat16())
    low_dtypes = [each.dtype for each in (impl.load_balancing_loss(half, experts), impl.router_z_loss(half), y)]
    return seen | {"routing in bfloat16": impl.top_k_routing(half, 2), "dtypes of the losses and the layer in bfloat16": low_dtypes}


@check(
    points=1,
    after=layer_mixes_the_chosen_experts,
    logits=distinct("T E"),
    experts=indices("T 2", below="E", unique=True),
    x=normal("2 T M"),
    other=normal("1 T M"),
    seed=seed(),
    sizes={"T": (3,), "E": (4,), "M": (3,)},
)
def nothing_is_left_behind(impl, logits, experts, x, other, seed):
    """The inputs are the same after a call as before it, and a layer gives the same again after other calls."""
    after = [
        inputs_after(impl.top_k_routing, logits, 2),
        inputs_after(impl.load_balancing_loss, logits, experts),
        inputs_after(impl.router_z_loss, logits),
        inputs_after(impl.dispatch_mask, experts, 4, 1),
    ]
    layer = with_weights(impl.MoELayer(x.shape[-1], 4, 4, 2), seed)
    return after, inputs_after(layer, x), layer(x), layer(other), layer(x)


# The cost. F is large, so that the products of the experts outweigh whatever gathers and scatters their tokens.
# The lower bound is low, since a product written as multiply and sum is not counted for an expert with one token.


@check(points=2, after=layer_mixes_the_chosen_experts, compare=at_most(1.1, least=0.5), x=normal("2 6 8"), seed=seed())
def experts_compute_only_their_tokens(impl, x, seed):
    """The layer takes at most 1.1 times the FLOPs of the router and the routed tokens, however these are spread."""
    layer = with_weights(impl.MoELayer(8, 256, 4, 2), seed)
    alike = x[:1, :1] + x / 1000
    return {"FLOPs, tokens unlike": cost(layer, x)["flops"], "FLOPs, tokens alike": cost(layer, alike)["flops"]}


@check(
    points=1,
    after=(experts_compute_only_their_tokens, dropped_assignments_add_zero),
    compare=at_most(1.1, least=0.5),
    x=normal("2 6 8"),
    seed=seed(),
)
def dropped_assignments_are_not_computed(impl, x, seed):
    """With a capacity_factor the FLOPs are those of the router and the assignments that are kept."""
    layer = with_weights(impl.MoELayer(8, 256, 4, 2, capacity_factor=0.5), seed)
    alike = x[:1, :1] + x / 1000
    return {"FLOPs, tokens unlike": cost(layer, x)["flops"], "FLOPs, tokens alike": cost(layer, alike)["flops"]}
