"""Copies of a package with a fault each: mutants.py PACKAGE FOLDER. Tells their names, a line each."""
import os, shutil, struct, sys
from coremltools import proto

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
source, folder = sys.argv[1:]
made = 0


def copy(name):
    global made
    path = os.path.join(folder, name + ".mlpackage")
    shutil.copytree(source, path)
    made += 1
    print(name)
    return path


def spec(name):
    """Applies a change to the specification."""
    def decorated(change):
        path = os.path.join(copy(name), MODEL)
        model = proto.Model_pb2.Model()
        model.ParseFromString(open(path, "rb").read())
        function = model.mlProgram.functions["main"]
        change(model, function, function.block_specializations[function.opset])
        open(path, "wb").write(model.SerializeToString())
    return decorated


def weights(name):
    """Applies a change to the file of weights."""
    def decorated(change):
        path = os.path.join(copy(name), WEIGHTS)
        data = bytearray(open(path, "rb").read())
        open(path, "wb").write(change(data))
    return decorated


def first(block, kind):
    return next(op for op in block.operations if op.type == kind)


@weights("bad-mark")
def _(data):
    data[64:68] = struct.pack("<I", 0xDEADBEEE)
    return data

@weights("bad-version")
def _(data):
    data[4:8] = struct.pack("<I", 1)
    return data

@weights("bad-count")
def _(data):
    data[0:4] = struct.pack("<I", struct.unpack_from("<I", data)[0] + 1)
    return data

@weights("bad-type-of-numbers")
def _(data):
    kind = struct.unpack_from("<I", data, 68)[0]
    data[68:72] = struct.pack("<I", 2 if kind != 2 else 1)
    return data

@weights("bad-size-of-numbers")
def _(data):
    data[72:80] = struct.pack("<Q", struct.unpack_from("<Q", data, 72)[0] - 2)
    return data

@weights("cut-off")
def _(data):
    return data[: len(data) // 2]

@weights("no-weights")
def _(data):
    return b""

@spec("another-shape")
def _(model, function, block):
    first(block, "linear").outputs[0].type.tensorType.dimensions[0].constant.size += 1

@spec("another-type")
def _(model, function, block):
    first(block, "linear").outputs[0].type.tensorType.dataType = 23

@spec("unknown-operation")
def _(model, function, block):
    first(block, "linear").type = "linearity"

@spec("missing-parameter")
def _(model, function, block):
    del first(block, "linear").inputs["weight"]

@spec("another-parameter")
def _(model, function, block):
    op = first(block, "linear")
    op.inputs["scale"].CopyFrom(op.inputs["x"])

@spec("older-opset")
def _(model, function, block):
    function.block_specializations["CoreML5"].CopyFrom(block)
    del function.block_specializations[function.opset]
    function.opset = "CoreML5"
    model.specificationVersion = 6

@spec("newer-opset-than-specification")
def _(model, function, block):
    model.specificationVersion = 8

@spec("undefined-name")
def _(model, function, block):
    first(block, "linear").inputs["x"].arguments[0].name = "nowhere"

@spec("name-twice")
def _(model, function, block):
    ops = [op for op in block.operations if op.outputs]
    ops[-2].outputs[0].name = ops[0].outputs[0].name

@spec("name-that-is-no-identifier")
def _(model, function, block):
    first(block, "const").outputs[0].name = "0.constant"

@spec("undescribed-output")
def _(model, function, block):
    block.outputs.append(block.operations[-3].outputs[0].name)

@spec("description-of-another-shape")
def _(model, function, block):
    model.description.input[0].type.multiArrayType.shape[0] += 1

@spec("description-of-another-type")
def _(model, function, block):
    model.description.output[0].type.multiArrayType.dataType = 131104

@spec("description-of-nothing")
def _(model, function, block):
    model.description.input.add().CopyFrom(model.description.input[0])
    model.description.input[-1].name = "more"

@spec("no-operation-name")
def _(model, function, block):
    del first(block, "linear").attributes["name"]

@spec("output-that-is-an-input")
def _(model, function, block):
    block.outputs[0] = function.inputs[0].name
    model.description.output[0].name = function.inputs[0].name

@spec("no-function")
def _(model, function, block):
    del model.mlProgram.functions["main"]

path = os.path.join(copy("no-manifest"), "Manifest.json")
os.remove(path)
path = os.path.join(copy("manifest-of-nothing"), "Manifest.json")
text = open(path).read()
open(path, "w").write(text.replace("model.mlmodel", "other.mlmodel"))
path = os.path.join(copy("no-protobuf"), MODEL)
open(path, "wb").write(b"\xff" * 64)
path = os.path.join(copy("unknown-field"), MODEL)
open(path, "ab").write(b"\xba\x3e\x01\x00")  # field 999, one byte
