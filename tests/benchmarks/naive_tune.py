"""The same grid as a typical script trains it: plain Ray Tune, as its documentation has it.

A function trainable, a grid search for teachers and one for students, Conv1d models, a DataLoader, the
teacher run in every step, MLflow by Tune's callback; every trial is a new process. For sweep_vs_naive.py.
"""

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    """Pre-activation residual block."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm1d(cin), nn.BatchNorm1d(cout)
        self.conv1 = nn.Conv1d(cin, cout, 5, stride, 2, bias=False)
        self.conv2 = nn.Conv1d(cout, cout, 5, 1, 2, bias=False)
        self.shortcut = nn.Conv1d(cin, cout, 1, stride, bias=False) if stride > 1 or cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        pre = torch.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(pre)
        return kept + self.conv2(torch.relu(self.bn2(self.conv1(pre))))


class ResNet(nn.Module):
    """1D ResNet; logits and features."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        n = [width, *(width * 2 ** (i // 4) for i in range(depth))]
        self.stem = nn.Conv1d(1, width, 5, 1, 2, bias=False)
        self.blocks = nn.Sequential(*(Block(n[i], n[i + 1], 1 + i % 2) for i in range(depth)))
        self.bn, self.fc = nn.BatchNorm1d(n[-1]), nn.Linear(n[-1], 180)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.bn(self.blocks(self.stem(x)))).mean(2)
        return self.fc(features), features


class Mlp(nn.Module):
    """Hidden layers with batch norm; logits and features."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(width if i else 200, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.hidden, self.fc = nn.Sequential(*layers), nn.Linear(width, 180)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.hidden(x.flatten(1))
        return self.fc(features), features


def model_of(point: dict[str, Any]) -> nn.Module:
    return {"resnet1d": ResNet, "mlp": Mlp}[point["arch"]](point["depth"], point["width"])


BPM = torch.arange(30.0, 210.0)


def dkd(s: Tensor, t: Tensor, y: Tensor, a: dict[str, float]) -> Tensor:
    """Decoupled distillation in log space."""
    hit = functional.one_hot(y, 180).bool()
    ls, lt = (s / a["temperature"]).log_softmax(1), (t / a["temperature"]).log_softmax(1)
    rs, rt = (x.masked_fill(hit, -math.inf).logsumexp(1, keepdim=True) for x in (ls, lt))
    target = (lt.exp() * (lt - ls))[hit] + (rt.exp() * (rt - rs)).squeeze(1)
    rest = ((lt - rt).exp() * ((lt - rt) - (ls - rs))).masked_fill(hit, 0).sum(1)
    return a["temperature"] ** 2 * (a["alpha"] * target + a["beta"] * rest).mean()


def loss_of(
    point: dict[str, Any],
    out: tuple[Tensor, Tensor],
    taught: tuple[Tensor, Tensor] | None,
    bpm: Tensor,
    ramp: float,
) -> Tensor:
    """The point's strategy."""
    (s, f), a = out, point["strategy_args"]
    sigma = point["recipe"]["label_sigma_bpm"]
    labels = (-0.5 * ((BPM - bpm[:, None]) / sigma) ** 2).softmax(1)
    loss = a.get("ce", 1.0) * functional.cross_entropy(s, labels)
    if taught is None:
        return loss
    t, f_t = taught
    if point["strategy"] == "hard":
        loss = loss + a["weight"] * functional.cross_entropy(s, t.argmax(1))
    elif point["strategy"] == "soft":
        T = a["temperature"]
        kl = functional.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean")
        loss = loss + a["weight"] * T**2 * kl
    elif point["strategy"] == "dkd":
        loss = loss + ramp * dkd(s, t, (bpm - 30).round().long().clamp(0, 179), a)
    elif point["strategy"] == "feature":
        loss = loss + a["weight"] * functional.mse_loss(f, f_t)
    return loss


def error(model: nn.Module, x: Tensor, bpm: Tensor) -> float:
    """MAE in BPM, decoded by expectation."""
    model.eval()
    with torch.no_grad():
        predicted = torch.cat([model(part)[0].softmax(1) @ BPM for part in x.split(1024)])
    return float((predicted - bpm).abs().mean())


