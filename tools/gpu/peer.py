#!/usr/bin/env python3
"""Run a Python peer on a machine that lacks some of its packages, for tools/gpu/run.sh.

    python tools/gpu/peer.py PACKAGES SCRIPT.py [ARGUMENT...]
    python tools/gpu/peer.py PACKAGES machine

PACKAGES is a folder with packages that are taken where Python has none of its own. A peer that takes more memory than the GPU has
prints {"error": "out of memory"}, which is a result, and ends with 0. `machine` prints the GPU, the versions of the packages and
which of them are missing.
"""
import importlib
import json
import pathlib
import runpy
import subprocess
import sys

USED = ("torchvision", "timm", "segmentation_models_pytorch", "torchmetrics")


def describe_machine():
    try:
        import torchvision_ops_stub  # noqa: F401  where torchvision is a CUDA build beside a CPU build of torch
    except ImportError:
        pass
    import torch
    machine = {"torch": torch.__version__, "versions": {}, "missing": {}}
    for name in USED:
        try:
            machine["versions"][name] = importlib.import_module(name).__version__
        except Exception as problem:  # a package that does not go with this torch may raise anything
            machine["missing"][name] = str(problem).splitlines()[0]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        machine |= {"gpu": properties.name, "multiprocessors": properties.multi_processor_count}
        query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
        try:
            machine["max_sm_mhz"] = float(subprocess.run(query, capture_output=True, text=True).stdout.split()[0])
        except (OSError, ValueError, IndexError):
            pass  # what needs it is not measured
    print(json.dumps(machine))


def main():
    packages, script, *arguments = sys.argv[1:]
    sys.path.append(packages)
    if script == "machine":
        return describe_machine()
    sys.path[0] = str(pathlib.Path(script).resolve().parent)  # what `python SCRIPT.py` has there
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except RuntimeError as problem:
        # Libraries have errors of their own for it, and torch.compile hands them on as its own.
        if not any(words in str(problem).lower() for words in ("out of memory", "alloc_failed")):
            raise
        print(json.dumps({"error": "out of memory"}))


if __name__ == "__main__":
    main()
