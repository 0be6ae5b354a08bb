"""What a right feed-forward network does."""

import torch

from kata.grading import check, choice, close, failure, gradients, index, inputs_after, normal, parameters, seed, size, with_weights

FEW = {"L": (3,), "M": (1, 4), "hidden": (6,)}
ONE = {"B": (2,), "L": (3,), "M": (4,), "hidden": (6,)}
MANY = {"B": (2,), "L": (64,), "M": (8,), "hidden": (4,)}  # hidden numbers enough to count the dropped ones
HALF = close(atol=6e-2, rtol=3e-2)
VECTOR = {"L": (1, 8)}


def feed_forward(impl, x, hidden, seed, *options, **named):
    """A FeedForward with weights that the seed gives."""
    return with_weights(impl.FeedForward(x.shape[-1], hidden, *options, **named), seed)


def swiglu(impl, x, hidden, seed):
    return with_weights(impl.SwiGLU(x.shape[-1], hidden), seed)


def activations(impl):
    """Each activation by a name of its own."""
    return {
        "gelu": impl.gelu,
        "gelu, tanh": lambda x: impl.gelu(x, "tanh"),
        "silu": impl.silu,
    }


def slopes(impl, x, seed):
    """The gradient of each activation."""
    calls = {"gelu": (impl.gelu, x), "gelu, tanh": (impl.gelu, x, "tanh"), "silu": (impl.silu, x)}
    return {name: gradients(*call, seed=seed)["inputs"][0] for name, call in calls.items()}


def far(x):
    """float32 numbers as large as 1e4, of both signs."""
    large = torch.cat([x * 30.0, x * 1e3, x * 1e4]).clamp(-1e4, 1e4)
    return torch.cat([large, -large]).float()


@check(points=1, sizes=VECTOR, x=normal("L", scale=2.0))
def gelu_is_exact(impl, x):
    """gelu(x) is x · Φ(x), not one of its approximations; so is gelu(x, "none")."""
    return impl.gelu(x), impl.gelu(x, approximate="none")


@check(points=1, compare=close(rtol=1e-6, atol=1e-6), sizes=VECTOR, x=normal("L", scale=2.0))
def gelu_is_approximated_by_tanh(impl, x):
    """gelu(x, "tanh") is the paper's approximation by a tanh, with its two constants."""
    return impl.gelu(x, "tanh"), impl.gelu(x, approximate="tanh")


@check(points=1, after=gelu_is_exact, sizes={"L": (2,)}, x=normal("L"))
def gelu_refuses_other_names(impl, x):
    """gelu raises ValueError when approximate is anything but "none" and "tanh"."""
    return {name: failure(impl.gelu, x, name)[0] for name in ("sigmoid", "erf", "Tanh", "")}


@check(points=1, sizes=VECTOR, x=normal("L", scale=2.0))
def silu_is_x_times_its_sigmoid(impl, x):
    """silu(x) is x · σ(x)."""
    return impl.silu(x)


@check(points=1, after=(gelu_is_exact, gelu_is_approximated_by_tanh, silu_is_x_times_its_sigmoid), sizes={"L": (4,)}, x=normal("L"))
def activations_are_right_far_from_zero(impl, x):
    """gelu, in both forms, and silu go to x on the right and to 0 on the left, with no NaN at 1e4 and -1e4, in float32."""
    return {name: f(far(x)) for name, f in activations(impl).items()}


@check(points=1, after=(gelu_is_exact, gelu_is_approximated_by_tanh, silu_is_x_times_its_sigmoid), sizes={"L": (3,)}, x=normal("L"))
def activations_take_any_shape(impl, x):
    """gelu, in both forms, and silu take numbers in any shape, be it a single one, and give that shape back."""
    return {name: [f(numbers) for numbers in (x[0], torch.stack([x, -x]))] for name, f in activations(impl).items()}


