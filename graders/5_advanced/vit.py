"""What a right Vit does."""

from kata.grading import check, normal


@check(points=1, x=normal("B L D"))
def gives_the_right_values(impl, x):
    """TODO: the sentence that the learner reads."""
    return impl.vit(x)
