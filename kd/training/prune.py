"""A student that starts from its teacher: its strongest channels, in an ordinary student's state dict.

torch-pruning's dependency graph says which weights belong to a channel; the student that comes out has the
keys and shapes of a fresh one, so that checkpoints, training and strategies know nothing of its init.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from kd.errors import InputError
from kd.models import inits, weights
from kd.models.architectures import build
from kd.signals.prepare import Data
from kd.training import metrics
from kd.training.losses import cross_entropy
from kd.training.objective import Labels
from kd.training.recipe import Spec
from kd.training.teacher import MODEL, as_tensor

TAYLOR_WINDOWS, TAYLOR_BATCH = 1024, 128  # windows the gradients are taken on; ours
TOLERANCE = 1e-5  # of the largest logit: pruned and masked teacher differ by the order of their sums only


def initial_state(spec: Spec, teacher_folder: Path | None, data: Data) -> dict[str, Tensor]:
    """The weights a student of `spec.init` starts from, by its teacher's folder.

    Deterministic: `pruned_random` and the windows of `pruned_taylor` follow the student's seed. Raises
    InputError when the teacher isn't there or this student can't be pruned from it.
    """
    importance = inits.criterion(spec.init)
    if importance is None:
        raise ValueError(f"init {spec.init} takes nothing from a teacher")
    if teacher_folder is None or not (Path(teacher_folder) / MODEL).exists():
        raise InputError(
            f"point {spec.id} (init {spec.init}) needs the weights of teacher {spec.teacher}, "
            f"but {teacher_folder} has none: train the teacher first"
        )
    shape = weights.shape_of(Path(teacher_folder) / MODEL)
    if why := inits.why_not(*shape, spec.arch, spec.depth, spec.width):
        raise InputError(f"point {spec.id} (init {spec.init}) from teacher {spec.teacher}: {why}")
    channels, samples = data.train.x.shape[1:]
    teacher = weights.load(Path(teacher_folder) / MODEL, channels, samples)
    generator = torch.Generator().manual_seed(spec.seed)
    chosen = torch.randperm(len(data.train), generator=generator)[:TAYLOR_WINDOWS].sort().values.numpy()
    labels = Labels(metrics.class_centres(data.min_bpm, data.classes), spec.recipe.label_sigma_bpm)
    x, bpm = as_tensor(data.train.x[chosen]), as_tensor(data.train.bpm[chosen])
    return pruned_state(
        teacher, shape, spec.width, importance=importance, x=x, target=labels.target(bpm), seed=spec.seed
    )


def pruned_state(
    teacher: nn.Module,
    shape: tuple[str, int, int],
    width: int,
    *,
    importance: str = "magnitude",
    x: Tensor,
    target: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The state dict of a student of `width`, pruned from a copy of `teacher` (on the CPU).

    shape: architecture, depth and width of the teacher. importance: "magnitude", "taylor" or "random".
    x: windows (N, C, S) to trace with, to check the result on and, with their target (class index (N,) or
    distribution (N, K)), to take Taylor's gradients on. Raises InputError for a student the teacher can't
    give, AssertionError if what came out isn't that student.
    """
    state = {k: v.detach().cpu() for k, v in teacher.state_dict().items()}
    arch, depth, teacher_width = shape
    if why := inits.why_not(*shape, arch, depth, width):
        raise InputError(why)
    channels, samples, classes = x.shape[1], x.shape[2], len(state["fc.bias"])

    def fresh(width: int) -> nn.Module:
        return build(arch, depth, width, channels=channels, samples=samples, classes=classes)

    # The graph is traced by autograd: of a frozen teacher nothing would be pruned, without a word.
    pruned = fresh(teacher_width)
    pruned.load_state_dict(state)
    pruned.eval()
    masked = copy.deepcopy(pruned)
    if importance == "taylor":
        _gradients(pruned, x, target)
    _prune(pruned, masked, width, teacher_width, importance, x[:2], seed)

    student = fresh(width).eval()
    student.load_state_dict(pruned.state_dict())  # raises if a key or shape isn't the student's
    _check(student, pruned, masked, x[:64], classes)
    return {k: v.detach().clone() for k, v in student.state_dict().items()}


def _prune(
    pruned: nn.Module, masked: nn.Module, width: int, of: int, importance: str, x: Tensor, seed: int
) -> None:
    """Remove channels from `pruned`, group by group, and silence the same ones in `masked`."""
    import torch_pruning as tp

    name_of = {module: name for name, module in pruned.named_modules()}
    graph = tp.DependencyGraph().build_dependency(pruned, example_inputs=x)
    generator = torch.Generator().manual_seed(seed)
    score = {
        "magnitude": tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": tp.importance.GroupTaylorImportance(),
        "random": lambda group: torch.rand(
            graph.get_out_channels(group[0][0].target.module), generator=generator
        ),
    }[importance]
    roots = [nn.Conv2d, nn.Linear]
    # The class layer is ignored, else classes would be pruned too.
    for group in graph.get_all_groups(ignored_layers=[pruned.fc], root_module_types=roots):
        dependency = group[0][0]
        channels = graph.get_out_channels(dependency.target.module)
        keep = channels * width // of
        gone = score(group).argsort()[: channels - keep].tolist()
        whole = graph.get_pruning_group(dependency.target.module, dependency.handler, gone)
        for each, indices in whole:
            if graph.is_out_channel_pruning_fn(each.handler) and each.target.module in name_of:
                _silence(masked.get_submodule(name_of[each.target.module]), indices)
        whole.prune()


def _silence(module: nn.Module, channels: list[int]) -> None:
    """Make a layer's output channels zero whatever comes in (in evaluation mode)."""
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            parameter[channels] = 0.0


def _gradients(model: nn.Module, x: Tensor, target: Tensor | None) -> None:
    """Leave the gradient of the mean loss over windows x (N, C, S) on the model, in evaluation mode."""
    if target is None:
        raise ValueError("Taylor importance needs the windows' targets")
    for i in range(0, len(x), TAYLOR_BATCH):
        logits, _ = model(x[i : i + TAYLOR_BATCH])
        (cross_entropy(logits, target[i : i + TAYLOR_BATCH]).sum() / len(x)).backward()


def _check(student: nn.Module, pruned: nn.Module, masked: nn.Module, x: Tensor, classes: int) -> None:
    """Assert that the student is one, and does what the teacher did without the removed channels."""
    count = [sum(p.numel() for p in model.parameters()) for model in (student, pruned, masked)]
    if count[0] != count[1] or count[0] >= count[2]:
        raise AssertionError(f"pruning {count[2]} parameters left {count[1]}, a fresh student has {count[0]}")
    with torch.no_grad():
        logits, wanted = student(x)[0], masked(x)[0]
    if logits.shape[1] != classes:
        raise AssertionError(f"pruning left {logits.shape[1]} logits of {classes}")
    error = float((logits - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
    if not error <= TOLERANCE:
        raise AssertionError(f"the pruned student differs from the masked teacher by {error:.2g}")
