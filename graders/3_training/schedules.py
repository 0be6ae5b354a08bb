"""What right learning-rate schedules do."""

from kata.grading import beside, check, choice, close, failure, size

RATES = close(rtol=1e-5, atol=1e-7)  # of schedules whose largest rate is about 1
SMALL_RATES = close(rtol=1e-5, atol=0.0)  # of noam
MAX, MIN = choice(1.0, 0.8), choice(0.3, 0.45)
WARMUP = {"warmup": (1, 2, 5)}
PHASES = WARMUP | {"rest": (2, 1, 7)}  # rest: what comes after the warm-up
WSD = WARMUP | {"stable": (1, 2, 4), "decay": (2, 1, 5)}


def optimizer_with(rates):
    """As much of an optimizer as its parameter groups."""

    class Optimizer:
        def __init__(self):
            self.defaults = {"lr": 0.5, "weight_decay": 0.1}
            self.groups = [{"params": [], "lr": lr, "initial_lr": lr, "weight_decay": 0.1 * i} for i, lr in enumerate(rates)]
            self.param_groups = self.listed = list(self.groups)

        def rates(self):
            return [group["lr"] for group in self.param_groups]

        def rest(self):
            return {
                "the same list": self.param_groups is self.listed,
                "the same dicts": [group is old for group, old in zip(self.param_groups, self.groups, strict=True)],
                "their other options": [{name: group[name] for name in sorted(group) if name != "lr"} for group in self.param_groups],
            }

    return Optimizer()


def told(schedule, steps, *args):
    """The rates at these steps, one after the other; NumPy's float64 is a float too."""
    found = [schedule(step, *args) for step in steps]
    return [float(rate) if isinstance(rate, float) else rate for rate in found]


def rates(impl, schedule, steps, *args):
    """The rates at some steps, the last step first: none may depend on an earlier call."""
    order = sorted(steps, reverse=True)
    found = beside(impl, told)(schedule, order, *args)
    return {f"step {step}": rate for step, rate in reversed(list(zip(order, found, strict=True)))}


# Noam.


@check(points=1, compare=SMALL_RATES, sizes={"warmup": (1, 2, 4)}, d_model=choice(1, 64, 512), warmup=size("warmup"), draws=2)
def noam_climbs_to_the_end_of_warmup(impl, d_model, warmup):
    """While s = step + 1 is at most warmup, noam is d_model^-0.5 · s · warmup^-1.5: the first rate, at step 0, is not 0."""
    return rates(impl, impl.noam, range(warmup), d_model, warmup)


@check(
    points=1,
    after=noam_climbs_to_the_end_of_warmup,
    compare=SMALL_RATES,
    sizes={"warmup": (1, 3, 4000)},
    d_model=choice(1, 64, 512),
    warmup=size("warmup"),
    draws=2,
)
def noam_falls_as_one_over_the_root(impl, d_model, warmup):
    """After warmup noam is d_model^-0.5 · s^-0.5, with s = step + 1: four times as many updates, half the rate."""
    return rates(impl, impl.noam, [warmup - 1, warmup, warmup + 1, 4 * warmup - 1, 16 * warmup - 1, 100 * warmup], d_model, warmup)


@check(points=1, after=noam_climbs_to_the_end_of_warmup, d_model=choice(8), warmup=choice(4))
def noam_refuses_nonsense(impl, d_model, warmup):
    """noam raises ValueError if step is negative or if d_model or warmup is below 1."""
    return {
        "step=-1": failure(impl.noam, -1, d_model, warmup)[0],
        "d_model=0": failure(impl.noam, 2, 0, warmup)[0],
        "d_model=-8": failure(impl.noam, 2, -d_model, warmup)[0],
        "warmup=0": failure(impl.noam, 2, d_model, 0)[0],
        "warmup=-4": failure(impl.noam, 2, d_model, -warmup)[0],
    }


# Warm-up and cosine.


