// Python's torch.save files: a pickle whose tensors refer to storages kept beside it, since PyTorch 1.6 in a zip archive
// (data.pkl, data/KEY), before that one after another behind the pickle.
// https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
#pragma once

#include <string>
#include <string_view>

#include "semiseg/weights.h"

namespace semiseg {

// What a file before PyTorch 1.6 holds near its beginning: LONG1 of 10 bytes, 0x1950a86a20f9469cfc6c.
inline constexpr std::string_view kLegacyMagic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12);

// The state_dict of such a file, at its top level or under one of the usual keys of training checkpoints. Throw
// Error(kCheckpoint).
StateDict read_torch_zip(const std::string& path);
StateDict read_torch_legacy(const std::string& path);

}  // namespace semiseg
