"""Makes the small weights files under tests/data/weights that weights_test.cpp reads.

Usage: python tools/goldens/weights_fixtures.py tests/data/weights
Needs torch and safetensors. The malicious files are only written here, never loaded.
"""
import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict

import torch
from safetensors.torch import save_file


def ramp(*shape, dtype=torch.float32):
    """0, 1/8, 2/8, ...: exact in every floating-point type."""
    count = 1
    for side in shape:
        count *= side
    return (torch.arange(count, dtype=torch.float32) / 8).reshape(shape).to(dtype)


class Touch:
    """Unpickling this would run a command."""

    def __reduce__(self):
        return os.system, ("touch /tmp/semiseg_pickle_was_executed",)


def state_dict():
    """An OrderedDict with _metadata, as every module's state_dict() is."""
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.BatchNorm2d(2))
    with torch.no_grad():
        net[0].weight.copy_(ramp(2, 1, 2, 2))
        net[0].bias.copy_(ramp(2))
        net[1].running_var.copy_(torch.tensor([2.0, 3.0]))
        net[1].num_batches_tracked.fill_(7)
    return net.state_dict()


def zip_with_pickle(path, data):
    """A zip archive in torch.save's layout around a pickle of our own."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")


class ViewPickler(pickle.Pickler):
    """Refers to one storage of 6 floats, through a view of 4 elements from the second on, as PyTorch before 0.4 did."""

    def persistent_id(self, obj):
        if isinstance(obj, str) and obj == "THE STORAGE":
            return ("storage", torch.FloatStorage, "0", "cpu", 6, ("1", 1, 4))
        return None


class ViewTensor:
    def __reduce__(self):
        return torch._utils._rebuild_tensor, ("THE STORAGE", 1, (3,), (1,))


def legacy_view(path):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(part, file, protocol=2)
        ViewPickler(file, protocol=2).dump({"view": ViewTensor()})
        pickle.dump(["0"], file, protocol=2)
        file.write((6).to_bytes(8, "little"))
        file.write(ramp(6).numpy().tobytes())


def main(folder):
    os.makedirs(folder, exist_ok=True)

    def path(name):
        return os.path.join(folder, name)

    weights = state_dict()
    torch.save(weights, path("zip.pt"))
    torch.save(weights, path("protocol4.pt"), pickle_protocol=4)
    torch.save(weights, path("legacy.pt"), _use_new_zipfile_serialization=False)
    for wrapper in ("model", "state_dict", "ema"):
        torch.save({"epoch": 3, "score": 0.5, "steps": torch.tensor(9), wrapper: weights}, path(f"wrapped_{wrapper}.pt"))
    torch.save({f"module.{k}": v for k, v in weights.items()}, path("prefixed.pt"))
    types = {
        "half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64, "int64": torch.int64,
        "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8, "bool": torch.bool,
    }
    typed = {name: (ramp(2, 3) * 8).to(dtype) for name, dtype in types.items()}
    torch.save(typed, path("types.pt"))
    torch.save(typed, path("types_legacy.pt"), _use_new_zipfile_serialization=False)
    save_file(typed, path("types.safetensors"), metadata={"format": "pt"})

    base = ramp(4, 6)
    views = {
        "transposed": base.t(),
        "slice": base[1:3, 2:5],
        "step": base.flatten()[::5],
        "expanded": base[0, :1].expand(3, 4),
        "channels_last": ramp(1, 2, 2, 2).contiguous(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(ramp(3)),
    }
    torch.save(views, path("views.pt"))
    torch.save(views, path("views_legacy.pt"), _use_new_zipfile_serialization=False)
    legacy_view(path("old_view.pt"))

    torch.save(torch.nn.Conv2d(1, 1, 1), path("module.pt"))
    torch.save({"epoch": 3, "optimizer": {}}, path("no_tensors.pt"))
    torch.save(ramp(3), path("tensor.pt"))
    torch.jit.script(torch.nn.ReLU()).save(path("script.pt"))
    zip_with_pickle(path("malicious_zip.pt"), pickle.dumps({"weight": Touch()}, protocol=2))
    torch.save({"weight": Touch()}, path("malicious_legacy.pt"), _use_new_zipfile_serialization=False)
    with open(path("plain_pickle.pt"), "wb") as file:
        pickle.dump({"weight": [1.0, 2.0]}, file, protocol=4)

    # A tensor that claims more than its storage holds: [2, 3] with strides [1000, 1] over 6 elements.
    buffer = io.BytesIO()
    torch.save(OrderedDict(weight=ramp(2, 3)), buffer)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path("out_of_bounds.pt"), "w", zipfile.ZIP_STORED) as out:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("data.pkl"):
                strides = b"K\x03K\x01\x86"  # the tuple (3, 1)
                assert data.count(strides) == 1
                data = data.replace(strides, b"M\xe8\x03K\x01\x86")
            out.writestr(name, data)


if __name__ == "__main__":
    main(sys.argv[1])
