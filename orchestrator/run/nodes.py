"""Which nodes are fit to train: what failed where, by node. No Ray: nodes are names that it is told."""

BAD_STARTS = 3  # workers that die while starting, one after the other, before their node gets no more
BAD_POINTS = 3  # different points that failed on a node and were trained on another, before the same


class Nodes:
    """Counts by node. `shut_out` gets no more work: its nodes, each with the reason."""

    def __init__(self) -> None:
        self.shut_out: dict[str, str] = {}
        self._bad_starts: dict[str, int] = {}
        self._failed_on: dict[str, dict[str, str]] = {}  # point -> nodes it failed on, with the reason
        self._bad_points: dict[str, set[str]] = {}  # node -> points that failed there alone

    def started(self, node: str) -> None:
        """A worker there trains."""
        self._bad_starts.pop(node, None)

    def start_failed(self, node: str, why: str) -> bool:
        """A worker could not start there; whether that shuts the node out, now."""
        self._bad_starts[node] = self._bad_starts.get(node, 0) + 1
        bad = self._bad_starts[node] >= BAD_STARTS
        return bad and self._shut(node, f"{BAD_STARTS} workers could not start there; the last: {why}")

    def point_failed(self, node: str, point: str, why: str) -> None:
        """A point failed there. Whose fault that is shows when it is tried elsewhere."""
        self._failed_on.setdefault(point, {})[node] = why

    def point_done(self, node: str, point: str) -> list[str]:
        """A point was trained there; the nodes that this shuts out."""
        self._bad_points.pop(node, None)
        shut = []
        for bad, why in self._failed_on.pop(point, {}).items():
            if bad == node:
                continue
            self._bad_points.setdefault(bad, set()).add(point)
            count = len(self._bad_points[bad])
            text = f"{count} points failed there that other nodes could train; the last: {why}"
            if count >= BAD_POINTS and self._shut(bad, text):
                shut.append(bad)
        return shut

    def failed_on(self, point: str) -> set[str]:
        """Nodes that a point failed on."""
        return set(self._failed_on.get(point, ()))

    def only_shut_out(self, point: str) -> bool:
        """Whether a point failed on nodes alone that are shut out by now."""
        return self.failed_on(point) <= self.shut_out.keys()

    def _shut(self, node: str, why: str) -> bool:
        new = node not in self.shut_out
        self.shut_out.setdefault(node, why)
        return new
