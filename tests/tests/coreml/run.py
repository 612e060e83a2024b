"""Runs the checker of Core ML packages on many, in one process: run.py CHECKER.py JOBS.json

A job is a command line of the checker, {"argv": […]}, or a session: {"package", "precision": "native" | "f32", "calls":
[{"function", "inputs": npz, "expect": npz or null}]}. A line of JSON for each: "rc" and "problems", and of a session for
each call the largest difference from what was expected and the index of the largest number, by output.
"""
import contextlib, importlib.util, io, json, sys, traceback
import numpy as np


def load(path):
    spec = importlib.util.spec_from_file_location("checker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reset():
    checker.PROBLEMS.clear()
    checker.NOTES.clear()
    checker.STAT.update(vi=0, table=0, cross=0, worst=(0.0, ""))


def command(argv):
    reset()
    sys.argv = ["checker"] + argv
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            rc = checker.main()
        report = json.loads(out.getvalue() or "{}")
        if rc == 0:
            report["problems"] = unwritten(argv[0])
            rc = 1 if report["problems"] else 0
    except SystemExit as e:
        rc, report = 2, {"problems": [str(e)]}
    except Exception:
        rc, report = 2, {"problems": [traceback.format_exc(limit=3)]}
    report["rc"] = rc
    return report


# Parameters that coremltools leaves out where they say nothing; all others it writes, whatever their value.
SILENT = {
    ("conv", "bias"), ("layer_norm", "gamma"), ("layer_norm", "beta"), ("split", "num_splits"), ("split", "split_sizes"),
    ("scaled_dot_product_attention", "attn_mask"),
}


def unwritten(package):
    """Parameters of operations that coremltools would have written, and the package has not."""
    path = checker.package(package)
    spec = checker.proto.Model_pb2.Model()
    spec.ParseFromString(open(path, "rb").read())
    found = set()
    for function in spec.mlProgram.functions.values():
        for op in function.block_specializations[function.opset].operations:
            versions = checker.SSAOpRegistry.core_ops.get(op.type, {})
            versions = [v for v in versions if v.value <= spec.specificationVersion]
            if not versions or op.type == "const" or op.type.startswith("constexpr"):
                continue
            known = checker.SSAOpRegistry.core_ops[op.type][max(versions, key=lambda v: v.value)]
            for name in known.input_spec.input_types:
                if name not in op.inputs and (op.type, name) not in SILENT:
                    found.add(f"{op.type} has no {name}")
    return sorted(found)


def put(rows, into, at):
    """Rows of a step into those of a cache: along the third axis of [1, heads, rows, width], or, of [1, 1, rows, features],
    into the last of [1, features, 1, rows]."""
    if rows.shape[1] == 1 and into.shape[2] == 1 and into.shape[1] == rows.shape[3]:
        into[0, :, 0, at : at + rows.shape[2]] = rows[0, 0].T
    else:
        into[:, :, at : at + rows.shape[2]] = rows


def session(job):
    report = command([job["package"], "--quiet"])
    if report["rc"] != 0:
        return report
    path = checker.package(job["package"])
    spec = checker.proto.Model_pb2.Model()
    spec.ParseFromString(open(path, "rb").read())
    weights = path.rsplit("/", 1)[0] + "/weights"
    precision = job["precision"]
    checker.set_precision(precision)
    state, caches, done, calls = {}, {}, 0, []
    for call in job["calls"]:
        function = spec.mlProgram.functions[call["function"]]
        feeds = dict(np.load(call["inputs"]))
        # how many rows of the step count
        count = int(feeds.pop("count"))
        for given in function.inputs:
            kind, dtype, dims = checker.ttype(given.type)
            plain = np.float32 if precision == "f32" or dtype == "FLOAT32" else np.float16
            if kind == "state":
                state.setdefault(given.name, np.zeros(dims, plain))
            elif given.name not in feeds:
                feeds[given.name] = caches.setdefault(given.name, np.zeros(dims, np.float32))
        try:
            out = checker.evaluate(spec, call["function"], function, weights, feeds, state, job.get("cross", True), precision)
        except (Exception, SystemExit) as e:
            report["problems"].append(f"{call['function']}: {type(e).__name__}: {e}")
            break
        for name, value in out.items():
            if name.endswith("_new"):
                cache = caches[name[:-4]]
                put(value.astype(np.float32).take(range(count), 2), cache, done)
        done += count
        expected = dict(np.load(call["expect"])) if call["expect"] else {}
        made = {"differences": {}, "largest": {}, "argmax": {}}
        for name, value in expected.items():
            # what fills a text up is nothing
            found = out[name].astype(np.float64)[: len(value)]
            same = found.shape == value.shape
            worst = float(np.abs(found - value).max()) if same else np.nan
            # JSON has no other numbers
            made["differences"][name] = worst if np.isfinite(worst) else 1e300
            made["largest"][name] = float(np.abs(value).max())
            made["argmax"][name] = int(found[-1].argmax())
        calls.append(made)
    report["problems"] += [p for p in checker.PROBLEMS if p not in report["problems"]]
    report["rc"] = 1 if report["problems"] else 0
    report["calls"] = calls
    return report


checker = load(sys.argv[1])
for job in json.load(open(sys.argv[2])):
    said = command(job["argv"]) if "argv" in job else session(job)
    print(json.dumps(said, default=str), flush=True)
