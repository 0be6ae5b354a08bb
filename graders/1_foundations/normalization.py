"""What right normalisations and residual connections do."""

import itertools

import torch

from kata.grading import built_in, check, choice, close, distinct, gradients, inputs_after, normal, parameters, seed, size, with_weights

HALF = (torch.float16, torch.bfloat16)
PAIRS = [(d, own) for d in HALF for own in (d, torch.float32)] + [(torch.float32, torch.float32)]  # dtypes of x and of weight
TINY = 1e-3  # for rows so small that eps counts: their variance is about 1e-6
FEW = {"B": (2,), "L": (1, 3), "M": (3, 5)}
ONE = {"L": (2,), "M": (3,)}


@check(points=1, sizes={"M": (2, 3, 4, 5)}, x=distinct("B L M", spread=10.0), weight=normal("M"), bias=normal("M"))
def layer_norm_standardises_each_row(impl, x, weight, bias):
    """layer_norm gives each row mean 0 and variance 1, the variance being the mean of the squared distances from the mean."""
    wide = x.repeat(1, 1, 700).cumsum(1)
    ones = impl.layer_norm(wide, torch.ones_like(wide[0, 0]), torch.zeros_like(wide[0, 0]))
    return impl.layer_norm(x, torch.ones_like(weight), torch.zeros_like(bias)), ones[..., -3:]


@check(points=1, after=layer_norm_standardises_each_row, sizes=FEW, x=distinct("B L M", spread=10.0), weight=normal("M"), bias=normal("M"))
def layer_norm_scales_then_shifts(impl, x, weight, bias):
    """layer_norm multiplies the standardised rows by weight, then adds bias."""
    return impl.layer_norm(x, weight, bias)


@check(
    points=1,
    after=layer_norm_scales_then_shifts,
    sizes={"A": (2,), "B": (3,), "L": (1, 3), "M": (3,)},
    x=distinct("A B L M", spread=10.0),
    weight=normal("M"),
    bias=normal("M"),
)
def layer_norm_takes_any_leading_axes(impl, x, weight, bias):
    """There may be any number of axes before the last, none included, and only the last one is normalised."""
    return impl.layer_norm(x[0, 0, 0], weight, bias), impl.layer_norm(x[0, 0], weight, bias), impl.layer_norm(x, weight, bias)


@check(
    points=1,
    after=layer_norm_scales_then_shifts,
    sizes={"L": (2,), "M": (1, 4)},
    x=normal("L M", scale=TINY),
    weight=normal("M"),
    bias=normal("M"),
    eps=choice(1e-6, 1e-2),
)
def layer_norm_adds_eps_to_the_variance(impl, x, weight, bias, eps):
    """eps, 1e-5 by default, is added to the variance under the root: it counts for tiny rows; a constant one (row 0: 1.5) gives bias."""
    x[0] = 1.5
    return impl.layer_norm(x, weight, bias), impl.layer_norm(x, weight, bias, eps)


@check(
    points=1,
    after=layer_norm_scales_then_shifts,
    sizes={"L": (4,), "M": (3, 17)},
    x=normal("L M"),
    weight=normal("M"),
    bias=normal("M"),
    far=choice(1e7, -1e7),
)
def layer_norm_holds_far_from_zero(impl, x, weight, bias, far):
    """In float64 rows whose mean is ten million times their spread (x + far, and an outlier of + 50) are normalised as others are."""
    x[0, 0] += 50.0  # an outlier, which may be √(M - 1) deviations from the mean
    return impl.layer_norm(x + far, weight, bias)


@check(
    points=1,
    after=layer_norm_scales_then_shifts,
    compare=close(rtol=3e-2, atol=3e-2),
    sizes={"L": (4,), "M": (4,)},
    x=normal("L M"),
    weight=normal("M"),
    bias=normal("M"),
)
def layer_norm_of_half_precision_is_computed_in_float32(impl, x, weight, bias):
    """x keeps its dtype, whatever that of weight is; in between float32, for 300² is infinite in float16; only the end is rounded."""
    rows = torch.cat([x * 500, x * 3 + 300])
    seen = [impl.layer_norm(rows.to(d), weight.to(own), bias.to(own)) for d, own in PAIRS]
    row = torch.tensor([[-3.0, 1.0, -1.0, 3.0]])  # over √5 these have mean 0 and variance 1: a large weight and bias cancel
    large = 1000 + weight.float()
    cancelling = bias.float() - large * row[0] / 5**0.5
    return seen, [impl.layer_norm(row.to(d), large, cancelling) for d in HALF]


