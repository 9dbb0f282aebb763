"""Makes a folder of random segmentation_models_pytorch networks, saved by torch.save in both formats, with inputs and logits:
FPN, and DeepLabV3Plus at output strides 16 and 8.

Usage: python tools/goldens/check_parity.py DIR
       SEMISEG_PARITY_DIR=DIR build/semiseg_tests --gtest_filter='*Parity.*'
Needs torch, torchvision, segmentation_models_pytorch 0.6, safetensors.
"""
import os
import sys

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

CLASSES = 19


def save(folder, name, model, size):
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches, so that evaluation normalises as training does
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 3, 64, 96))
    torch.save(model.state_dict(), os.path.join(folder, f"{name}.zip.pth"))
    torch.save(model.state_dict(), os.path.join(folder, f"{name}.legacy.pth"), _use_new_zipfile_serialization=False)
    image = torch.randn(2, 3, *size)
    tensors = {"image": image}
    with torch.no_grad():
        tensors["eval"] = model.eval()(image)
        tensors["train"] = model.train()(image)
    print(name, {mode: tensors[mode].abs().mean().item() for mode in ("eval", "train")})
    save_file(tensors, os.path.join(folder, f"{name}.io.safetensors"))


def main(folder):
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    for backbone in ("resnet18", "resnet50"):
        save(folder, backbone, smp.FPN(backbone, encoder_weights=None, classes=CLASSES, decoder_dropout=0.0), (128, 192))
    for backbone in ("resnet18", "resnet50"):
        for stride in (16, 8):
            model = smp.DeepLabV3Plus(backbone, encoder_weights=None, encoder_output_stride=stride, classes=CLASSES,
                                      decoder_aspp_dropout=0.0)
            # Wide enough that every atrous rate, up to 36 pixels of the coarse feature, reaches pixels at output stride 8.
            save(folder, f"deeplabv3plus_{backbone}_{stride}", model, (64, 320))


if __name__ == "__main__":
    main(sys.argv[1])
