"""Nodes that are not fit: counted one by one, shut out once, and never for what a point did itself."""

from orchestrator.run.nodes import BAD_POINTS, BAD_STARTS, Nodes


def test_starts_are_counted_by_node_and_one_after_the_other() -> None:
    nodes = Nodes()
    for _ in range(BAD_STARTS - 1):
        assert not nodes.start_failed("a", "no torch")
        assert not nodes.start_failed("b", "no torch")
        nodes.started("b")
    assert not nodes.shut_out
    assert nodes.start_failed("a", "no torch at all")
    assert not nodes.start_failed("a", "again")  # once
    assert nodes.shut_out.keys() == {"a"}
    assert "no torch at all" in nodes.shut_out["a"]


def test_points_that_fail_there_and_not_elsewhere_shut_a_node_out() -> None:
    nodes = Nodes()
    for i in range(BAD_POINTS):
        nodes.point_failed("a", f"p{i}", "CUDA error")
        assert nodes.failed_on(f"p{i}") == {"a"}
        shut = nodes.point_done("b", f"p{i}")
    assert shut == ["a"]
    assert "CUDA error" in nodes.shut_out["a"]
    assert not nodes.failed_on("p0")


def test_points_that_fail_everywhere_or_once_in_a_while_do_not() -> None:
    nodes = Nodes()
    for i in range(10):
        for node in "ab":
            nodes.point_failed(node, f"bad{i}", "diverged")
        nodes.point_failed("a", f"p{i}", "cosmic ray")
        nodes.point_done("b", f"p{i}")
        nodes.point_done("a", f"q{i}")  # it works
    assert not nodes.shut_out


def test_a_point_that_failed_on_bad_nodes_alone_is_known() -> None:
    nodes = Nodes()
    nodes.point_failed("a", "p", "x")
    for _ in range(BAD_STARTS):
        nodes.start_failed("a", "x")
    assert nodes.only_shut_out("p")
    nodes.point_failed("b", "p", "x")
    assert not nodes.only_shut_out("p")
