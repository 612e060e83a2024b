"""Runs anynpu and the rivals by turns on the same files and prints the tables of benches/README.md.

Called by benches/compare.sh, which builds everything. One process a run: load, warm up, time. Engines take turns,
so that a machine that drifts does so for all; a figure is the median of the rounds, with the least and the most, a ratio
the median of those of the rounds. The memory's rate is measured before each round.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from gguf import GGUFReader

HERE = Path(__file__).parent
OPERATIONS = {  # multiply-adds of a token, in billions: prefill without the output head, decode with it
    "billion": (0.973, 1.039),
    "half-billion": (0.358, 0.386),
}
KEY_BYTES = {"billion": 32768, "half-billion": 12288}  # keys and values of a position, in 16 bits
NAMES = {"load": "seconds to the first token"}
PEAKS = {"f16": "f32", "f32": "f32", "bf16": "bf16"}  # of a prefill; the rest by 8-bit products


def main():
    args = arguments()
    limits = measure_limits(args, max(args.threads))
    out = sys.stdout
    memory = {}  # its rate beside each round, by threads
    if "bf16" in args.extra:
        PEAKS["f16"] = "bf16"
    print(f"On {date.today()}, {cpu()}, {args.most} cores; medians (least-most) of {args.rounds} rounds by turns.\n")
    print("| limit | threads | measured |\n|---|---:|---:|")
    for (name, threads), row in limits.items():
        print(f"| {name} | {threads} | {row['median']} ({row['least']}-{row['most']}) {row['unit']} |")
    print()
    samples = {}
    for shape in args.shapes:
        for kind in args.types:
            file = make_model(args, shape, kind)
            for threads in args.threads:
                for _ in range(args.rounds):
                    rate = measure_limits(args, threads, "memory")[("memory", threads)]["median"]
                    memory.setdefault((file, threads), []).append(rate)
                    for engine in args.engines:
                        for row in run(args, engine, file, kind, threads):
                            key = (shape, kind, threads, row["test"], engine)
                            samples.setdefault(key, []).append(row)
                beside = {**limits, ("memory", threads): {"median": statistics.median(memory[file, threads])}}
                table(args, samples, beside, shape, kind, threads, file, out)
    return 0


def arguments():
    most = os.cpu_count()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=["q4_0", "q8_0", "q4_k_m", "q6_k", "q5_0", "f16", "bf16"])
    parser.add_argument("--shapes", default="billion,half-billion", help="of make_model")
    parser.add_argument("--engines", default="anynpu,llama.cpp,openvino-genai,onnxruntime,candle")
    parser.add_argument("--threads", default=",".join(map(str, sorted({1, most}))))
    parser.add_argument("--prompts", default="32,128,512")
    parser.add_argument("--generate", default="128", help="tokens, or tokens@depth")
    parser.add_argument("--sequences", default="1", help="texts generated at once, by anynpu and llama.cpp: 1,4,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("target/rival"), help="where rivals and models are")
    parser.add_argument("--extra", default="", help="more options for anynpu, as '--precision bf16'")
    args = parser.parse_args()
    for name in ("shapes", "engines"):
        setattr(args, name, getattr(args, name).split(","))
    if "anynpu" not in args.engines:
        parser.error("--engines has to list anynpu, which the others are compared with")
    args.threads = [int(n) for n in args.threads.split(",")]
    args.most = most
    return args


def cpu():
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.processor()


def measure_limits(args, threads, *name):
    lines = subprocess.run([args.work / "limits", str(threads), *name], check=True, capture_output=True, text=True)
    rows = map(json.loads, lines.stdout.splitlines())
    return {(row["limit"], row["threads"]): row for row in rows}


def make_model(args, shape, kind):
    """The file of a shape in a type, made once: of random numbers, quantised by `anynpu quantize`."""
    file = args.work / f"{shape}-{kind}.gguf"
    if not file.exists():
        part = file.with_suffix(".part")
        if kind in ("f16", "bf16", "f32"):
            command = ["target/release/make_model", shape, part, "--type", kind]
        else:
            source = make_model(args, shape, "f16")
            command = ["target/release/anynpu", "quantize", source, part, "--type", kind]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        part.rename(file)
    return file


def run(args, engine, file, kind, threads):
    """One run of an engine: its rows; none, with a word on why, where it can't run the file."""
    file, threads_text = str(file), str(threads)
    environment = os.environ | {"RAYON_NUM_THREADS": threads_text, "OMP_NUM_THREADS": threads_text}
    if engine == "anynpu":
        return run_anynpu(args, file, threads)
    if engine == "candle":
        command = [args.work / "candle/release/anynpu-rival-candle", file, args.prompts, args.generate]
    else:
        script = HERE / "rivals" / f"time_{engine.replace('.', '_').replace('-', '_')}.py"
        command = [args.work / "python/bin/python", script, file, threads_text, args.prompts, args.generate]
    if engine == "llama.cpp":
        command.append(args.sequences)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{engine} on {Path(file).name}: {why}", file=sys.stderr)
    return rows


