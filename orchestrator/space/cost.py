"""What finished points say of the plan's estimated costs."""

from statistics import median

from orchestrator.space.plan import Plan
from orchestrator.store.store import Store


def cost_scale(plan: Plan, store: Store) -> tuple[float, str]:
    """What to multiply the plan's costs by, and where that comes from: finished points, if there are any."""
    cost = {p.id: p.cost_s for p in plan.points}
    ratios = [r["train_seconds"] / cost[r["id"]] for r in store.figures() if r["id"] in cost]
    if ratios:
        return median(ratios), f"{len(ratios)} finished points"
    return 1.0, "a rule of thumb for one CPU core"
