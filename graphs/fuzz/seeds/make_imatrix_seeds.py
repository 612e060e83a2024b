"""Writes the seeds of the target `imatrix`: small importance matrices of both forms."""

import os
import struct

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "imatrix")


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def legacy(entries, tail=True):
    data = struct.pack("<i", len(entries))
    for name, calls, weights in entries:
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack(f"<ii{len(weights)}f", calls, len(weights), *weights)
    if tail:
        data += struct.pack("<ii", 7, 8) + b"text.txt"
    return data


def gguf(entries):
    tensors = []
    for name, counts, sums in entries:
        rows = len(counts)
        tensors.append((f"{name}.in_sum2", [len(sums) // rows, rows], sums))
        tensors.append((f"{name}.counts", [1, rows], counts))
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 3)
    data += string("general.type") + struct.pack("<I", 8) + string("imatrix")
    data += string("imatrix.datasets") + struct.pack("<IIQ", 9, 8, 1) + string("text.txt")
    data += string("imatrix.chunk_count") + struct.pack("<II", 4, 7)
    body = b""
    for name, dims, values in tensors:
        data += string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(body))
        body += struct.pack(f"<{len(values)}f", *values)
        body += bytes(-len(body) % 32)
    return data + bytes(-len(data) % 32) + body


ENTRIES = [("blk.0.attn_q.weight", 2, [1.0, 2.0, 3.0, 4.0]), ("output.weight", 0, [0.5] * 8)]
SEEDS = {
    "legacy": legacy(ENTRIES),
    "legacy-without-end": legacy(ENTRIES, tail=False),
    "legacy-twice": legacy(ENTRIES[:1] * 2),
    "legacy-not-finite": legacy([("output.weight", 1, [float("nan")])]),
    "legacy-too-many": struct.pack("<i", 2**31 - 1),
    "gguf": gguf([("blk.0.attn_q.weight", [2.0], [1.0, 2.0, 3.0, 4.0])]),
    "gguf-experts": gguf([("blk.0.ffn_up_exps.weight", [2.0, 0.0], [1.0] * 8)]),
    "gguf-negative": gguf([("output.weight", [2.0], [-1.0] * 4)]),
    "gguf-empty": gguf([("output.weight", [2.0], [])]),
}

os.makedirs(FOLDER, exist_ok=True)
for name, data in SEEDS.items():
    with open(os.path.join(FOLDER, name), "wb") as out:
        out.write(data)
