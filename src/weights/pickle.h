// The pickles in torch.save's files, read without running anything that they name.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace semiseg {

inline constexpr const char* kDamaged = "the file is damaged or incomplete: copy or download it again";
inline constexpr const char* kSaveStateDict = "save model.state_dict() instead";

// A name as a message may show it: on one line, and not at any length.
std::string shown(std::string_view name);

// What a pickle builds. Plain data only: of the classes that a state_dict names, each becomes one of these kinds.
struct PickleValue {
  enum class Kind { kNone, kBool, kInt, kString, kList, kTuple, kDict, kGlobal, kStorage, kTensor, kOther };

  Kind kind = Kind::kNone;
  int64_t integer = 0;              // kBool, kInt; kStorage: elements of the whole storage
  std::string text;                 // kString; kGlobal: module.name; kStorage: its key
  std::vector<PickleValue*> items;  // kList, kTuple; kDict: key, value, key, ...; kTensor: storage, offset, sizes, strides
  at::ScalarType type = at::kByte;  // kStorage
  int64_t view_offset = 0;          // kStorage: where a view of it starts (files before PyTorch 0.4)
};

// One pickle of a state_dict. Throws Error(kCheckpoint) where it is damaged or names what a state_dict does not need. Values
// live as long as it does.
class Pickle {
 public:
  // `bytes` may go on behind the pickle; `path` is for messages.
  Pickle(const std::string& path, std::string_view bytes);
  Pickle(const Pickle&) = delete;  // root() points into values_
  Pickle& operator=(const Pickle&) = delete;

  const PickleValue& root() const { return *root_; }
  size_t bytes_used() const { return bytes_used_; }

 private:
  std::deque<PickleValue> values_;
  const PickleValue* root_ = nullptr;
  size_t bytes_used_ = 0;
};

}  // namespace semiseg