def train(config: dict[str, Any]) -> None:
    """One trial."""
    from ray import tune

    from kd.signals.prepare import DataConfig, prepare

    torch.set_num_threads(1)
    point, recipe = config["point"], config["point"]["recipe"]
    torch.manual_seed(point["seed"])
    data = prepare(DataConfig(**config["data"]), Path(config["cache"]))
    train_x, train_bpm, val_x, val_bpm, test_x, test_bpm = (
        torch.tensor(array) for side in (data.train, data.val, data.test) for array in (side.x, side.bpm)
    )
    started = time.perf_counter()
    model = model_of(point)
    teacher = None
    modules = [model]
    if point["teacher"]:
        folder = Path(config["folder"])
        teacher = model_of(json.loads((folder / f"{point['teacher']}.json").read_text()))
        teacher.load_state_dict(torch.load(folder / f"{point['teacher']}.pt", weights_only=True))
        teacher.eval().requires_grad_(False)
        if point["strategy"] == "feature":
            modules.append(nn.Linear(model.fc.in_features, teacher.fc.in_features))
    parameters = [p for module in modules for p in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe["lr"], weight_decay=recipe["weight_decay"])
    loader = DataLoader(
        TensorDataset(train_x, train_bpm), batch_size=recipe["batch_size"], shuffle=True, drop_last=True
    )
    steps = len(loader) * recipe["max_epochs"]
    warmup = max(round(recipe["warmup_fraction"] * steps), 1)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    share = point["strategy_args"].get("warmup_fraction", 0) * recipe["max_epochs"]
    best, best_state = math.inf, model.state_dict()
    for epoch in range(recipe["max_epochs"]):
        model.train()
        total = 0.0
        for x, bpm in loader:
            taught = None
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(x)
            logits, features = model(x)
            features = modules[1](features) if len(modules) > 1 else features
            loss = loss_of(
                point, (logits, features), taught, bpm, min((epoch + 1) / share, 1) if share else 1.0
            )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, recipe["clip_norm"])
            optimiser.step()
            schedule.step()
            total += loss.item()
        val = error(model, val_x, val_bpm)
        if val < best:
            best, best_state = val, copy.deepcopy(model.state_dict())
        figures = {"train_loss": total / len(loader), "val_mae_bpm": val}
        if epoch == recipe["max_epochs"] - 1:
            model.load_state_dict(best_state)
            figures |= {"mae_bpm": error(model, test_x, test_bpm), "train_s": time.perf_counter() - started}
            torch.save(best_state, Path(config["folder"]) / f"{point['id']}.pt")
            (Path(config["folder"]) / f"{point['id']}.json").write_text(json.dumps(point))
        tune.report(figures)


def timed(owner: Any, names: tuple[str, ...]) -> list[float]:
    """Make these methods append the seconds that each call takes to the list returned."""
    seconds: list[float] = []

    def wrapped(method: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            method(*args, **kwargs)
            seconds.append(time.perf_counter() - start)

        return call

    for name in names:
        setattr(owner, name, wrapped(getattr(owner, name)))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, help="JSON: points, data, cache, folder, slots")
    job = json.loads(parser.parse_args().job.read_text())
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    ray.init(num_cpus=job["slots"], include_dashboard=False, log_to_driver=False)
    mlflow = MLflowLoggerCallback(
        tracking_uri=f"sqlite:///{job['folder']}/mlflow.db", experiment_name="naive"
    )
    logging_s = timed(mlflow, ("log_trial_start", "log_trial_result", "log_trial_end"))
    common = {key: job[key] for key in ("data", "cache", "folder")}
    results = []
    for role in ("teacher", "student"):
        points = [point for point in job["points"] if point["role"] == role]
        grid = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space={**common, "point": tune.grid_search(points)},
            run_config=tune.RunConfig(
                name=role,
                storage_path=str(Path(job["folder"]) / "ray_results"),
                callbacks=[mlflow],
                verbose=0,
            ),
        ).fit()
        results += [(r.config["point"]["id"], r.metrics) for r in grid]  # type: ignore[index]
    points = {id: {"mae_bpm": m["mae_bpm"], "train_s": m["train_s"]} for id, m in results}  # type: ignore[index]
    told = {"points": points, "logging_s": sum(logging_s)}
    (Path(job["folder"]) / "naive.json").write_text(json.dumps(told))
    ray.shutdown()


if __name__ == "__main__":
    main()
    sys.exit(0)