@check(
    points=1,
    after=layer_norm_adds_eps_to_the_variance,
    sizes={"B": (2,), "L": (3,), "M": (3, 4)},
    x=normal("B L M"),
    weight=normal("M"),
    bias=normal("M"),
    seed=seed(),
)
def layer_norm_has_the_right_gradients(impl, x, weight, bias, seed):
    """Gradients of x, weight and bias are right, those through mean and variance too, and finite for a constant row (row 0: 1.5)."""
    x[0, 0] = 1.5
    by_default = gradients(impl.layer_norm, x, weight, bias, seed=seed)["inputs"]
    return {"eps by default": by_default, "eps = 0.5": gradients(impl.layer_norm, x, weight, bias, 0.5, seed=seed)["inputs"]}


@check(points=1, sizes=FEW, x=normal("B L M", mean=2.0), weight=normal("M"))
def rms_norm_divides_by_the_root_mean_square(impl, x, weight):
    """rms_norm divides each row by the root of the mean of its squares, and multiplies by weight; no mean is subtracted."""
    return impl.rms_norm(x, weight), impl.rms_norm(x[0, 0], weight)


@check(
    points=1,
    after=rms_norm_divides_by_the_root_mean_square,
    sizes={"L": (2,), "M": (2, 4)},
    x=normal("L M", scale=TINY),
    weight=normal("M"),
    eps=choice(1e-4, 1e-2),
)
def rms_norm_adds_eps_to_the_mean_square(impl, x, weight, eps):
    """eps, 1e-6 by default, is added to the mean square under the root: it counts for tiny rows; a row of zeros (row 0) stays zero."""
    x[0] = 0.0
    return impl.rms_norm(x, weight), impl.rms_norm(x, weight, eps=eps)


@check(
    points=1,
    after=rms_norm_divides_by_the_root_mean_square,
    compare=close(rtol=3e-2, atol=3e-2),
    sizes={"L": (4,), "M": (4,)},
    x=normal("L M"),
    weight=normal("M"),
)
def rms_norm_is_computed_in_float32_or_wider(impl, x, weight):
    """rms_norm keeps the dtype of x. It computes halves in float32, for 300² is infinite in float16, and float64 in float64."""
    narrow = [impl.rms_norm((x * 500).to(d), weight.to(own)) for d, own in PAIRS]
    large = impl.rms_norm((x * TINY).half(), (weight + 1).float() * 1e5, eps=1e-2)  # a weight that float16 cannot hold
    return narrow, impl.rms_norm(x * 1e30, weight), large


@check(
    points=1,
    after=rms_norm_adds_eps_to_the_mean_square,
    sizes={"B": (2,), "L": (3,), "M": (3, 4)},
    x=normal("B L M"),
    weight=normal("M"),
    seed=seed(),
)
def rms_norm_has_the_right_gradients(impl, x, weight, seed):
    """Gradients with respect to x and weight are right, those through the mean square too, and finite for a row of zeros (row 0)."""
    x[0, 0] = 0.0
    by_default = gradients(impl.rms_norm, x, weight, seed=seed)["inputs"]
    return {"eps by default": by_default, "eps = 0.5": gradients(impl.rms_norm, x, weight, 0.5, seed=seed)["inputs"]}


@check(points=1, sizes={"M": (3, 4, 5, 6)}, grad_out=normal("B L M"), x=distinct("B L M", spread=4.0), weight=normal("M"))
def backward_gives_dx(impl, grad_out, x, weight):
    """layer_norm_backward returns (dx, dweight, dbias); dx takes the weight, the mean and the variance into account."""
    dx, _, _ = impl.layer_norm_backward(grad_out, x, weight)
    return dx


@check(points=1, sizes=FEW, grad_out=normal("B L M"), x=distinct("B L M", spread=4.0), weight=normal("M"))
def backward_gives_dweight_and_dbias(impl, grad_out, x, weight):
    """dweight and dbias, both of shape (M,), gather what comes from every row."""
    _, dweight, dbias = impl.layer_norm_backward(grad_out, x, weight)
    return dweight, dbias


@check(
    points=1,
    after=(backward_gives_dx, backward_gives_dweight_and_dbias),
    sizes={"A": (2,), "B": (3,), "L": (1, 3), "M": (3,)},
    grad_out=normal("A B L M"),
    x=distinct("A B L M", spread=4.0),
    weight=normal("M"),
)
def backward_takes_any_leading_axes(impl, grad_out, x, weight):
    """layer_norm_backward works for a single row, for a matrix, and for any number of leading axes."""
    return [impl.layer_norm_backward(grad_out[place], x[place], weight) for place in [(0, 0, 0), (0, 0), ()]]