@check(
    points=1,
    after=(gelu_is_exact, gelu_is_approximated_by_tanh, silu_is_x_times_its_sigmoid),
    compare=close(atol=3e-2, rtol=3e-2),
    sizes={"L": (6,)},
    x=normal("L", scale=2.0),
)
def activations_keep_the_dtype(impl, x):
    """gelu, in both forms, and silu give back float16 and bfloat16 as they were given them."""
    return {name: (f(x.half()), f(x.bfloat16())) for name, f in activations(impl).items()}


@check(
    points=1,
    after=(gelu_is_exact, gelu_is_approximated_by_tanh, silu_is_x_times_its_sigmoid),
    sizes={"L": (8,)},
    x=normal("L", scale=2.0),
    seed=seed(),
)
def activations_have_gradients(impl, x, seed):
    """The gradients of gelu, in both forms, and of silu are right: every x in the formula counts."""
    x[0] = 0.0
    return slopes(impl, x, seed)


@check(points=1, M=index(8000, start=1))
def swiglu_hidden_is_rounded_up(impl, M):
    """swiglu_hidden(M) is 8 · M / 3, rounded up to a multiple of 256, as an int."""
    return {d_model: impl.swiglu_hidden(d_model) for d_model in (1, M, M + 32, M + 64)}  # by 32: a third of a block further


@check(points=1, after=swiglu_hidden_is_rounded_up, n=index(80, start=1))
def swiglu_hidden_leaves_exact_multiples(impl, n):
    """Where 8 · M / 3 is a multiple of 256 already it stays as it is; one channel more takes one block more."""
    return {d_model: impl.swiglu_hidden(d_model) for d_model in (96 * n - 1, 96 * n, 96 * n + 1)}


@check(points=1, after=swiglu_hidden_is_rounded_up, M=index(8000, start=1), n=index(80, start=1))
def swiglu_hidden_takes_other_multiples(impl, M, n):
    """multiple_of may be another number; sizes that are multiples of it already stay as they are."""
    return [
        impl.swiglu_hidden(M, 8),
        impl.swiglu_hidden(d_model=M, multiple_of=1000),
        impl.swiglu_hidden(24 * n, 64),
        impl.swiglu_hidden(24 * n, 8),
    ]


@check(points=1, sizes={"M": (3,), "hidden": (5,)}, M=size("M"), hidden=size("hidden"))
def feed_forward_has_its_parameters(impl, M, hidden):
    """FeedForward's parameters are those of up, from M to d_hidden, and of down, back again, with biases, and no others."""
    return parameters(impl.FeedForward(d_model=M, d_hidden=hidden))


@check(points=1, after=feed_forward_has_its_parameters, sizes=FEW, x=normal("2 L M", scale=5.0), hidden=size("hidden"), seed=seed())
def feed_forward_is_down_of_relu_of_up(impl, x, hidden, seed):
    """FeedForward(M, d_hidden) in evaluation is up, then ReLU, then down, and nothing else."""
    module = feed_forward(impl, x, hidden, seed)
    module.eval()
    return module(x)


@check(points=1, after=feed_forward_is_down_of_relu_of_up, sizes=MANY, x=normal("B L M"), hidden=size("hidden"), seed=seed())
def nothing_is_dropped_unasked(impl, x, hidden, seed):
    """Without a `dropout` nothing is left to chance: in training, too, two calls give the same."""
    module = feed_forward(impl, x, hidden, seed)
    once, again = module(x), module(x)
    module.eval()
    return {"two calls give the same": torch.equal(once, again), "in evaluation": module(x)}


@check(
    points=1,
    after=(nothing_is_dropped_unasked, gelu_is_exact),
    sizes=ONE,
    x=normal("B L M", scale=2.0),
    hidden=size("hidden"),
    seed=seed(),
)
def activation_is_chosen_by_name(impl, x, hidden, seed):
    """FeedForward takes "gelu", in its exact form, or "relu", by name or as its fourth argument."""
    return feed_forward(impl, x, hidden, seed, activation="gelu")(x), feed_forward(impl, x, hidden, seed, 0.0, "relu")(x)