def run_anynpu(args, file, threads):
    n_gen, _, depth = args.generate.partition("@")
    rows = []
    common = ["target/release/anynpu", "bench", file, "-r", "1", "-t", str(threads), "-o", "jsonl", *args.extra.split()]
    tests = [["-p", args.prompts, "-n", "0"], ["-p", "0", "-n", n_gen, "-d", depth or "0", "--sequences", args.sequences]]
    for test in tests:
        done = subprocess.run(common + test, check=True, capture_output=True, text=True)
        for row in map(json.loads, done.stdout.splitlines()):
            at = f"@{depth}" if depth else ""
            texts = f"x{row['n_sequences']}" if row["n_sequences"] > 1 else ""
            name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}{texts}{at}"
            rows.append({"test": name, "value": row["avg_ts"]})
    command = ["target/release/anynpu", "run", file, "-p", "a", "-n", "1", "--temp", "0", "--json", "-t", str(threads)]
    command += args.extra.split()
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    memory = json.loads(done.stdout)["memory"]
    rows.append({"test": "load", "value": seconds, "peak_rss_bytes": memory["peak_rss_bytes"]})
    return rows


def table(args, samples, limits, shape, kind, threads, file, out):
    """One row a test: every engine's figure, ours as a part of each, and of the machine's limit."""
    tests = sorted({k[3] for k in samples if k[:3] == (shape, kind, threads)}, key=order)
    rivals = [e for e in args.engines if e != "anynpu"]
    size = file.stat().st_size
    read = bytes_of_a_token(file)
    beside = f"; memory at {limits[('memory', threads)]['median']:.1f} GB/s beside them"
    options = f", {args.extra.strip()}" if args.extra else ""
    unit = f"{threads} thread{'s' if threads > 1 else ''}{options}; tokens a second{beside}"
    print(f"{shape} {kind}, {size / 1e6:.0f} MB, {unit}\n", file=out)
    print("| test | anynpu | of the limit |" + "".join(f" {r} | ratio |" for r in rivals), file=out)
    print("|---|---:|---:|" + "---:|---:|" * len(rivals), file=out)
    for test in tests:
        rows = {e: samples.get((shape, kind, threads, test, e), []) for e in args.engines}
        ours = [row["value"] for row in rows["anynpu"]]
        line = f"| {NAMES.get(test, test)} | {told(ours)} | {part_of_limit(limits, shape, kind, threads, test, ours, read)} |"
        for rival in rivals:
            theirs = [row["value"] for row in rows[rival]]
            pairs = [ours[i] / theirs[i] for i in range(min(len(ours), len(theirs)))]
            ratio = f"{statistics.median(pairs):.2f}" if pairs else ""
            if test == "load":
                ratio = ""
            line += f" {told(theirs)} | {ratio} |"
        print(line, file=out, flush=True)
        peaks = {e: [r["peak_rss_bytes"] / 1e6 for r in rows[e] if "peak_rss_bytes" in r] for e in args.engines}
        if peaks["anynpu"]:
            cells = "".join(f" {statistics.median(peaks[r]):.0f} MB | |" if peaks[r] else " | |" for r in rivals)
            print(f"| peak memory | {statistics.median(peaks['anynpu']):.0f} MB | |{cells}", file=out, flush=True)
    print(file=out, flush=True)


def order(test):
    numbers = test[2:].partition("@")[0].split("x") if test[:2] in ("pp", "tg") else []
    return (test[:2] != "pp", test[:2] != "tg", *map(int, numbers))


def told(values):
    if not values:
        return "-"
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def bytes_of_a_token(file):
    """Bytes of weights that generating a token reads: all but the embeddings, unless the output head shares them."""
    tensors = {t.name: int(t.n_bytes) for t in GGUFReader(file).tensors}
    if "output.weight" in tensors:
        del tensors["token_embd.weight"]
    return sum(tensors.values())


def part_of_limit(limits, shape, kind, threads, test, ours, read):
    """Our median as a part of what the machine's peak rate or bandwidth permits."""
    prefill, _ = OPERATIONS[shape]
    if not ours or test == "load" or "x" in test:
        return ""
    if test.startswith("pp"):
        peak = limits.get((PEAKS.get(kind, "int8"), threads)) or limits.get(("f32", threads))
        most = peak["median"] / (2 * prefill)
    else:
        count, _, depth = test[2:].partition("@")
        keys = KEY_BYTES[shape] * (int(depth or 0) + int(count) / 2)
        most = limits[("memory", threads)]["median"] * 1e9 / (read + keys)
    return f"{100 * statistics.median(ours) / most:.0f} %"


if __name__ == "__main__":
    sys.exit(main())
