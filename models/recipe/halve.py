#!/usr/bin/env python3
"""Writes a model's f32 tensors as f16, rounded to nearest: halve.py MODEL/model.safetensors OUT.safetensors

Python's standard library is all it needs. A value that f16 cannot hold ends it.
"""
import array
import json
import struct
import sys


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    new, parts, at = {}, [], 0
    for name, tensor in header.items():
        if name == "__metadata__":
            new[name] = tensor
            continue
        begin, end = tensor["data_offsets"]
        part = data[begin:end]
        if tensor["dtype"] == "F32":
            values = array.array("f", part)
            if sys.byteorder == "big":
                values.byteswap()
            part = struct.pack(f"<{len(values)}e", *values)
            tensor = dict(tensor, dtype="F16")
        new[name] = dict(tensor, data_offsets=[at, at + len(part)])
        parts.append(part)
        at += len(part)
    text = json.dumps(new, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(sys.argv[2], "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


if __name__ == "__main__":
    main()
