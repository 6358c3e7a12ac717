"""Compiles what the kernels become on DX12 with Microsoft's compiler, as wgpu asks it to. `make test-dx12`.

    python dxc.py FOLDER LIBRARY

FOLDER has the HLSL that `ops::translate` writes; LIBRARY is DXC's shared library for Linux. Nothing runs.
"""

import ctypes
import sys
import uuid
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# dxcapi.h's names for what is asked for.
COMPILER = "73e22d93-e6ce-47f3-b5bf-f0664f39c1b0"
INTERFACE = "228b4687-5a6a-4730-900c-9702b2203f54"
RESULT = "58346cda-dde7-4497-9461-6f87af5e0659"
UTF_8 = 65001
# Methods of DXC's objects by their places: three of IUnknown, and, where that is not Windows' own, two of a destructor.
COMPILE, STATUS, ERRORS = 5, 5, 7
POINTER, SIZE = 5, 6
# Nothing of it is to be installed: this version says so each time.
UNSIGNED = "DXIL.dll not found."
# Shader model 6.2 is the first with f16, and what most drivers have at least.
TARGETS = ("cs_6_2", "cs_6_6")


class Source(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char_p), ("size", ctypes.c_size_t), ("encoding", ctypes.c_uint32)]


def guid(name: str) -> ctypes.Array:
    return (ctypes.c_ubyte * 16).from_buffer_copy(uuid.UUID(name).bytes_le)


def method(of: ctypes.c_void_p, place: int, returns: type, *takes: type):
    table = ctypes.cast(of, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
    function = ctypes.CFUNCTYPE(returns, ctypes.c_void_p, *takes)(table[place])
    return lambda *arguments: function(of, *arguments)


def open_compiler(library: str) -> None:
    global compiler
    compiler = ctypes.c_void_p()
    code = ctypes.CDLL(library).DxcCreateInstance(guid(COMPILER), guid(INTERFACE), ctypes.byref(compiler))
    assert code == 0, f"{library} makes no compiler: {code}"


def compiled(file: Path) -> tuple[str, str]:
    """The kernel's name, from the file's first line, and what the compiler has against it."""
    text = file.read_bytes()
    _, entry, name = text.split(b"\n", 1)[0].decode().split(" ", 2)
    said = ""
    for target in TARGETS:
        arguments = ["-E", entry, "-T", target, "-HV", "2018", "-no-warnings", "-Ges", "-enable-16bit-types"]
        result, errors, status = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int32()
        compile_it = method(compiler, COMPILE, ctypes.c_int32, *[ctypes.c_void_p] * 2, ctypes.c_uint32, *[ctypes.c_void_p] * 3)
        code = compile_it(
            ctypes.byref(Source(text, len(text), UTF_8)),
            (ctypes.c_wchar_p * len(arguments))(*arguments),
            len(arguments),
            None,
            guid(RESULT),
            ctypes.byref(result),
        )
        assert code == 0, f"{name}: the compiler did not begin: {code}"
        method(result, STATUS, ctypes.c_int32, ctypes.c_void_p)(ctypes.byref(status))
        method(result, ERRORS, ctypes.c_int32, ctypes.c_void_p)(ctypes.byref(errors))
        size = method(errors, SIZE, ctypes.c_size_t)()
        lines = ctypes.string_at(method(errors, POINTER, ctypes.c_void_p)(), size).decode().strip("\0\n").splitlines()
        lines = [line for line in lines if line.strip() and UNSIGNED not in line]
        # wgpu takes any word of the compiler for a failure.
        if status.value != 0 or lines:
            said += f"{target}, status {status.value}: " + "\n".join(lines) + "\n"
    return name, said


def main() -> int:
    folder, library = sys.argv[1:]
    # Of those that became the same only one.
    files = list({file.read_bytes().split(b"\n", 1)[1]: file for file in sorted(Path(folder).glob("*.hlsl"))}.values())
    # One that ends for good, where the compiler cannot be opened or crashes.
    with ProcessPoolExecutor(initializer=open_compiler, initargs=(library,)) as pool:
        results = list(pool.map(compiled, files, chunksize=8))
    failed = [(name, said) for name, said in results if said]
    for name, said in failed:
        print(f"{name}\n{said}", file=sys.stderr)
    print(f"Microsoft's compiler: {len(files) - len(failed)} of {len(files)} kernels compiled for each of {', '.join(TARGETS)}")
    return 1 if failed or len(files) < 500 else 0


if __name__ == "__main__":
    sys.exit(main())
