// Weights files: safetensors, and Python's torch.save in both its formats. No pickle code is ever executed: the reader knows
// the few opcodes that a state_dict needs, builds tensors itself, and refuses every other global.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "semiseg/model.h"
#include "semiseg/types.h"

namespace semiseg {

using StateDict = std::map<std::string, Tensor>;

// Reads .safetensors, torch.save's zip format (since 1.6) and legacy format; the kind is told by content, not by name.
// Finds the state dict at the top level or under "model", "state_dict", "model_state_dict", "net", "student", "teacher", "ema".
// Throws Error(kCheckpoint) naming the file and what is wrong.
StateDict read_weights(const std::string& path);

struct SafeTensors {
  StateDict tensors;                            // own their memory
  std::map<std::string, std::string> metadata;  // "__metadata__"
};
// Checks offsets, sizes and dtypes against the file. Throws Error(kCheckpoint).
SafeTensors read_safetensors(const std::string& path);
// Written atomically (files.h); tensors are brought to the host, contiguous. When the metadata has a key "checksum", its value
// is replaced by "crc32:XXXXXXXX" over the whole file with these eight digits as 0, and read_safetensors checks it.
void write_safetensors(const std::string& path, const StateDict& tensors, std::map<std::string, std::string> metadata);

// What load_weights did; names are sorted.
struct LoadSummary {
  int64_t loaded = 0;
  std::vector<std::string> missing;        // in the model, not in the file: keep their initial values
  std::vector<std::string> unexpected;     // in the file, not in the model
  std::vector<std::string> reinitialized;  // the head, when the file has another number of classes
  std::string stripped_prefix;             // such as "module." or "backbone."
};

// Copies `weights` into the model by name, BatchNorm statistics included, from float32, float16 or bfloat16. Prefixes (module.,
// model., backbone., encoder., features., module.pre., ...) are found out by which gives the most matching names; the
// classifier `fc.` of an ImageNet backbone is expected and not reported. A shape that differs anywhere but in the head is
// Error(kCheckpoint); so are weights that match nothing, and values that are NaN or infinite. `where` is what messages call the
// file.
LoadSummary load_weights(Segmenter& model, const StateDict& weights, const std::string& where);

}  // namespace semiseg
