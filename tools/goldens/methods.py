"""Makes tests/parity/methods.safetensors: a tiny network, batches, and what the published steps of FixMatch, UniMatch, UniMatch V2 and
CPS make of them: losses, norms of gradients, pseudo-label counts and BatchNorm statistics. Also FreeMatch's thresholds and
distribution alignment over a few batches.

Usage: python tools/goldens/methods.py tests/parity/methods.safetensors
Needs numpy, torch, safetensors.

The steps follow LiheYoung/UniMatch (fixmatch.py, unimatch.py), LiheYoung/UniMatch-V2 (unimatch_v2.py; but that labelled images pass
together with the strong views, because of BatchNorm) and charlesCXK/TorchSemiSeg (CPS + CutMix). Everything is computed
in float64 and again in float32: the tests compare float32 results, so no pixel may lie so close to a tie or to the threshold
that rounding decides. tests/tiny_network.h is the network here.
"""
import copy
import itertools
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

CLASSES = 4
CHANNELS = 8
SIZE = (32, 48)
LABELED, UNLABELED = 3, 2
IGNORE = 255
DROPOUT = 0.5
CPS_WEIGHT = 1.5
DROPOUT_SEED, DROPOUT_STEP = 11, 5  # of the feature dropout's masks


class Tiny(nn.Module):
    """Features at strides 4, 8, 16, 32, each projected, enlarged to the finest and summed; only the encoder normalises."""

    def __init__(self):
        super().__init__()

        def stage(inputs, kernel, stride):
            return nn.Sequential(nn.Conv2d(inputs, CHANNELS, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(CHANNELS),
                                 nn.ReLU())

        self.encoder, self.decoder = nn.Module(), nn.Module()
        for i in range(4):
            setattr(self.encoder, f"stage{i}", stage(CHANNELS if i else 3, 3 if i else 5, 2 if i else 4))
            setattr(self.decoder, f"conv{i}", nn.Conv2d(CHANNELS, CHANNELS, 1))
        self.segmentation_head = nn.Sequential(nn.Conv2d(CHANNELS, CLASSES, 1))

    def encode(self, image):
        features = []
        for i in range(4):
            image = getattr(self.encoder, f"stage{i}")(image)
            features.append(image)
        return features

    def decode(self, features):
        size = features[0].shape[-2:]
        levels = [getattr(self.decoder, f"conv{i}")(feature) for i, feature in enumerate(features)]
        x = sum(F.interpolate(level, size, mode="bilinear", align_corners=True) for level in levels)
        return F.interpolate(self.segmentation_head(x), SIZE, mode="bilinear", align_corners=True)

    def forward(self, image, drop=None):
        """With `drop`, the prediction and that of the dropped features, as UniMatch's need_fp."""
        features = self.encode(image)
        if drop is None:
            return self.decode(features)
        return self.decode([torch.cat((f, drop(call, f))) for call, f in enumerate(features)]).chunk(2)


def random_network(generator):
    """Statistics away from their initial values, so that evaluation mode differs from training mode."""
    network = Tiny()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            draw = torch.randn(value.shape, generator=generator)
            if value.dim() == 4:
                value.copy_(draw * (2 / value[0].numel()) ** 0.5)
            elif name.endswith("running_var"):
                value.copy_((draw * 0.3).exp())
            elif name.endswith(".1.weight"):
                value.copy_(1 + 0.2 * draw)
            elif not name.endswith("num_batches_tracked"):
                value.copy_(0.2 * draw)
    return network


# --- the masks of feature dropout: include/semiseg/random.h, and Dropout2d and ComplementaryDropout of models/layers.h ---


def philox4x32(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def random_words(seed, purpose, a, b):
    for block in itertools.count():
        yield from philox4x32((purpose << 27 | block, b, a & 0xFFFFFFFF, a >> 32), (seed & 0xFFFFFFFF, seed >> 32))


def uniform(words):
    high, low = next(words) >> 5, next(words) >> 6
    return (high << 26 | low) / 2**53


def dropout_words(call):
    return random_words(DROPOUT_SEED, 2, DROPOUT_STEP << 16, call)


def dropped_channels(call, feature):
    """Of a feature of labelled and unlabelled images. Which channels the labelled ones lose does not matter: what comes of
    them is thrown away."""
    kept = torch.ones(feature.shape[:2], dtype=feature.dtype)
    words = dropout_words(call)
    draws = [uniform(words) for _ in range(UNLABELED * feature.shape[1])]
    kept[LABELED:] = torch.tensor([0.0 if draw < DROPOUT else 1.0 for draw in draws]).view(UNLABELED, -1)
    return feature * kept[..., None, None] / (1 - DROPOUT)


def complementary_masks(features):
    """UniMatch V2's, of both views' features, the first views before the second ones. Here the first of a permutation of the images
    (Fisher-Yates from its end) keep all channels."""
    words = dropout_words(0)
    order = list(range(UNLABELED))
    for i in range(UNLABELED - 1, 0, -1):
        j = next(words) * (i + 1) >> 32
        order[i], order[j] = order[j], order[i]
    channels = [feature.shape[1] for feature in features]
    masks = torch.ones((2 * UNLABELED, sum(channels)), dtype=features[0].dtype)
    for image in order[int(UNLABELED * (1 - DROPOUT)):]:
        masks[image] = torch.tensor([2.0 if uniform(words) < 0.5 else 0.0 for _ in range(sum(channels))])
        masks[UNLABELED + image] = 2.0 - masks[image]
    return masks.split(channels, dim=1)


# --- the published steps; each gives the loss, its supervised part, and the labels of the weak view ---


def confidence_and_label(logits):
    return logits.detach().softmax(1).max(1)


def accepted_loss(logits, label, confidence, ignore_mask, threshold):
    """UniMatch's normalisation: the sum over accepted pixels by the number of all that are not padding."""
    loss = F.cross_entropy(logits, label, reduction="none") * ((confidence >= threshold) & (ignore_mask != IGNORE))
    return loss.sum() / (ignore_mask != IGNORE).sum()


def unimatch(networks, batch, threshold, views=2, drop=dropped_channels):
    model, = networks
    with torch.no_grad():
        model.eval()
        mix_confidence, mix_label = confidence_and_label(model(batch["mix.weak"]))
    model.train()

    if drop:
        both, dropped = model(torch.cat((batch["image"], batch["weak"])), drop)
        dropped = dropped[LABELED:]
    else:
        both = model(torch.cat((batch["image"], batch["weak"])))
    labeled, weak = both.split([LABELED, UNLABELED])
    confidence, label = confidence_and_label(weak)

    boxes = [box_masks(batch[f"box{view}"]) for view in range(views)]
    images = [torch.where(boxes[view][:, None], batch[f"mix.strong{view}"], batch[f"strong{view}"]) for view in range(views)]
    strong = model(torch.cat(images)).chunk(views)

    loss_x = F.cross_entropy(labeled, batch["label"], ignore_index=IGNORE)
    loss_s = 0
    for view, box in enumerate(boxes):
        mixed = [torch.where(box, there, here) for there, here in (
            (mix_label, label), (mix_confidence, confidence), (batch["mix.ignore"], batch["ignore"]))]
        loss_s = loss_s + accepted_loss(strong[view], *mixed, threshold) / views
    loss_u = (loss_s + accepted_loss(dropped, label, confidence, batch["ignore"], threshold)) / 2 if drop else loss_s
    return (loss_x + loss_u) / 2, loss_x, (weak, model)


def fixmatch(networks, batch, threshold):
    return unimatch(networks, batch, threshold, views=1, drop=None)


def unimatch_v2(networks, batch, threshold):
    """The teacher, an average of students, is still a copy of the first one."""
    model, = networks
    teacher = copy.deepcopy(model).eval()
    with torch.no_grad():
        weak = teacher(batch["weak"])
    confidence, label = confidence_and_label(weak)
    boxes = [box_masks(batch[f"box{view}"]) for view in range(2)]
    images = [torch.where(box[:, None], batch[f"strong{view}"].flip(0), batch[f"strong{view}"]) for view, box in enumerate(boxes)]
    model.train()
    features = model.encode(torch.cat((*images, batch["image"])))
    features = [torch.cat((f[:2 * UNLABELED] * mask[..., None, None], f[2 * UNLABELED:]))
                for f, mask in zip(features, complementary_masks(features))]
    *strong, labeled = model.decode(features).split([UNLABELED, UNLABELED, LABELED])

    loss_x = F.cross_entropy(labeled, batch["label"], ignore_index=IGNORE)
    loss_u = 0
    for logits, box in zip(strong, boxes):
        mixed = [torch.where(box, x.flip(0), x) for x in (label, confidence, batch["ignore"])]
        loss_u = loss_u + accepted_loss(logits, *mixed, threshold) / 2
    return (loss_x + loss_u) / 2, loss_x, (weak, model)


def cps(networks, batch, threshold):
    """CPS knows neither padding nor thresholds; padding is given criterion_cps's ignore_index, and the threshold is 0."""
    assert threshold == 0
    box = box_masks(batch["box0"])
    mixed = torch.where(box[:, None], batch["mix.weak"], batch["weak"])
    ignored = torch.where(box, batch["mix.ignore"], batch["ignore"]) == IGNORE
    labels, first = [], None
    for network in networks:
        network.train()
        with torch.no_grad():
            logits = network(batch["weak"])
            first = logits if first is None else first
            logits = torch.where(box[:, None], network(batch["mix.weak"]), logits)
        labels.append(logits.argmax(1).masked_fill(ignored, IGNORE))
    loss_cps = sum(F.cross_entropy(network(mixed), label, ignore_index=IGNORE)
                   for network, label in zip(networks, labels[::-1]))
    loss_sup = sum(F.cross_entropy(network(batch["image"]), batch["label"], ignore_index=IGNORE) for network in networks)
    return loss_sup + CPS_WEIGHT * loss_cps, loss_sup, (first, networks[0])


def box_masks(boxes):
    masks = torch.zeros((len(boxes), *SIZE), dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes.tolist()):
        mask[top:bottom, left:right] = True
    return masks


# --- the file ---


def random_batch(generator):
    """Images as bytes, read as (value - 128) / 64. Strong views differ from weak ones; padding is right or below."""

    def integers(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    def images(count):
        coarse = torch.randn(count, 3, 6, 8, generator=generator)
        smooth = F.interpolate(coarse, SIZE, mode="bicubic", align_corners=False) + 0.5 * torch.randn(
            count, 3, *SIZE, generator=generator)
        return (128 + 64 * smooth).round().clamp(0, 255).to(torch.uint8)

    batch = {"image": images(LABELED)}
    label = integers(0, CLASSES, LABELED, 1, 4, 6).float()
    batch["label"] = F.interpolate(label, SIZE, mode="nearest").squeeze(1).to(torch.uint8)
    batch["label"][0, :9] = IGNORE
    for prefix in ("", "mix."):
        weak = images(UNLABELED)
        batch[prefix + "weak"] = weak
        for view in range(2):
            strong = weak.float() * (0.7 + 0.5 * view) + 15 * torch.randn(weak.shape, generator=generator)
            batch[f"{prefix}strong{view}"] = strong.round().clamp(0, 255).to(torch.uint8)
        batch[prefix + "ignore"] = torch.zeros((UNLABELED, *SIZE), dtype=torch.uint8)
    batch["ignore"][1, :, 41:] = IGNORE
    batch["mix.ignore"][0, 21:] = IGNORE
    batch["box0"] = torch.tensor([[4, 6, 27, 30], [0, 0, 0, 0]])  # top, left, bottom, right; the second image is not mixed
    batch["box1"] = torch.tensor([[0, 0, 32, 11], [9, 20, 31, 48]])
    return batch


def in_precision(batch, dtype):
    return {name: ((value.to(dtype) - 128) / 64 if value.dim() == 4 else value.long()) for name, value in batch.items()}


def run(step, networks, batch, threshold, dtype):
    networks = [copy.deepcopy(network).to(dtype) for network in networks]
    loss, supervised, (weak, watched) = step(networks, in_precision(batch, dtype), threshold)
    loss.backward()
    norm = torch.stack([p.grad.norm() for network in networks for p in network.parameters()]).norm()
    confidence, label = confidence_and_label(weak)
    valid = batch["ignore"] != IGNORE
    counts = [torch.bincount(label[mask], minlength=CLASSES) for mask in (valid, valid & (confidence >= threshold))]
    return {"losses": torch.stack([loss.detach(), supervised.detach(), norm]).double(), "pseudo_2K": torch.stack(counts),
            "running_mean": watched.encoder.stage3[1].running_mean.double()}


def middle_threshold(network, batch, of_weak_views_in_eval_mode=False):
    """The middle of a wide gap between the confidences that a step takes labels from, so that no rounding crosses it: of weak views in
    training mode and mixed-in ones in evaluation mode, or of weak views in evaluation mode."""
    both = copy.deepcopy(network).double()
    tensors = in_precision(batch, torch.float64)
    with torch.no_grad():
        if of_weak_views_in_eval_mode:
            predictions = [both.eval()(tensors["weak"])]
        else:
            mixed_in = both.eval()(tensors["mix.weak"])
            predictions = [both.train()(torch.cat((tensors["image"], tensors["weak"])))[LABELED:], mixed_in]
    values = torch.cat([confidence_and_label(x)[0].flatten() for x in predictions]).sort()[0]
    values = values[len(values) * 4 // 10:len(values) * 6 // 10]
    widest = values.diff().argmax()
    assert values[widest + 1] - values[widest] > 1e-4
    return ((values[widest] + values[widest + 1]) / 2).item()


def threshold_goldens(generator):
    """FreeMatch (USB's freematch) and distribution alignment in numpy, over three batches of two images with padding."""
    steps, momentum, bound = 3, 0.9, 0.3
    h, w = SIZE[0] // 8, SIZE[1] // 8
    logits = 1.5 * torch.randn(steps, UNLABELED, CLASSES, h, w, generator=generator)
    logits += torch.tensor([1.0, 0, -1, 0]).view(-1, 1, 1)
    valid = torch.ones(UNLABELED, *SIZE, dtype=torch.bool)
    valid[0, 16:] = False
    valid[1, :, 40:] = False
    target = np.array([0.1, 0.2, 0.3, 0.4])
    t, q, model = 1 / CLASSES, np.full(CLASSES, 1 / CLASSES), np.full(CLASSES, 1 / CLASSES)
    thresholds, aligned = [], []
    for n in range(steps):
        p = logits[n].double().softmax(1).numpy()
        p_full = F.interpolate(logits[n].double(), SIZE, mode="bilinear", align_corners=True).softmax(1).numpy()
        p_mean = p.transpose(0, 2, 3, 1)[valid[:, ::8, ::8].numpy()].mean(0)  # padding is a multiple of the stride
        t = momentum * t + (1 - momentum) * p_full.max(1)[valid.numpy()].mean()
        q = momentum * q + (1 - momentum) * p_mean
        thresholds.append(np.minimum(bound, t * q / q.max()))
        keep = min(1 - 1 / (n + 1), 0.999)
        model = keep * model + (1 - keep) * p_mean
        shifted = p * (target / model)[:, None, None]
        aligned.append(shifted / shifted.sum(1, keepdims=True))
    assert any((step == bound).any() for step in thresholds) and any((step < bound).any() for step in thresholds)
    return {"threshold.logits": logits, "threshold.valid": valid, "threshold.momentum": torch.tensor(momentum).double(),
            "threshold.bound": torch.tensor(bound).double(), "threshold.expected": torch.from_numpy(np.stack(thresholds)),
            "alignment.target": torch.from_numpy(target), "alignment.expected": torch.from_numpy(np.stack(aligned))}


def main(path):
    assert philox4x32((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's known answer
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(23)
    networks = [random_network(generator) for _ in range(2)]
    batch = random_batch(generator)
    middle = middle_threshold(networks[0], batch)
    tensors = {f"batch.{name}": value for name, value in batch.items()}
    for i, network in enumerate(networks):
        tensors |= {f"network{i}.{name}": value for name, value in network.state_dict().items()}

    cases = {"fixmatch.0": (fixmatch, 1, 0.0), "fixmatch.middle": (fixmatch, 1, middle), "unimatch.0": (unimatch, 1, 0.0),
             "unimatch.middle": (unimatch, 1, middle), "unimatch_v2.0": (unimatch_v2, 1, 0.0),
             "unimatch_v2.middle": (unimatch_v2, 1, middle_threshold(networks[0], batch, True)), "cps.0": (cps, 2, 0.0)}
    for name, (step, count, threshold) in cases.items():
        golden = run(step, networks[:count], batch, threshold, torch.float64)
        single = run(step, networks[:count], batch, threshold, torch.float32)
        difference = ((golden["losses"] - single["losses"]) / golden["losses"]).abs().max().item()
        assert difference < 1e-6, (name, difference)
        assert torch.equal(golden["pseudo_2K"], single["pseudo_2K"]), name
        golden["threshold"] = torch.tensor(threshold, dtype=torch.float64)
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in golden.items()}
        print(name, "loss, supervised, gradient:", golden["losses"].tolist(), "threshold", threshold)
        print("  float32 differs by a share of", difference)
        print("  predicted", golden["pseudo_2K"][0].tolist(), "accepted", golden["pseudo_2K"][1].tolist())
    tensors |= threshold_goldens(generator)
    print("thresholds", tensors["threshold.expected"].tolist())
    save_file(tensors, path)


if __name__ == "__main__":
    main(sys.argv[1])
