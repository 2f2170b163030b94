from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from kernels_support import computed
from onnx import TensorProto, helper, numpy_helper

from hwnas.kernels.comparing import compare
from hwnas.kernels.executed import executed_kernels

TENSORS = {
    "x": (1, 16, 8, 8),
    "x18": (1, 18, 8, 8),
    "line": (1, 16, 8),
    "cube": (1, 16, 4, 4, 4),
    "rows": (4, 16),
    "tokens": (2, 5, 16),
    "columns": (16, 4),
    "kernel": (16, 16, 3, 3),
}
"""Inputs by name."""
PADDED = np.array([0, 0, 1, 1, 0, 0, 1, 1])
CONSTANTS = {
    "w": (16, 16, 3, 3),
    "w1": (16, 16, 1, 1),
    "w2": (16, 16, 1, 1),
    "w3": (16, 16, 3, 3),
    "w18": (16, 18, 3, 3),
    "wgroup": (16, 8, 3, 3),
    "wdepth": (16, 1, 3, 3),
    "wline": (16, 16, 3),
    "wcube": (16, 16, 3, 3, 3),
    "wrows": (16, 8),
    "wleft": (8, 16),
    "square": (16, 16),
    "nothing": np.zeros(16, dtype=np.float32),
    "bias": (16,),
    "bias2": (16,),
    "bias8": (8,),
    "channel": (1, 16, 1, 1),
    "channel2": (16, 1, 1),
    "last": (1, 1, 1, 8),
    "whole": (1, 16, 8, 8),
    "number": (),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "root": np.float32(2**0.5),
    "three": np.float32(3),
    "zero": np.float32(0),
    "six": np.float32(6),
    "cubic": np.float32(0.044715),
    "tanh": np.float32((2 / np.pi) ** 0.5),
    "pads": PADDED,
    "deep": np.array([0, 1, 1, 1, 0, 0, 1, 1]),
    "flat": np.array([16, 64]),
    "cut": np.array([0]),
    "middle": np.array([8]),
    "end": np.array([16]),
    "axis": np.array([1]),
    "scales": np.array([1, 1, 2, 2], dtype=np.float32),
}
"""Constants by name: a value, or the shape of random ones."""
CONV = "a=Conv<pads=[1,1,1,1]>(x,w,bias)"
BLOCKS = "m=MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(x) q=Conv(m,w1)"
"""Two kernels after which tensors are blocked in ONNX Runtime."""