@check(points=1, compare=RATES, sizes=PHASES, max_lr=MAX, min_lr=MIN, warmup=size("warmup"), rest=size("rest"))
def cosine_warms_up_in_a_straight_line(impl, max_lr, min_lr, warmup, rest):
    """While step < warmup, warmup_cosine is max_lr · (step + 1) / warmup: not 0 at step 0, max_lr at warmup - 1 and at warmup."""
    return rates(impl, impl.warmup_cosine, range(warmup + 1), max_lr, min_lr, warmup, warmup + rest)


@check(
    points=2,
    compare=RATES,
    sizes=PHASES,
    max_lr=MAX,
    min_lr=MIN,
    warmup=size("warmup"),
    rest=size("rest"),
)
def cosine_falls_to_min_lr_at_total(impl, max_lr, min_lr, warmup, rest):
    """From step = warmup to step = total it is half a cosine wave, from max_lr down to min_lr (total = warmup + rest)."""
    return rates(impl, impl.warmup_cosine, range(warmup, warmup + rest + 1), max_lr, min_lr, warmup, warmup + rest)


@check(
    points=1,
    after=cosine_falls_to_min_lr_at_total,
    compare=RATES,
    sizes=PHASES,
    max_lr=MAX,
    min_lr=MIN,
    warmup=size("warmup"),
    rest=size("rest"),
)
def cosine_stays_at_min_lr(impl, max_lr, min_lr, warmup, rest):
    """After total (warmup + rest) the rate is min_lr for ever: it neither climbs again nor falls to 0."""
    total = warmup + rest
    return rates(impl, impl.warmup_cosine, [total, total + 1, total + rest, 3 * total, 1000 * total], max_lr, min_lr, warmup, total)


@check(points=1, compare=RATES, sizes={"total": (1, 2, 5)}, max_lr=MAX, total=size("total"))
def cosine_may_begin_at_once(impl, max_lr, total):
    """With warmup = 0 the cosine begins at step 0, with max_lr; min_lr may be 0, or max_lr itself."""
    return {f"min_lr = {low}": rates(impl, impl.warmup_cosine, range(total + 2), max_lr, low, 0, total) for low in (0.0, 0.1, max_lr)}


@check(points=1, after=cosine_falls_to_min_lr_at_total, max_lr=choice(1.0), min_lr=choice(0.1))
def cosine_refuses_nonsense(impl, max_lr, min_lr):
    """warmup_cosine raises ValueError if step or warmup is negative, or if total is not more than warmup."""
    return {
        "step=-1, warmup=3, total=9": failure(impl.warmup_cosine, -1, max_lr, min_lr, 3, 9)[0],
        "step=-1, warmup=0, total=9": failure(impl.warmup_cosine, -1, max_lr, min_lr, 0, 9)[0],
        "step=0, warmup=-3, total=9": failure(impl.warmup_cosine, 0, max_lr, min_lr, -3, 9)[0],
        "step=0, warmup=0, total=0": failure(impl.warmup_cosine, 0, max_lr, min_lr, 0, 0)[0],
        "step=0, warmup=4, total=4": failure(impl.warmup_cosine, 0, max_lr, min_lr, 4, 4)[0],
        "step=1, warmup=9, total=3": failure(impl.warmup_cosine, 1, max_lr, min_lr, 9, 3)[0],
        "step=99, warmup=9, total=3": failure(impl.warmup_cosine, 99, max_lr, min_lr, 9, 3)[0],
    }


# Warm-up, stable, decay.


@check(points=1, compare=RATES, sizes=WSD, max_lr=MAX, warmup=size("warmup"), stable=size("stable"), decay=size("decay"))
def stable_rate_follows_the_same_warmup(impl, max_lr, warmup, stable, decay):
    """warmup_stable_decay warms up as warmup_cosine does, and is max_lr while warmup <= step < warmup + stable."""
    return rates(impl, impl.warmup_stable_decay, range(warmup + stable), max_lr, warmup, stable, decay)


