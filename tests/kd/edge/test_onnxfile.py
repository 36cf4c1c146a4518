"""ONNX files: whole, anonymous, equal to the model; int8 as promised; the stopwatch and its device."""

import random
import re

import numpy as np
import pytest
import torch

from kd.edge import onnxfile
from kd.edge.device import device
from kd.edge.stopwatch import measure, time_model
from kd.errors import InputError
from kd.models import weights
from kd.models.architectures import build
from kd.training import metrics

onnx = pytest.importorskip("onnx", reason="needs the extra [edge]")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


SHAPES = {  # depth, width, channels, samples
    "resnet1d": (3, 6, 2, 200),
    "mlp": (2, 16, 1, 200),
    "resnet1d-post": (3, 6, 2, 200),
    "tcn": (3, 6, 2, 200),
    "dscnn": (3, 6, 2, 200),
    "spectra": (2, 6, 4, 200),
}
CENTRES = metrics.class_centres(30, 180)


def settled(arch: str):
    depth, width, channels, samples = SHAPES[arch]
    torch.manual_seed(1)
    model = build(arch, depth, width, channels=channels, samples=samples)
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(32, channels, samples))
    return model.eval()


def windows(arch: str, n: int = 1000) -> np.ndarray:
    _, _, channels, samples = SHAPES[arch]
    return np.random.default_rng(2).standard_normal((n, channels, samples)).astype(np.float32)


@pytest.fixture(scope="module", params=list(SHAPES))
def written(request, tmp_path_factory):
    """A model and its two files."""
    folder, arch = tmp_path_factory.mktemp("onnx"), request.param
    model = settled(arch)
    fp32, int8 = folder / "model.onnx", folder / "int8.onnx"
    onnxfile.write_onnx(model, fp32, *SHAPES[arch][2:])
    onnxfile.write_int8(fp32, int8, windows(arch, 64))
    return arch, model, fp32, int8


def test_a_file_is_whole_and_says_nothing_of_its_maker(written):
    arch, _, fp32, int8 = written
    assert sorted(p.name for p in fp32.parent.iterdir()) == [
        "int8.onnx",
        "model.onnx",
    ]  # no .data beside them
    for file in (fp32, int8):
        content = file.read_bytes()
        for trace in (rb"\.py\W", b"site-packages", b"stack_trace", b"/home", str(fp32.parents[1]).encode()):
            assert not re.search(trace, content), trace
        graph = onnx.load(file).graph
        assert [i.name for i in graph.input] == ["window"]
        assert [o.name for o in graph.output] == ["logits"]
        shape = graph.input[0].type.tensor_type.shape.dim
        assert shape[0].dim_param  # any number of windows
        assert [d.dim_value for d in shape[1:]] == list(SHAPES[arch][2:])


def test_a_file_asks_for_no_more_than_it_needs(written):
    """What the model card says of the oldest runtime was tried with these versions."""
    for file in written[2:]:
        proto = onnx.load(file)
        assert [(o.domain, o.version) for o in proto.opset_import] == [("", onnxfile.OPSET)]
        assert {node.domain for node in proto.graph.node} == {""}
        assert proto.ir_version == onnx.helper.find_min_ir_version_for(proto.opset_import) == onnxfile.IR


def test_the_file_answers_as_the_model(written):
    arch, model, fp32, _ = written
    assert onnxfile.verify(fp32, model, windows(arch)) < 1e-5
    for n in (1, 7):
        x = windows(arch, n)
        with torch.no_grad():
            wanted = model(torch.from_numpy(x))[0]
        torch.testing.assert_close(onnxfile.run_onnx(fp32, x), wanted, rtol=1e-4, atol=1e-5)


def test_norms_that_follow_a_convolution_are_in_it(written):
    arch, _, fp32, int8 = written
    there = [[n.op_type for n in onnx.load(file).graph.node] for file in (fp32, int8)]
    left = [kinds.count("BatchNormalization") for kinds in there]
    assert left == {"resnet1d": [4, 4], "spectra": [1, 1]}.get(arch, [0, 0])


def test_a_file_of_another_model_is_found_out(written):
    arch, model, fp32, _ = written
    other = settled(arch)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.fc.bias[0] += 0.01
    with pytest.raises(AssertionError, match="answers otherwise"):
        onnxfile.verify(fp32, other, windows(arch))