def write(body: str, folder: Path, opset: int = 20) -> Path:
    """Write a file from the text of its nodes; they are called after what they make, the last one makes ``y``."""
    names = set(re.findall(r"\w+", body))
    inputs = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in TENSORS.items() if name in names)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (float[] y) {{ {body} }}'
    )
    random = np.random.default_rng(0)
    for name in [name for name in CONSTANTS if name in names]:
        value = CONSTANTS[name]
        if isinstance(value, tuple):
            value = np.asarray(random.uniform(0.1, 0.9, value), dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.output[0].CopyFrom(helper.make_value_info("y", helper.make_tensor_type_proto(TensorProto.FLOAT, None)))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


RULES: dict[str, tuple[str, str, str]] = {
    "a transposed convolution is no convolution": (
        "a=ConvTranspose<pads=[1,1,1,1]>(x,w,bias) b=BatchNormalization(a,bias,bias2,bias2,bias) y=Relu(b)",
        "a b | y",
        "a b | y",
    ),
    "a transposed convolution and a sum": (
        "a=ConvTranspose<pads=[1,1,1,1]>(x,w) b=Add(a,x) y=Relu(b)",
        "a | b | y",
        "a | b y",
    ),
    "a transposed convolution and a scale": (
        "a=ConvTranspose<pads=[1,1,1,1]>(x,w) b=Mul(a,channel) y=Relu(b)",
        "a | b | y",
        "a b | y",
    ),
    "a scale per channel is folded": (
        f"{CONV} y=Mul(a,channel)",
        "a y",
        "a y",
    ),
    "an offset per channel without the batch is folded": (
        f"{CONV} y=Add(a,channel2)",
        "a y",
        "a y",
    ),
    "a number scales": (
        f"{CONV} y=Mul(a,number)",
        "a y",
        "a y",
    ),
    "a number is added": (
        f"{CONV} y=Add(a,number)",
        "a | y",
        "a y",
    ),
    "a constant along a side of the image is not folded": (
        f"{CONV} y=Add(a,last)",
        "a | y",
        "a | y",
    ),
    "a constant of the whole image is not folded": (
        f"{CONV} y=Mul(a,whole)",
        "a | y",
        "a | y",
    ),
    "a difference with a constant": (
        f"{CONV} y=Sub(a,channel)",
        "a | y",
        "a y",
    ),
    "a quotient by a constant": (
        f"{CONV} y=Div(a,channel)",
        "a | y",
        "a y",
    ),
    "scale, offset and activation": (
        f"{CONV} b=Mul(a,channel) c=Add(b,channel2) y=Relu(c)",
        "a b c y",
        "a b c y",
    ),
    "scale and offset behind an activation": (
        f"{CONV} r=Relu(a) b=Mul(r,channel) c=Add(b,channel2) y=Sigmoid(c)",
        "a r | b | c | y",
        "a r b c y",
    ),
    "a normalisation behind an activation": (
        f"{CONV} r=Relu(a) b=BatchNormalization(r,bias,bias2,bias2,bias) y=Relu(b)",
        "a r | b y",
        "a r b y",
    ),
    "a normalisation first": (
        "b=BatchNormalization(x,bias,bias2,bias2,bias) r=Relu(b) y=Conv(r,w1)",
        "b | r | y",
        "b r | y",
    ),
    "a sum of blocked tensors": (
        f"{BLOCKS} a=Conv(q,w1) b=Add(a,m) y=Relu(b)",
        "m | q | a b y",
        "m | q | a b y",
    ),
    "a sum with what the convolution reads": (
        f"{BLOCKS} a=Conv(q,w1) b=Add(a,q) y=Relu(b)",
        "m | q | a b y",
        "m | q | a | b y",
    ),
    "a sum with what is read later": (
        f"{BLOCKS} a=Conv(q,w1) b=Add(a,m) c=Relu(b) y=Mul(c,m)",
        "m | q | a b c | y",
        "m | q | a | b c | y",
    ),
    "a sum with a tensor that is not blocked": (
        "r=Exp(x) a=Conv(r,w1) b=Conv(a,w1) c=Add(b,r) y=Relu(c)",
        "r | a | b | c | y",
        "r | a | b c y",
    ),
    "the first of two convolutions takes the sum": (
        f"{BLOCKS} a=Conv(q,w2) b=Conv(q,w1,bias) c=Add(a,b) y=Relu(c)",
        "m | q | b | a c y",
        "m | q | b | a c y",
    ),
    "the first of two convolutions, written the other way": (
        f"{BLOCKS} a=Conv(q,w2) b=Conv(q,w1,bias) c=Add(b,a) y=Relu(c)",
        "m | q | a | b c y",
        "m | q | a | b c y",
    ),
    "the convolution without an activation takes the sum": (
        f"{BLOCKS} a=Conv(q,w1) r=Relu(a) b=Conv(m,w1,bias) c=Add(r,b) y=Relu(c)",
        "m | q | a r | b c y",
        "m | q | a r | b c y",
    ),
    "a sum behind activations": (
        f"{BLOCKS} a=Conv(q,w1) r=Relu(a) b=Conv(m,w2,bias) s=Sigmoid(b) c=Add(r,s) y=Relu(c)",
        "m | q | a r | b s | c | y",
        "m | q | a r | b s | c y",
    ),
    "a sum of a convolution with itself": (
        f"{BLOCKS} a=Conv(q,w1) b=Add(a,a) y=Relu(b)",
        "m | q | a | b | y",
        "m | q | a | b y",
    ),
    "a sum that broadcasts": (
        f"{BLOCKS} g=GlobalAveragePool(m) a=Conv(q,w1) b=Add(a,g) y=Relu(b)",
        "m | q | g | a | b | y",
        "m | q | g | a | b y",
    ),
    "two sums in a row": (
        f"{BLOCKS} a=Conv(q,w1) b=Add(a,m) c=Add(b,x) y=Relu(c)",
        "m | q | a b | c | y",
        "m | q | a b | c y",
    ),
    "an activation that is not fused behind a sum": (
        f"{BLOCKS} a=Conv(q,w1) b=Add(a,m) y=LeakyRelu(b)",
        "m | q | a b | y",
        "m | q | a b y",
    ),
    "a normalisation behind a sum": (
        f"{BLOCKS} a=Conv(q,w1) b=Add(a,m) c=BatchNormalization(b,bias,bias2,bias2,bias) y=Relu(c)",
        "m | q | a b | c y",
        "m | q | a b c y",
    ),
    "groups of eight are not blocked": (
        "r=Exp(x) a=Conv<pads=[1,1,1,1],group=2>(r,wgroup,bias) b=Add(a,r) y=LeakyRelu(b)",
        "r | a b y",
        "r | a | b y",
    ),
    "groups of eight without a bias": (
        "r=Exp(x) a=Conv<pads=[1,1,1,1],group=2>(r,wgroup) b=Add(a,r) y=Relu(b)",
        "r | a | b | y",
        "r | a | b y",
    ),
    "groups of one are blocked": (
        f"{BLOCKS} a=Conv<pads=[1,1,1,1],group=16>(q,wdepth) b=Add(a,m) y=Relu(b)",
        "m | q | a b y",
        "m | q | a b y",
    ),
    "a sum behind a convolution of a line": (
        "r=Exp(line) a=Conv<pads=[1,1]>(r,wline,bias) b=Add(a,line) y=Relu(b)",
        "r | a | b | y",
        "r | a b y",
    ),
    "a sum behind a convolution of a cube": (
        "r=Exp(cube) a=Conv<pads=[1,1,1,1,1,1]>(r,wcube,bias) b=Add(a,cube) y=Relu(b)",
        "r | a | b | y",
        "r | a b y",
    ),
    "an activation behind a convolution of a cube": (
        "a=Conv(cube,wcube,bias) y=Relu(a)",
        "a y",
        "a y",
    ),
    "a convolution whose weight is an input": (
        "a=Conv(x,kernel) y=Relu(a)",
        "a y",
        "a y",
    ),
    "a convolution read twice through an identity": (
        f"{CONV} i=Identity(a) r=Relu(i) s=Sigmoid(i) y=Add(r,s)",
        "a | r | s | y",
        "a | r s y",
    ),
    "a convolution read once through an identity": (
        f"{CONV} i=Identity(a) y=Relu(i)",
        "a y",
        "a y",
    ),
    "a convolution read twice through a view": (
        f"{CONV} i=Reshape(a,flat) r=Relu(i) s=Sigmoid(i) y=Add(r,s)",
        "a | r | s | y",
        "a | r s y",
    ),
    "a convolution read once through a view": (
        f"{CONV} i=Reshape(a,flat) y=Relu(i)",
        "a | y",
        "a y",
    ),
    "a hard swish behind a convolution": (
        f"{CONV} h=HardSwish(a) y=Conv(h,w1)",
        "a h | y",
        "a h | y",
    ),
    "a hard swish as a result": (
        f"{CONV} y=HardSwish(a)",
        "a | y | y",
        "a y",
    ),
    "a hard swish alone": (
        "m=MaxPool<kernel_shape=[3,3]>(x) h=HardSwish(m) y=Conv(h,w1)",
        "m | h | h | y",
        "m | h | y",
    ),
    "a hard sigmoid": (
        f"{CONV} h=HardSigmoid(a) y=Conv(h,w1)",
        "a h | y",
        "a | h | y",
    ),
    "a logarithm and its neighbours": (
        "a=Exp(x) b=Log(a) c=Relu(b) y=Sigmoid(c)",
        "a | b | c | y",
        "a | b | c y",
    ),
    "an activation behind a product": (
        "a=MatMul(rows,wrows) y=Relu(a)",
        "a | y",
        "a y",
    ),
    "an activation behind a product and a bias": (
        "a=MatMul(rows,wrows) b=Add(a,bias8) y=Relu(b)",
        "a b y",
        "a b y",
    ),
    "an activation behind a product of many rows": (
        "a=MatMul(tokens,wrows) b=Add(a,bias8) y=Relu(b)",
        "a b | y",
        "a b y",
    ),
    "a number behind a product": (
        "a=MatMul(rows,wrows) y=Add(a,number)",
        "a | y",
        "a y",
    ),
    "a scale behind a product": (
        "a=MatMul(rows,wrows) y=Mul(a,number)",
        "a y",
        "a y",
    ),
    "a linear layer and an activation": (
        "a=Gemm(rows,wrows,bias8) y=Elu(a)",
        "a y",
        "a y",
    ),
    "a linear layer and a clip": (
        "a=Gemm(rows,wrows,bias8) y=Clip(a,zero,six)",
        "a | y",
        "a y",
    ),
    "a product whose constant comes first": (
        "a=MatMul(wleft,columns) y=Relu(a)",
        "a | y",
        "a y",
    ),
    "gelu by erf": (
        f"{CONV} d=Div(a,root) e=Erf(d) f=Add(e,one) g=Mul(a,f) h=Mul(g,half) y=Conv(h,w1)",
        "a | d e f g h | y",
        "a d e f g h | y",
    ),
    "gelu by erf, halved first": (
        f"{CONV} d=Div(a,root) e=Erf(d) f=Add(e,one) g=Mul(a,half) h=Mul(g,f) y=Conv(h,w1)",
        "a | d e f g h | y",
        "a d e f g h | y",
    ),
    "gelu by erf, halved inside": (
        f"{CONV} d=Div(a,root) e=Erf(d) f=Add(e,one) g=Mul(f,half) h=Mul(a,g) y=Conv(h,w1)",
        "a | d | e | f | g | h | y",
        "a d e f g h | y",
    ),
    "gelu by tanh": (
        f"{CONV} d=Pow(a,three) e=Mul(d,cubic) f=Add(a,e) g=Mul(f,tanh) h=Tanh(g) i=Add(h,one) "
        "j=Mul(a,half) k=Mul(j,i) y=Conv(k,w1)",
        "a | d e f g h i j k | y",
        "a d e f g h i j k | y",
    ),
    "a swish in pieces": (
        f"{CONV} s=Sigmoid(a) t=Mul(a,s) y=Conv(t,w1)",
        "a | s t | y",
        "a s t | y",
    ),
    "a hard swish in pieces": (
        f"{CONV} b=Add(a,three) c=Clip(b,zero,six) d=Div(c,six) e=Mul(a,d) y=Conv(e,w1)",
        "a | b | c | d | e | y",
        "a b c d e | y",
    ),
    "a hard swish of a hard sigmoid": (
        f"{CONV} b=HardSigmoid<alpha=0.16666667,beta=0.5>(a) c=Mul(a,b) y=Conv(c,w1)",
        "a b c | y",
        "a | b | c | y",
    ),
    "a hard swish of a hard sigmoid, not behind a convolution": (
        "m=MaxPool<kernel_shape=[3,3]>(x) b=HardSigmoid<alpha=0.16666667,beta=0.5>(m) c=Mul(m,b) y=Conv(c,w1)",
        "m | b | c | y",
        "m | b | c | y",
    ),
    "channels that come in blocks of three": (
        "a=Conv<pads=[1,1,1,1]>(x18,w18) r=Exp(a) b=Conv(r,w1) c=Add(b,a) y=Relu(c)",
        "a | r | b | c | y",
        "a | r | b c y",
    ),
    "a linear layer without a bias and a sum": (
        "a=Gemm(rows,wrows) b=Add(a,bias8) y=Relu(b)",
        "a | b | y",
        "a b y",
    ),
    "a resize and an activation": (
        f'{CONV} b=Resize<mode="nearest">(a,,scales) c=Relu(b) y=Conv(c,w1)',
        "a | b | c | y",
        "a | b c | y",
    ),
    "an offset that two convolutions share": (
        "a=Conv(x,w1) b=Add(a,channel) r=Relu(b) c=Conv(r,w2) d=Add(c,channel) y=Relu(d)",
        "a b r | c d y",
        "a | b r | c | d y",
    ),
    "a scale that a normalisation shares": (
        "a=Conv(x,w1) b=Mul(a,channel) y=Add(b,channel)",
        "a b y",
        "a b y",
    ),
    "a transpose that turns round all sides": (
        "a=Exp(rows) t=Transpose(a) y=Softmax(t)",
        "a | t | y",
        "a | t | y",
    ),
    "a mish in pieces": (
        f"{CONV} b=Softplus(a) c=Tanh(b) d=Mul(a,c) y=Conv(d,w1)",
        "a | b | c | d | y",
        "a b c d | y",
    ),
    "a padding before a convolution": (
        "a=Pad(x,pads) y=Conv(a,w,bias)",
        "y",
        "y",
    ),
    "a padding with ones": (
        "a=Pad(x,pads,one) y=Conv(a,w,bias)",
        "a | y",
        "a | y",
    ),
    "a padding that mirrors": (
        'a=Pad<mode="reflect">(x,pads) y=Conv(a,w,bias)',
        "a | y",
        "a | y",
    ),
    "a padding before a maximum": (
        "a=Pad(x,pads) y=MaxPool<kernel_shape=[3,3]>(a)",
        "y",
        "a | y",
    ),
    "a padding before a mean": (
        "a=Pad(x,pads) y=AveragePool<kernel_shape=[3,3]>(a)",
        "y",
        "y",
    ),
    "a dead branch": (
        f"{CONV} d=Exp(a) e=Sigmoid(d) y=Relu(a)",
        "a | d | e | y",
        "a y",
    ),
    "two nodes that compute the same": (
        f"{CONV} b=Sigmoid(a) c=Sigmoid(a) d=Exp(b) e=MaxPool<kernel_shape=[3,3]>(d) "
        "f=MaxPool<kernel_shape=[3,3]>(c) y=Add(e,f)",
        "a b c | d | e | f | y",
        "a b c | d | e | f | y",
    ),
    "transposes that cancel": (
        f"{CONV} t=Transpose<perm=[0,2,3,1]>(a) u=Transpose<perm=[0,3,1,2]>(t) y=Relu(u)",
        "a y",
        "a y",
    ),
    "a block of ConvNeXt": (
        "a=Conv<pads=[1,1,1,1],group=16>(x,wdepth,bias) t=Transpose<perm=[0,2,3,1]>(a) "
        "n=LayerNormalization(t,bias,bias2) p=MatMul(n,square) b=Add(p,bias) "
        "u=Transpose<perm=[0,3,1,2]>(b) s=Mul(channel2,u) y=Add(s,x)",
        "a | n | p b | s |  | y",
        "a | t | n | n | n | n | p b | u | s y",
    ),
    "a normalisation of channels between convolutions": (
        "a=Conv(x,w1) t=Transpose<perm=[0,2,3,1]>(a) n=LayerNormalization(t,bias,nothing) "
        "u=Transpose<perm=[0,3,1,2]>(n) y=Conv(u,w1)",
        "a | n | y",
        "a | t | n | n | n | y",
    ),
    "an instance normalisation": (
        "n=InstanceNormalization(x,bias,bias2) y=Relu(n)",
        "n | y",
        "n y",
    ),
    "a concatenation of one tensor": (
        f"{CONV} c=Concat<axis=1>(a) y=Sigmoid(c)",
        "a | c | y",
        "a y",
    ),
    "a concatenation of a concatenation": (
        f"{CONV} b=Conv<pads=[1,1,1,1]>(x,w3) c=Concat<axis=1>(a,b) d=Concat<axis=1>(c,a) "
        "y=MaxPool<kernel_shape=[3,3]>(d)",
        "a | b | c | d | y",
        "a | b | c d | y",
    ),
    "an image scaled before a convolution": (
        "b=Mul(x,channel) y=Conv(b,w1)",
        "b | y",
        "y",
    ),
    "element-wise operations with several readers": (
        "a=Relu(x) b=Sigmoid(x) c=Mul(a,b) d=Exp(c) y=Sub(d,b)",
        "a | b | c | d | y",
        "a b c d y",
    ),
    "element-wise operations around another kernel": (
        "a=Exp(x) b=Neg(a) c=Conv(b,w1) d=Floor(b) e=Mul(c,d) y=Add(e,a)",
        "a | b | c | d | e | y",
        "c | a b d | e y",
    ),
    "a gate by squeeze and excitation": (
        f"{BLOCKS} g=GlobalAveragePool(q) h=Conv(g,w1) s=Sigmoid(h) t=Mul(q,s) y=Conv(t,w1)",
        "m | q | g | h s | t | y",
        "m | q | g | h s | t | y",
    ),
    "what follows a mean": (
        "g=GlobalAveragePool(x) b=Relu(g) y=Conv(b,w1)",
        "g | b | y",
        "g b | y",
    ),
    "adding nothing and multiplying by one": (
        f"{CONV} b=Add(zero,a) c=Mul(b,one) y=Relu(c)",
        "a y",
        "a y",
    ),
    "what is subtracted from nothing": (
        f"{CONV} b=Sub(zero,a) y=Relu(b)",
        "a | b | y",
        "a b y",
    ),
    "slices of one tensor": (
        f"{CONV} b=Slice(a,cut,middle,axis) c=Slice(a,middle,end,axis) d=Exp(b) e=Sigmoid(c) y=Mul(d,e)",
        "a | b c | d | e | y",
        "a | b c | d e y",
    ),
}
"""What it is about -> nodes, kernels of ONNX Runtime, kernels of OpenVINO."""


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("rule", RULES)
def test_what_goes_into_which_kernel(tmp_path: Path, rule: str, runtime: str) -> None:
    body, onnxruntime, openvino = RULES[rule]
    path = write(body, tmp_path)
    kernels = computed(path, runtime)
    expected = onnxruntime if runtime == "onnxruntime" else openvino
    told = sorted(" ".join(sorted(kernel.nodes)) for kernel in kernels)
    assert told == sorted(" ".join(sorted(part.split())) for part in expected.split("|"))
    found = compare(kernels, executed_kernels(path, runtime), path)
    assert found.same, found
