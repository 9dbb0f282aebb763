"""Makes tests/parity/smp_deeplabv3plus.json: logits of segmentation_models_pytorch's DeepLabV3Plus at output strides 16 and 8,
for weights and an input given by smp_fpn.py's formula.

Usage: python tools/goldens/smp_deeplabv3plus.py tests/parity/smp_deeplabv3plus.json
Needs torch, torchvision, segmentation_models_pytorch 0.6. The formula stands in deeplabv3plus_parity_test.cpp too.

The logits are computed in float64, and residual branches are damped further than for FPN: without that, rounding grows through
ResNet-50 in training mode until float32 departs from float64 by up to 4e-4.
"""
import json
import sys

import segmentation_models_pytorch as smp
import torch

from smp_fpn import CLASSES, SAMPLES, closed_form, noise

# 40 pixels of the coarse feature at output stride 16: every atrous rate, 36 too, reaches some of them.
SIZE = (32, 640)
DAMPING = 0.4
WATCHED = ("encoder.layer4.1.bn2.running_mean", "decoder.aspp.0.convs.4.2.running_var", "decoder.block2.1.running_mean")


def damped(name, shape):
    ends_branch = name.endswith((".bn2.weight", ".bn3.weight"))
    return closed_form(name, shape) * (DAMPING if ends_branch else 1)


def main(path):
    torch.set_num_threads(1)
    golden = {"size": SIZE, "classes": CLASSES, "cases": []}
    image = torch.from_numpy(noise("image", 2 * 3 * SIZE[0] * SIZE[1]).astype("float32")).reshape(2, 3, *SIZE)
    for backbone in ("resnet18", "resnet50"):
        for stride in (16, 8):
            model = smp.DeepLabV3Plus(backbone, encoder_weights=None, encoder_output_stride=stride, classes=CLASSES,
                                      decoder_aspp_dropout=0.0)
            state = model.state_dict()
            for name, value in state.items():
                if not name.endswith("num_batches_tracked"):
                    state[name] = damped(name, tuple(value.shape))
            model.load_state_dict(state)
            model.double()
            for mode in ("eval", "train"):  # in this order: training changes the running statistics
                model.train(mode == "train")
                with torch.no_grad():
                    logits = model(image.double())
                flat = logits.flatten()
                step = flat.numel() // SAMPLES
                after = model.state_dict()
                golden["cases"].append({
                    "backbone": backbone,
                    "output_stride": stride,
                    "mode": mode,
                    "names": sum(1 for _ in after),
                    "mean": flat.mean().item(),
                    "mean_abs": flat.abs().mean().item(),
                    "step": step,
                    "logits": [round(v, 6) for v in flat[::step].tolist()],
                    "running": {name: round(after[name].abs().mean().item(), 8) for name in WATCHED},
                })
                print(backbone, stride, mode, "mean abs logit", flat.abs().mean().item(), "max", flat.abs().max().item())
    with open(path, "w") as file:
        json.dump(golden, file)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