def test_int8_is_signed_per_channel_and_keeps_the_class_layer_float(written):
    arch, model, fp32, int8 = written
    proto = onnx.load(int8)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    maker = {o: n for n in proto.graph.node for o in n.output}
    kinds = {tensors[n.input[2]].dtype for n in proto.graph.node if n.op_type == "QuantizeLinear"}
    assert kinds == {np.dtype(np.int8)}
    quantised = [t for t in tensors.values() if t.dtype == np.int8 and t.ndim > 1]
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(quantised) == len(layers) - (arch != "spectra")  # whose class layer is of neither kind
    scales = [t for t in tensors.values() if t.dtype == np.float32 and t.shape == (SHAPES[arch][1],)]
    assert scales  # one for each output channel
    last = maker["logits"]
    while last.op_type != {"spectra": "MatMul"}.get(arch, "Gemm"):
        assert arch == "spectra"
        assert last.op_type in ("Add", "Slice", "Reshape", "Transpose")
        last = next(maker[i] for i in last.input if i in maker)
    assert [tensors[i].dtype for i in last.input if i in tensors][:1] == [np.float32]
    reference = onnxfile.run_onnx(fp32, windows(arch))
    got = onnxfile.run_onnx(int8, windows(arch))
    moved = metrics.decode_expectation(got, CENTRES) - metrics.decode_expectation(reference, CENTRES)
    assert 0 < float(moved.abs().mean()) < 1.0


def test_the_stopwatch_times_each_runtime_in_its_own_process(written, tmp_path):
    arch, model, fp32, _ = written
    np.save(tmp_path / "windows.npy", windows(arch, 20))
    weights.save(model.state_dict(), tmp_path / "model.safetensors", arch, *SHAPES[arch][:2])
    for file in (fp32, tmp_path / "model.safetensors"):
        timed = time_model(file, tmp_path / "windows.npy", runs=30)
        ms = timed["latency_ms"]
        assert 0 < ms["min"] <= ms["median"] <= ms["p95"]
        assert ms["runs"] == 30
        assert timed["load_ms"] > 0


def test_a_stopwatch_that_fails_says_why(tmp_path):
    np.save(tmp_path / "windows.npy", windows("mlp", 2))
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"broken\.onnx failed"):
        time_model(tmp_path / "broken.onnx", tmp_path / "windows.npy", runs=2)


def test_every_run_is_one_window_in_turn():
    seen = []
    figures = measure(lambda window: seen.append(window.copy()), np.arange(3.0)[:, None], runs=7)
    assert all(w.shape == (1, 1) for w in seen)
    assert [float(w[0, 0]) for w in seen[-7:]] == [0, 1, 2, 0, 1, 2, 0]
    assert figures["runs"] == 7


CPUINFO = """processor\t: 0
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz
stepping\t: 4
flags\t\t: fpu sse4_1 avx avx2 {flags} fma
"""


def test_a_device_is_its_cpu_and_flags(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO.format(flags="avx512f"))
    one = device(file)
    assert one["cpu"].startswith("Intel(R) Xeon(R) Gold 6130")
    assert one["key"].startswith("intel-xeon-gold-6130-")
    assert one["flags"] == ["sse4_1", "avx", "fma", "avx2", "avx512f"]
    assert device(file)["key"] == one["key"]
    file.write_text(CPUINFO.format(flags="avx512f avx512_vnni"))  # int8 behaves otherwise there
    assert device(file)["key"] != one["key"]
    assert device(tmp_path / "none")["cpu"]


def test_weights_in_other_files_are_not_followed(tmp_path):
    """Wherever a tensor may stand: as an initialiser, in a node, in a graph inside a node, in a function."""
    helper, secret = onnx.helper, tmp_path / "secret"
    secret.write_bytes(bytes(8))
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1, 2])
    outside = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2])
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="secret")
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])

    def model(initial, inner, attribute, function):
        graph = helper.make_graph([helper.make_node("Constant", [], ["z"], value=inner)], "g", [], [])
        nodes = [
            helper.make_node("Identity", ["w"], ["y"]),
            helper.make_node("Constant", [], ["c"], value=attribute),
            helper.make_node("If", ["c"], [], then_branch=graph, else_branch=graph),
        ]
        node = helper.make_node("Constant", [], ["f"], value=function)
        functions = [helper.make_function("d", "F", [], ["f"], [node], [])]
        graph = helper.make_graph(nodes, "main", [], [y], [initial])
        return helper.make_model(graph, functions=functions).SerializeToString()

    path = tmp_path / "model.onnx"
    path.write_bytes(model(tensor, tensor, tensor, tensor))
    onnxfile.check_whole(path)
    for at in range(4):
        path.write_bytes(model(*(outside if k == at else tensor for k in range(4))))
        with pytest.raises(InputError, match=r"model\.onnx: has weights in other files"):
            onnxfile.session(path)


def test_damaged_files_are_named(written, tmp_path):
    path, whole = tmp_path / "model.onnx", written[2].read_bytes()
    dice = random.Random(0)
    for n in range(60):
        data = bytearray(whole)
        for _ in range(3):
            data[dice.randrange(min(len(data), 3000))] = dice.randrange(256)
        path.write_bytes(bytes(data[: len(data) - n % 3 * 100]))
        try:
            onnxfile.session(path)
        except InputError as error:
            line = str(error)
            assert line.startswith(str(path))
            assert "\n" not in line
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.onnx: not a readable ONNX model"):
        onnxfile.session(path)
    with pytest.raises(InputError, match="no file of at most"):
        onnxfile.session(tmp_path / "none.onnx")