@check(points=1, after=activation_is_chosen_by_name, sizes=ONE, x=normal("B L M"), hidden=size("hidden"))
def other_activations_are_refused(impl, x, hidden):
    """FeedForward raises ValueError for an activation other than "relu" and "gelu", when it is made or else when it is called."""

    def made_and_called(name):
        impl.FeedForward(x.shape[-1], hidden, activation=name)(x.float())

    return {name: failure(made_and_called, name)[0] for name in ("silu", "tanh", "GELU", "")}


@check(
    points=1,
    after=feed_forward_is_down_of_relu_of_up,
    sizes=MANY,
    x=normal("B L M"),
    hidden=size("hidden"),
    dropout=choice(0.25, 0.75),
    seed=seed(),
)
def evaluation_drops_nothing(impl, x, hidden, dropout, seed):
    """After eval() two calls give the same, and what the module would give without dropout."""
    module = feed_forward(impl, x, hidden, seed, dropout)
    module.eval()
    once, again = module(x), module(x)
    without = feed_forward(impl, x, hidden, seed)(x)
    return {
        "two calls give the same": torch.equal(once, again),
        "as without dropout": torch.allclose(once, without, rtol=1e-4, atol=1e-5),
        "without dropout": without,
    }


def into_down(module, out):
    """What went into `down`, by what came out of it; there are fewer hidden channels than others."""
    return (out - module.down.bias) @ torch.linalg.pinv(module.down.weight).mT


@check(
    points=1,
    after=(evaluation_drops_nothing, activation_is_chosen_by_name),
    sizes=MANY,
    x=normal("B L M"),
    hidden=size("hidden"),
    dropout=choice(0.25),
    seed=seed(),
)
def training_drops_hidden_numbers(impl, x, hidden, dropout, seed):
    """In training each number between activation and down is dropped by itself with probability p; the others are divided by 1 - p."""
    x[0] = 0.0  # tokens that dropout would leave as they are, were it applied to the input
    module = feed_forward(impl, x, hidden, seed, dropout=dropout, activation="gelu")
    out = module(x)
    module.eval()
    without = module(x)
    whole, left = into_down(module, without), into_down(module, out)
    factors = left / whole
    kept = factors.abs() > 1e-3
    seen = kept & (whole.abs() > 1e-2)
    return {
        "share of hidden numbers dropped, about": quarters(~kept),
        "those kept are multiplied by": factor(factors[1][seen[1]]),
        "those kept are multiplied by, in tokens of zeros": factor(factors[0][seen[0]]),
        "axes along which all are dropped alike": [axis for axis in range(3) if repeated(kept, axis)],
        "share of output numbers that are zero, about": quarters(out == 0),
        "without dropout": without,
    }


def quarters(happened):
    """A share, rounded so that chance does not show."""
    return round(4 * happened.double().mean().item()) / 4


def repeated(kept, axis):
    """Whether it is the same all along the axis, but for numbers that are zero by accident."""
    return (kept == kept.narrow(axis, 0, 1)).double().mean().item() > 0.95


def factor(factors):
    """The one number that all of them are."""
    alike = len(factors) > 0 and torch.allclose(factors, factors[0], rtol=1e-3)
    return round(factors[0].item(), 2) if alike else "not all the same"


@check(
    points=1, after=training_drops_hidden_numbers, sizes={"M": (3,), "hidden": (40,)}, x=normal("1 M"), hidden=size("hidden"), seed=seed()
)
def what_is_dropped_does_not_learn(impl, x, hidden, seed):
    """In training gradients flow through the hidden numbers that are kept, and through no others, to up as to down."""
    found = gradients(feed_forward(impl, x, hidden, seed, 0.5, "gelu"), x, seed=seed)["parameters"]
    kept, reached = found["down.weight"].abs().amax(0) > 1e-9, found["up.bias"].abs() > 1e-9
    return {"kept, but up learns nothing from it": int((kept & ~reached).sum()), "dropped, but up learns": int((reached & ~kept).sum())}