@check(
    points=1,
    after=(backward_gives_dx, backward_gives_dweight_and_dbias),
    sizes={"L": (2,), "M": (2, 4)},
    grad_out=normal("L M"),
    x=normal("L M", scale=TINY),
    weight=normal("M"),
    eps=choice(1e-6, 1e-2),
)
def backward_heeds_eps(impl, grad_out, x, weight, eps):
    """layer_norm_backward adds eps, 1e-5 by default, to the variance: it counts for tiny rows and for constant ones (row 0: 1.5)."""
    x[0] = 1.5
    return impl.layer_norm_backward(grad_out, x, weight), impl.layer_norm_backward(grad_out, x, weight, eps)


@check(
    points=1,
    after=(backward_gives_dx, backward_gives_dweight_and_dbias),
    sizes={"L": (4,), "M": (4,)},
    grad_out=normal("L M"),
    x=normal("L M"),
    weight=normal("M"),
    far=choice(1e7, -1e7),
)
def backward_is_computed_in_float32_or_wider(impl, grad_out, x, weight, far):
    """dx has the dtype of x, dweight and dbias that of weight; halves are computed in float32, float64 (x + far) in float64."""
    narrow = [impl.layer_norm_backward((grad_out * 300).to(d), (x * 500).to(d), weight.to(own)) for d, own in PAIRS]
    return narrow, impl.layer_norm_backward(grad_out, x + far, weight)


@check(points=1, sizes={"M": (3,)}, M=size("M"))
def modules_begin_with_ones_and_zeros(impl, M):
    """LayerNorm has the parameters weight, ones, and bias, zeros; RMSNorm has weight alone, ones."""
    layer, rms = impl.LayerNorm(d_model=M), impl.RMSNorm(d_model=M)
    return parameters(layer), layer.weight.double(), layer.bias.double(), parameters(rms), rms.weight.double()


@check(
    points=1,
    after=(layer_norm_adds_eps_to_the_variance, modules_begin_with_ones_and_zeros),
    sizes=ONE,
    x=normal("L M", mean=2.0),
    eps=choice(1e-6, 1e-2),
    seed=seed(),
)
def layer_norm_module_computes_layer_norm(impl, x, eps, seed):
    """LayerNorm normalises with its weight, bias and eps, 1e-5 by default, in the dtype of x, and its parameters get gradients."""
    M, rows = x.shape[-1], torch.stack([x, x * TINY])
    default, given = (with_weights(module, seed) for module in (impl.LayerNorm(M), impl.LayerNorm(M, eps)))
    large = with_weights(impl.LayerNorm(M, eps=1e-2), seed, torch.float32, constant={"weight": 1e5})  # which float16 cannot hold
    return default(rows), given(rows), default(x.half()), large((x * TINY).half()), gradients(default, x, seed=seed)


@check(
    points=1,
    after=(rms_norm_adds_eps_to_the_mean_square, modules_begin_with_ones_and_zeros),
    sizes=ONE,
    x=normal("L M", mean=2.0),
    eps=choice(1e-4, 1e-2),
    seed=seed(),
)
def rms_norm_module_computes_rms_norm(impl, x, eps, seed):
    """RMSNorm normalises with its weight and eps, 1e-6 by default, in the dtype of x, and its weight gets a gradient."""
    M, rows = x.shape[-1], torch.stack([x, x * TINY])
    default, given = (with_weights(module, seed) for module in (impl.RMSNorm(M), impl.RMSNorm(M, eps)))
    large = with_weights(impl.RMSNorm(M, eps=1e-2), seed, torch.float32, constant={"weight": 1e5})  # which float16 cannot hold
    return default(rows), given(rows), default(x.half()), large((x * TINY).half()), gradients(default, x, seed=seed)


def around_linear(impl, M, seed, *args, **options):
    """A Residual around a linear layer, all its weights drawn from the seed."""
    return with_weights(impl.Residual(built_in(impl, "Linear", M, M), M, *args, **options), seed)


@check(points=1, sizes={"M": (3,)}, M=size("M"), seed=seed())
def residual_holds_norm_and_sublayer(impl, M, seed):
    """Residual has the parameters of its norm and of its sublayer, the very one given, under these names, and no others."""
    linear = with_weights(built_in(impl, "Linear", M, M), seed)
    block = impl.Residual(sublayer=linear, d_model=M)
    with_weights(linear, seed + 1)  # changed from outside, as by an optimiser that was made before
    return parameters(block), block.sublayer.weight.double()


