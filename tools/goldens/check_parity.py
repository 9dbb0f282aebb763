"""Makes a folder of random segmentation_models_pytorch FPNs, saved by torch.save in both formats, with inputs and logits.

Usage: python tools/goldens/check_parity.py DIR
       SEMISEG_PARITY_DIR=DIR build/semiseg_tests --gtest_filter='FpnParity.*'
Needs torch, torchvision, segmentation_models_pytorch 0.6, safetensors.
"""
import os
import sys

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

CLASSES = 19


def main(folder):
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    for backbone in ("resnet18", "resnet50"):
        model = smp.FPN(backbone, encoder_weights=None, classes=CLASSES, decoder_dropout=0.0)
        model.train()
        with torch.no_grad():
            for _ in range(3):  # so that the running statistics are not the initial ones
                model(torch.randn(2, 3, 64, 96))
        torch.save(model.state_dict(), os.path.join(folder, f"{backbone}.zip.pth"))
        torch.save(model.state_dict(), os.path.join(folder, f"{backbone}.legacy.pth"), _use_new_zipfile_serialization=False)
        image = torch.randn(2, 3, 128, 192)
        tensors = {"image": image}
        with torch.no_grad():
            tensors["eval"] = model.eval()(image)
            tensors["train"] = model.train()(image)
        save_file(tensors, os.path.join(folder, f"{backbone}.io.safetensors"))


if __name__ == "__main__":
    main(sys.argv[1])
