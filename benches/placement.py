#!/usr/bin/env python3
"""Prints a table of what plans over the CPU and each shipped simulated device cost, beside other ways.

    benches/placement.py target/release/anynpu MODEL.gguf [OPTION of `anynpu plan` …]
"""

import json
import subprocess
import sys


def document(program, *arguments):
    out = subprocess.run([program, *arguments, "--json"], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def ms(price):
    return "-" if price is None else f"{price['objective_us'] / 1e3:.0f}"


def where(phase):
    names = []
    for segment in phase["segments"]:
        if not names or names[-1] != segment["device"]:
            names.append(segment["device"])
    return " ".join(names) if len(names) <= 3 else f"{len(names)} segments"


def main():
    program, model, *options = sys.argv[1:]
    print("| device | plan ms | greedy | CPU alone | device alone | prefill on | decode on | a guess |")
    print("|---|---:|---:|---:|---:|---|---|---:|")
    worse = []
    for device in document(program, "devices")["simulated"]:
        name = device["name"] if isinstance(device, dict) else device
        name = name.removeprefix("sim:")
        plan = document(
            program, "plan", model, "--device", f"sim:{name},cpu", "--compare", *options
        )
        ways = plan["compare"]
        total = plan["objective_us"]
        guess = sum(p["guess_share"] * p["predicted_us"] for p in plan["phases"])
        guess /= sum(p["predicted_us"] for p in plan["phases"])
        if any(w and w["objective_us"] < total * (1 - 1e-9) for w in ways.values()):
            worse.append(name)
        row = [name, ms(plan), ms(ways["greedy"]), ms(ways["cpu"]), ms(ways["sim"])]
        row += [where(phase) for phase in plan["phases"]] + [f"{100 * guess:.0f} %"]
        print("| " + " | ".join(row) + " |")
    if worse:
        sys.exit(f"another way is cheaper than the plan over: {', '.join(worse)}")


if __name__ == "__main__":
    main()