@check(points=1, after=residual_holds_norm_and_sublayer, sizes=ONE, x=normal("L M"), seed=seed())
def pre_norm_is_the_default(impl, x, seed):
    """By default a Residual is pre-norm, x + sublayer(norm(x)), without dropout and with LayerNorm's default eps."""
    return around_linear(impl, x.shape[-1], seed)(torch.stack([x, x * TINY]))


@check(points=1, after=residual_holds_norm_and_sublayer, sizes={"B": (4,), **ONE}, x=distinct("B L M", spread=4.0), seed=seed())
def post_norm_normalises_the_sum(impl, x, seed):
    """With norm_first=False it is post-norm, norm(x + sublayer(x))."""
    return around_linear(impl, x.shape[-1], seed, norm_first=False)(x)


@check(points=1, after=(pre_norm_is_the_default, post_norm_normalises_the_sum), sizes=ONE, x=normal("L M"), seed=seed())
def dropout_is_for_the_sublayer_in_training(impl, x, seed):
    """Dropout concerns what the sublayer gives, neither x nor the sum: with dropout=1 only the way around is left; nothing in eval."""
    seen = []
    for norm_first in (True, False):
        block = around_linear(impl, x.shape[-1], seed, norm_first, 1.0)
        seen += [block(x), block.eval()(x)]
    return seen


@check(points=1, after=dropout_is_for_the_sublayer_in_training, sizes={"M": (3,)}, x=normal("M"), seed=seed())
def dropout_zeroes_some_and_scales_the_rest(impl, x, seed):
    """With dropout=0.3 about that share of values is set to zero, each by itself and anew each time; the others are divided by 0.7."""
    patterns = torch.tensor([*itertools.product((0.0, 1.0), repeat=3)], dtype=torch.float64)  # which of three values are kept
    seen = {}
    for norm_first in (True, False):
        block = around_linear(impl, 3, seed, norm_first=norm_first, dropout=0.3)
        branch = block.sublayer(block.norm(x) if norm_first else x)
        legal = x + patterns / 0.7 * branch
        legal = legal if norm_first else block.norm(legal)
        once, again = block(x.expand(1024, 3)), block(x.expand(1024, 3))
        fits = torch.isclose(once[:, None], legal).all(-1)
        if norm_first:
            seen["the branch is multiplied by one of"] = ((once - x) / branch).round(decimals=4).unique()[:4].tolist()
        seen["pre-norm" if norm_first else "post-norm"] = {
            "every row is legal": bool(fits.any(1).all()),
            "every pattern occurs": bool(fits.any(0).all()),
            "share that is kept": round(float(patterns[fits.double().argmax(1)].mean()), 1),
            "twice the same": torch.equal(once, again),
        }
    return seen


@check(points=1, after=(pre_norm_is_the_default, post_norm_normalises_the_sum), sizes=ONE, x=normal("L M"), seed=seed())
def residual_passes_gradients_both_ways(impl, x, seed):
    """Gradients flow through the sublayer, whatever it keeps for its own, and around it, to x and every parameter, pre- and post-norm."""
    M, tanh = x.shape[-1], built_in(impl, "Tanh")  # whose gradient is computed from what it gave
    seen = [gradients(around_linear(impl, M, seed, norm_first=first), x, seed=seed) for first in (True, False)]
    return seen, [gradients(impl.Residual(tanh, M, first, p), x, seed=seed)["inputs"] for first in (True, False) for p in (0.0, 1.0)]


@check(points=1, after=pre_norm_is_the_default, sizes=ONE, grad_out=normal("L M"), x=normal("L M"), weight=normal("M"), seed=seed())
def arguments_are_left_alone(impl, grad_out, x, weight, seed):
    """What functions and modules are given is the same after the call as before it."""
    return {
        "layer_norm": inputs_after(impl.layer_norm, x, weight, weight + 1),
        "rms_norm": inputs_after(impl.rms_norm, x, weight),
        "layer_norm_backward": inputs_after(impl.layer_norm_backward, grad_out, x, weight),
        "pre-norm": inputs_after(around_linear(impl, x.shape[-1], seed), x),
        "post-norm": inputs_after(around_linear(impl, x.shape[-1], seed, norm_first=False), x),
        "post-norm around nn.Identity": inputs_after(impl.Residual(built_in(impl, "Identity"), x.shape[-1], False, 0.5), x),
    }
