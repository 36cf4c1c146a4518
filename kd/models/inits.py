"""How a student's weights begin, and from which teacher which student can be pruned. Torch-free.

`kd.training.prune` does what is named here; plans ask `why_not` before anything is trained.
"""

from kd.errors import InputError
from kd.models.architectures import architecture

# init -> criterion by which the teacher's channels are kept; None = a fresh, random student
INITS: dict[str, str | None] = {
    "random": None,
    "pruned": "magnitude",  # L2 norm of all weights of a channel; torch-pruning's default
    "pruned_taylor": "taylor",  # weight times gradient on training windows (Molchanov 2019, arXiv 1906.10771)
    "pruned_random": "random",  # the control: what the teacher's weights are worth without a criterion
}


def criterion(init: str) -> str | None:
    """The pruning criterion of an init, None for random weights; InputError for an unknown init."""
    if init not in INITS:
        raise InputError(f"unknown init {init!r}: use {', '.join(INITS)}")
    return INITS[init]


def needs_teacher(init: str) -> bool:
    """Whether students of this init need a teacher whatever their strategy: also `scratch` ones."""
    return criterion(init) is not None


def why_not(
    teacher_arch: str, teacher_depth: int, teacher_width: int, arch: str, depth: int, width: int
) -> str:
    """Why a teacher can't be pruned to a student's shape; "" if it can.

    Channels are removed, blocks are not: dropping a residual block keeps shapes but not strides and groups.
    """
    if arch != teacher_arch:
        return f"a {teacher_arch} teacher can't be pruned to a {arch} student"
    if not architecture(arch).prunable:
        return f"a {arch} can't be pruned: its layers don't all narrow with its width"
    if depth != teacher_depth:
        return f"pruning removes channels, not blocks: the teacher has depth {teacher_depth}, not {depth}"
    if width >= teacher_width:
        return f"nothing is left to prune: the teacher's width {teacher_width} is not above {width}"
    return ""
