"""Computes functions of Core ML packages, and looks them over, for one test: serve.py CHECKER.py

A request is a line of JSON on standard input. {"check": PACKAGE} is answered by {"problems": […]}. {"operations": PACKAGE}
by {"functions": {name: [[type, [results]], …]}}. {"package", "function", "inputs": [[name, type, dims], …], "states"
likewise, "outputs": [name, …], "bytes"} is followed by so many bytes, the inputs and then the states one after the other,
and answered by {"bytes"} and so many, the outputs and then the states. Whatever goes wrong is answered by {"error"}.
"""
import contextlib, importlib.util, io, json, os, sys
import numpy as np

answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)

spec = importlib.util.spec_from_file_location("checker", sys.argv[1])
checker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checker)
TYPES = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32}
packages = {}


def package(path):
    if path not in packages:
        file = checker.package(path)
        model = checker.proto.Model_pb2.Model()
        with open(file, "rb") as f:
            model.ParseFromString(f.read())
        packages[path] = model, file.rsplit("/", 1)[0] + "/weights"
    return packages[path]


def check(path):
    checker.PROBLEMS.clear()
    sys.argv = ["checker", path, "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()):
        checker.main()
    return {"problems": checker.PROBLEMS}


def operations(path):
    functions = {}
    for name, function in package(path)[0].mlProgram.functions.items():
        block = function.block_specializations[function.opset]
        functions[name] = [[op.type, [o.name for o in op.outputs]] for op in block.operations]
    return {"functions": functions}


def compute(call, data):
    model, weights = package(call["package"])
    function = model.mlProgram.functions[call["function"]]
    feeds, states, at = {}, {}, 0
    for into, all in [(feeds, call["inputs"]), (states, call["states"])]:
        for name, dtype, dims in all:
            count = int(np.prod(dims)) * np.dtype(TYPES[dtype]).itemsize
            into[name] = np.frombuffer(data[at : at + count], TYPES[dtype]).reshape(dims)
            at += count
    out = checker.evaluate(model, call["function"], function, weights, feeds, states, False, "native")
    made = [out[name] for name in call["outputs"]] + [states[name] for name, _, _ in call["states"]]
    return b"".join(np.ascontiguousarray(x).tobytes() for x in made)


while line := sys.stdin.buffer.readline():
    request, made = json.loads(line), b""
    data = sys.stdin.buffer.read(request.get("bytes", 0))
    try:
        if "check" in request:
            answer = check(request["check"])
        elif "operations" in request:
            answer = operations(request["operations"])
        else:
            made = compute(request, data)
            answer = {"bytes": len(made)}
    except (Exception, SystemExit) as e:
        answer, made = {"error": f"{type(e).__name__}: {e}"}, b""
    answers.write(json.dumps(answer).encode() + b"\n" + made)
    answers.flush()
