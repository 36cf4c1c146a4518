"""How a student's weights begin, and which teacher can give birth to which student. Torch-free.

`kd.training.prune` does what is named here; plans ask `why_not` before anything is trained.
"""

from kd.errors import InputError

# birth -> criterion by which the teacher's channels are kept; None = a fresh, random student
BIRTHS: dict[str, str | None] = {
    "random": None,
    "pruned": "magnitude",  # L2 norm of all weights of a channel; torch-pruning's default
    "pruned_taylor": "taylor",  # weight times gradient on training windows (Molchanov 2019, arXiv 1906.10771)
    "pruned_random": "random",  # the control: what the teacher's weights are worth without a criterion
}


def criterion(birth: str) -> str | None:
    """The pruning criterion of a birth, None for random weights; InputError for an unknown birth."""
    if birth not in BIRTHS:
        raise InputError(f"unknown birth {birth!r}: use {', '.join(BIRTHS)}")
    return BIRTHS[birth]


def needs_teacher(birth: str) -> bool:
    """Whether students of this birth need a teacher whatever their strategy: also `scratch` ones."""
    return criterion(birth) is not None


def why_not(
    teacher_arch: str, teacher_depth: int, teacher_width: int, arch: str, depth: int, width: int
) -> str:
    """Why a teacher can't be pruned to a student's shape; "" if it can.

    Channels are removed, blocks are not: dropping a residual block keeps shapes but not strides and groups.
    """
    if arch != teacher_arch:
        return f"a {teacher_arch} teacher can't be pruned to a {arch} student"
    if depth != teacher_depth:
        return f"pruning removes channels, not blocks: the teacher has depth {teacher_depth}, not {depth}"
    if width >= teacher_width:
        return f"nothing is left to prune: the teacher's width {teacher_width} is not above {width}"
    return ""