@check(points=1, after=training_drops_hidden_numbers, sizes=MANY, x=normal("B L M"), hidden=size("hidden"), seed=seed())
def dropout_is_drawn_anew(impl, x, hidden, seed):
    """Each call in training drops other numbers, and does so again after evaluation."""
    module = feed_forward(impl, x, hidden, seed, 0.5)
    once, again = module(x), module(x)
    module.eval()
    evaluated = module(x)
    module.train()
    return {
        "two calls in training are alike": torch.equal(once, again),
        "after evaluation nothing is dropped any more": torch.allclose(module(x), evaluated),
    }


@check(points=1, sizes={"M": (3,), "hidden": (5,)}, M=size("M"), hidden=size("hidden"))
def swiglu_has_its_parameters(impl, M, hidden):
    """SwiGLU's parameters are the weights of gate and up, from M to d_hidden, and of down, back again; no biases, no others."""
    return parameters(impl.SwiGLU(d_model=M, d_hidden=hidden))


@check(points=1, after=swiglu_has_its_parameters, sizes=FEW, x=normal("2 L M", scale=5.0), hidden=size("hidden"), seed=seed())
def swiglu_is_gated_by_silu(impl, x, hidden, seed):
    """SwiGLU is down of the silu of gate times up: gate goes through silu, up does not."""
    return swiglu(impl, x, hidden, seed)(x)


@check(
    points=1,
    after=(nothing_is_dropped_unasked, swiglu_is_gated_by_silu),
    sizes=ONE,
    x=normal("B 2 L M"),
    hidden=size("hidden"),
    seed=seed(),
)
def leading_axes_are_any(impl, x, hidden, seed):
    """There may be any number of axes before that of the channels: none, or three, some of size 1."""
    inputs = x[0, 0, 0], x[:1, :, :1]
    modules = {"FeedForward": feed_forward(impl, x, hidden, seed), "SwiGLU": swiglu(impl, x, hidden, seed)}
    return {name: [module(tokens) for tokens in inputs] for name, module in modules.items()}


@check(
    points=1,
    after=(nothing_is_dropped_unasked, swiglu_is_gated_by_silu),
    sizes=ONE,
    x=normal("B L M"),
    hidden=size("hidden"),
    seed=seed(),
)
def gradients_are_right(impl, x, hidden, seed):
    """The gradients of FeedForward and SwiGLU reach the input and every parameter."""
    modules = {"FeedForward": feed_forward(impl, x, hidden, seed), "SwiGLU": swiglu(impl, x, hidden, seed)}
    return {name: gradients(module, x, seed=seed) for name, module in modules.items()}


@check(
    points=1,
    after=(training_drops_hidden_numbers, swiglu_is_gated_by_silu),
    compare=HALF,
    sizes=ONE,
    x=normal("B L M"),
    hidden=size("hidden"),
    seed=seed(),
)
def parameters_may_have_another_dtype(impl, x, hidden, seed):
    """With parameters and inputs in bfloat16 the results are bfloat16, with dropout in training too."""
    dropping, gated = feed_forward(impl, x, hidden, seed, 0.5, "gelu"), swiglu(impl, x, hidden, seed)
    dropping.to(torch.bfloat16), gated.to(torch.bfloat16)
    return str(dropping(x.bfloat16()).dtype), gated(x.bfloat16())


@check(
    points=1,
    after=(nothing_is_dropped_unasked, swiglu_is_gated_by_silu),
    sizes=ONE,
    x=normal("B L M"),
    hidden=size("hidden"),
    seed=seed(),
)
def nothing_is_changed_or_remembered(impl, x, hidden, seed):
    """The inputs are the same after a call as before it, and neither that call nor another module leaves a trace in the next."""
    after = [inputs_after(impl.gelu, x), inputs_after(impl.gelu, x, "tanh"), inputs_after(impl.silu, x)]
    classic, gated = feed_forward(impl, x, hidden, seed), swiglu(impl, x, hidden, seed)
    after += [inputs_after(classic, x), inputs_after(gated, x)]
    impl.FeedForward(x.shape[-1], hidden + 1, 0.5, "gelu"), impl.SwiGLU(x.shape[-1], hidden + 1)
    return after, classic(x + 1), gated(x + 1)