@check(
    points=2,
    after=stable_rate_follows_the_same_warmup,
    compare=RATES,
    sizes=WSD,
    max_lr=MAX,
    warmup=size("warmup"),
    stable=size("stable"),
    decay=size("decay"),
)
def decay_is_a_straight_line_to_zero(impl, max_lr, warmup, stable, decay):
    """From max_lr at step = warmup + stable the rate falls by max_lr / decay each step, to 0 at step = warmup + stable + decay."""
    begin = warmup + stable
    return rates(impl, impl.warmup_stable_decay, range(begin, begin + decay + 1), max_lr, warmup, stable, decay)


@check(
    points=1,
    after=decay_is_a_straight_line_to_zero,
    compare=RATES,
    sizes=WSD,
    max_lr=MAX,
    warmup=size("warmup"),
    stable=size("stable"),
    decay=size("decay"),
)
def rate_is_zero_ever_after(impl, max_lr, warmup, stable, decay):
    """After the decay the rate is 0 for ever; it does not become negative."""
    end = warmup + stable + decay
    return rates(impl, impl.warmup_stable_decay, [end, end + 1, 3 * end, 1000 * end], max_lr, warmup, stable, decay)


@check(points=1, compare=RATES, sizes={"decay": (1, 2, 4)}, max_lr=MAX, decay=size("decay"))
def phases_may_be_empty(impl, max_lr, decay):
    """Without warm-up the first rate is max_lr, without a stable phase the decay follows at once, without decay the end; all may be empty.

    (Without decay, the rate at step = warmup + stable itself is free.)
    """
    return {
        "warmup=0, stable=2": rates(impl, impl.warmup_stable_decay, range(decay + 3), max_lr, 0, 2, decay),
        "warmup=2, stable=0": rates(impl, impl.warmup_stable_decay, range(decay + 3), max_lr, 2, 0, decay),
        "warmup=0, stable=0": rates(impl, impl.warmup_stable_decay, range(decay + 1), max_lr, 0, 0, decay),
        "warmup=3, stable=2, decay=0": rates(impl, impl.warmup_stable_decay, [0, 1, 2, 3, 4, 6, 7, 70], max_lr, 3, 2, 0),
        "warmup=2, stable=0, decay=0": rates(impl, impl.warmup_stable_decay, [0, 1, 3, 4, 70], max_lr, 2, 0, 0),
        "all three 0": rates(impl, impl.warmup_stable_decay, [1, 2, 70], max_lr, 0, 0, 0),
    }


@check(points=1, after=decay_is_a_straight_line_to_zero, max_lr=choice(1.0))
def stable_decay_refuses_nonsense(impl, max_lr):
    """warmup_stable_decay raises ValueError if step or one of the three durations is negative."""
    return {
        "step=-1": failure(impl.warmup_stable_decay, -1, max_lr, 3, 4, 5)[0],
        "warmup=-3": failure(impl.warmup_stable_decay, 1, max_lr, -3, 4, 5)[0],
        "stable=-4": failure(impl.warmup_stable_decay, 1, max_lr, 3, -4, 5)[0],
        "decay=-5": failure(impl.warmup_stable_decay, 1, max_lr, 3, 4, -5)[0],
    }


# Into the optimizer.


@check(points=1, compare=RATES, sizes={"groups": (1, 2, 3)}, groups=size("groups"), lr=choice(0.25, 0.003))
def every_group_gets_the_rate(impl, groups, lr):
    """set_lr gives all parameter groups this very rate, whatever each had before: it is no factor. A second call replaces the first."""
    optimizer = beside(impl, optimizer_with)([0.5, 0.0, 2.0][:groups])
    impl.set_lr(optimizer, lr)
    once = optimizer.rates()
    impl.set_lr(optimizer, 2 * lr)
    return {f"set_lr(optimizer, {lr})": once, f"set_lr(optimizer, {2 * lr})": optimizer.rates()}


@check(points=1, after=every_group_gets_the_rate, lr=choice(0.25))
def groups_stay_what_they_are(impl, lr):
    """set_lr changes nothing but "lr": the list, its dicts and their other options stay the same."""
    optimizer = beside(impl, optimizer_with)([0.5, 0.1])
    impl.set_lr(optimizer, lr)
    return optimizer.rest()
