"""Every distillation loss as a pure function of tensors, one value per sample; the caller weighs and reduces.

A function that is a term of the objective (`kd.training.terms`) gets what its parameters' names ask for: see
`kd.training.objective.INPUTS`.

All work in log space and in float32 at least, so that they and their gradients stay finite for logits up to
+-1e4 and temperatures from 0.05 to 20. N samples, C classes, F features. Temperature and window may be one
number or one per sample, (N, 1): models of a stack differ in them.
"""

import torch
from torch import Tensor
from torch.nn import functional

RELATED = 1e-8  # probabilities that vary less (product of their norms) relate to nothing: as in DIST's code
EQUAL = 1e-12  # logits of a smaller variance are all equal


def cross_entropy(student_logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with true labels, (N,) in nats.

    student_logits: (N, C). target: class indices (N,) or a distribution over classes (N, C).
    """
    _check_logits(student_logits)
    log_p = _log_softmax(student_logits, 1.0)  # (N, C)
    if target.ndim == 1:
        return -log_p.gather(1, target.long().unsqueeze(1)).squeeze(1)
    if target.shape != student_logits.shape:
        raise ValueError(f"target {tuple(target.shape)} fits neither (N,) nor {tuple(student_logits.shape)}")
    return -(target.to(log_p.dtype) * log_p).sum(1)


def hard(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy with the teacher's most likely class, (N,) in nats. Logits (N, C)."""
    _check_logits(student_logits, teacher_logits)
    return cross_entropy(student_logits, teacher_logits.argmax(1))


def soft(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """T^2 KL(teacher || student) of the tempered distributions, summed over classes, (N,).

    Logits (N, C). Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2: the factor T^2 keeps the
    gradient's scale when T changes.
    """
    _check_logits(student_logits, teacher_logits)
    log_s = _log_softmax(student_logits, temperature)
    log_t = _log_softmax(teacher_logits, temperature)
    return _square(temperature) * (log_t.exp() * (log_t - log_s)).sum(1)


def standardised(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """`soft` of the logits' z-scores, (N,): the teacher's order of the classes, whatever its logits' scale.

    Logits (N, C). Each sample's logits lose their mean and are divided by their standard deviation (over C;
    the authors' code takes C - 1) before the temperature. Source: Logit Standardization in Knowledge
    Distillation, Sun et al., CVPR 2024 (arXiv 2403.01407), with T^2 as in the authors' code.
    """
    _check_logits(student_logits, teacher_logits)
    return soft(_z_scores(student_logits), _z_scores(teacher_logits), temperature)


def decoupled(
    student_logits: Tensor,
    teacher_logits: Tensor,
    label: Tensor,
    temperature: float | Tensor,
    window: int | Tensor = 0,
) -> tuple[Tensor, Tensor]:
    """Decoupled distillation: TCKD and NCKD, both (N,) and both times T^2.

    Logits (N, C), label: class indices (N,). Source: Zhao et al., CVPR 2022 (arXiv 2203.08679), equation 7.
    `window` > 0 widens the target for ordinal classes (our convention): the classes within `window` of the
    label stay singletons of the target part, and the others form the non-target part; 0 is the paper's DKD.
    KL(teacher || student) = TCKD + p_teacher(non-target) * NCKD holds for every window.
    """
    _check_logits(student_logits, teacher_logits)
    classes = student_logits.shape[1]
    if not isinstance(window, Tensor):
        check_window(window, classes)
    index = torch.arange(classes, device=label.device)
    at = label.long().unsqueeze(1)
    plain = isinstance(window, int) and window == 0  # the same, in one operation instead of three
    near = index == at if plain else (index - at).abs() <= window  # (N, C), the target part
    log_s = _log_softmax(student_logits, temperature)
    log_t = _log_softmax(teacher_logits, temperature)
    rest_s = log_s.masked_fill(near, -torch.inf).logsumexp(1, keepdim=True)  # (N, 1), log p(non-target)
    rest_t = log_t.masked_fill(near, -torch.inf).logsumexp(1, keepdim=True)
    in_near = (log_t.exp() * (log_t - log_s)).masked_fill(~near, 0.0).sum(1)
    tckd = in_near + (rest_t.exp() * (rest_t - rest_s)).squeeze(1)
    log_q = log_t - rest_t  # log of the teacher's distribution inside the non-target part
    q = log_q.masked_fill(near, -torch.inf).exp()
    nckd = (q * (log_q - (log_s - rest_s)).masked_fill(near, 0.0)).sum(1)
    return _square(temperature) * tckd, _square(temperature) * nckd


def check_window(window: int, classes: int) -> None:
    """Raise ValueError if a target part of this half-width leaves fewer than two non-target classes."""
    if classes < 3 or 2 * window + 3 > classes:
        raise ValueError(
            "decoupled distillation needs two non-target classes or more: "
            f"{classes} classes with window {window} leave fewer"
        )


def feature(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean squared error over everything but the batch, (N,). Shapes (N, ...) equal: connect widths before.

    Source: FitNets, Romero et al. 2015 (arXiv 1412.6550), equation 3, up to its constant factor.
    """
    if student_features.shape != teacher_features.shape:
        raise ValueError(
            f"student features {tuple(student_features.shape)} and teacher features "
            f"{tuple(teacher_features.shape)} differ: put a connector between them"
        )
    return (_widen(student_features) - _widen(teacher_features)).square().flatten(1).mean(1)


def dist(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Relations between classes and between windows: inter and intra, both (M * N,) and both times T^2.

    Logits (M * N, C): N windows of each of M models. counts: (M, N), how much a window counts in its batch.
    inter is 1 - Pearson's correlation of the tempered probabilities of student and teacher over a sample's
    classes; intra, whose mean over a batch (as `counts` says) is what matters, that of each class over the
    batch, averaged over classes. Source: DIST, Huang et al., NeurIPS 2022 (arXiv 2205.10536), with the T^2 of
    the authors' code.
    """
    _check_logits(student_logits, teacher_logits)
    # Not exp of _log_softmax, whose rounding is a larger part of how little probabilities vary at high T.
    s, t = (functional.softmax(_tempered(z, temperature), dim=1) for z in (student_logits, teacher_logits))
    inter = 1 - _products(s, t, torch.ones_like(s), 1).sum(1)
    batches = (*counts.shape, s.shape[1])
    weight = counts.to(s.dtype).unsqueeze(2)  # (M, N, 1)
    products = _products(s.view(batches), t.view(batches), weight, 1)  # (M, N, C)
    intra = 1 - weight.sum(1) * products.mean(2)  # (M, N): a class's correlation, shared out to its windows
    return _square(temperature) * inter, _square(temperature) * intra.flatten()


def _products(a: Tensor, b: Tensor, weight: Tensor, axis: int) -> Tensor:
    """What sums to Pearson's correlation of a and b along an axis when weighed by `weight`; it broadcasts."""
    root, total = weight.sqrt(), weight.sum(axis, keepdim=True)
    a, b = (x - (x * weight).sum(axis, keepdim=True) / total for x in (a, b))
    length_a, length_b = (torch.linalg.vector_norm(x * root, dim=axis, keepdim=True) for x in (a, b))
    return a * b / (length_a * length_b + RELATED)


def _z_scores(logits: Tensor) -> Tensor:
    """(N, C); zeros where all logits of a sample are equal, with finite gradients."""
    return functional.layer_norm(_widen(logits), logits.shape[1:], eps=EQUAL)


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _square(temperature: float | Tensor) -> float | Tensor:
    return temperature.square().squeeze(1) if isinstance(temperature, Tensor) else temperature**2


def _log_softmax(logits: Tensor, temperature: float | Tensor) -> Tensor:
    return functional.log_softmax(_tempered(logits, temperature), dim=1)


def _tempered(logits: Tensor, temperature: float | Tensor) -> Tensor:
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return _widen(logits) / temperature


def _check_logits(student_logits: Tensor, teacher_logits: Tensor | None = None) -> None:
    if student_logits.ndim != 2:
        raise ValueError(f"logits must be (N, C), got {tuple(student_logits.shape)}")
    if teacher_logits is not None and teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits "
            f"{tuple(teacher_logits.shape)} differ"
        )
