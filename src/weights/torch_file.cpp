#include "weights/torch_file.h"

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "semiseg/error.h"
#include "semiseg/files.h"
#include "weights/pickle.h"

namespace semiseg {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxPickle = 64 << 20;  // bytes; a state_dict's is some 100 KB

// Bytes of a storage, a one-dimensional uint8 tensor.
using StorageReader = std::function<Tensor(const PickleValue& storage)>;

// A view of its storage. Throws where sizes and strides reach beyond it.
Tensor build_tensor(const std::string& path, const std::string& name, const PickleValue& value, const StorageReader& read) {
  const auto bad = [&](const std::string& problem) {
    throw Error(ErrorKind::kCheckpoint, "tensor " + shown(name) + " " + problem, path, kDamaged);
  };
  const PickleValue& storage = *value.items[0];
  const auto integers = [](const PickleValue& tuple) {
    std::vector<int64_t> result;
    for (const PickleValue* item : tuple.items) result.push_back(item->integer);
    return result;
  };
  const auto sizes = integers(*value.items[2]), strides = integers(*value.items[3]);
  int64_t offset = 0, last = 0, numel = 1;
  bool overflow = __builtin_add_overflow(value.items[1]->integer, storage.view_offset, &offset);
  last = offset;
  for (size_t i = 0; i < sizes.size(); ++i) {
    int64_t reach = 0;
    overflow |= __builtin_mul_overflow(numel, sizes[i], &numel);
    overflow |= sizes[i] > 0 &&
                (__builtin_mul_overflow(sizes[i] - 1, strides[i], &reach) || __builtin_add_overflow(last, reach, &last));
  }
  if (overflow) bad("has a size beyond all bounds");
  if (numel == 0) return at::empty(sizes, storage.type);
  const Tensor elements = read(storage).view(storage.type);
  if (last >= elements.numel()) bad(str("reaches element ", last, " of a storage of ", elements.numel()));
  return elements.as_strided(sizes, strides, offset);
}

// The tensors directly in a dict, by name. Other entries are no weights.
std::vector<std::pair<std::string, const PickleValue*>> tensors_in(const PickleValue& dict) {
  std::vector<std::pair<std::string, const PickleValue*>> result;
  if (dict.kind != Kind::kDict) return result;
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2)
    if (dict.items[i]->kind == Kind::kString && dict.items[i + 1]->kind == Kind::kTensor)
      result.emplace_back(dict.items[i]->text, dict.items[i + 1]);
  return result;
}

StateDict build_state_dict(const std::string& path, const PickleValue& root, const StorageReader& read) {
  if (root.kind == Kind::kTensor)
    throw Error(ErrorKind::kCheckpoint, "holds one tensor, not a state_dict", path, kSaveStateDict);
  auto tensors = tensors_in(root);
  // A training checkpoint may keep a counter as a tensor beside the state_dict: the wrapped dict wins when it holds more.
  for (const char* wrapper : {"model", "state_dict", "model_state_dict", "net", "student", "teacher", "ema"}) {
    bool found = false;
    for (size_t i = 0; root.kind == Kind::kDict && i + 1 < root.items.size(); i += 2) {
      if (root.items[i]->kind != Kind::kString || root.items[i]->text != wrapper) continue;
      if (auto wrapped = tensors_in(*root.items[i + 1]); wrapped.size() > tensors.size()) {
        tensors = std::move(wrapped);
        found = true;
      }
    }
    if (found) break;
  }
  if (tensors.empty()) {
    std::string keys;
    for (size_t i = 0; root.kind == Kind::kDict && i + 1 < root.items.size() && keys.size() < 100; i += 2)
      keys += (keys.empty() ? "" : ", ") + shown(root.items[i]->text);
    throw Error(ErrorKind::kCheckpoint, "holds no state_dict" + (keys.empty() ? "" : " (its keys: " + keys + ")"), path,
                "it is looked for at the top level and under model, state_dict, model_state_dict, net, student, teacher, ema");
  }
  StateDict result;
  for (const auto& [name, value] : tensors) result[name] = build_tensor(path, name, *value, read);
  return result;
}

// Types of all storages a pickle refers to, by key: the file's storages do not say theirs.
void collect_storages(const PickleValue& root, std::map<std::string, at::ScalarType>& types) {
  std::vector<const PickleValue*> open{&root};
  std::set<const PickleValue*> seen;
  while (!open.empty()) {
    const PickleValue* value = open.back();
    open.pop_back();
    if (!seen.insert(value).second) continue;
    if (value->kind == Kind::kStorage) types[value->text] = value->type;
    open.insert(open.end(), value->items.begin(), value->items.end());
  }
}

}  // namespace

StateDict read_torch_zip(const std::string& path) {
  const auto damaged = [&](const std::string& problem) { return Error(ErrorKind::kCheckpoint, problem, path, kDamaged); };
  const auto size = std::filesystem::file_size(path);
  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> reader;
  try {
    reader = std::make_unique<caffe2::serialize::PyTorchStreamReader>(path);
  } catch (const std::exception&) {
    throw damaged("a zip archive that is truncated or that torch.save did not write");
  }
  const auto record = [&](const std::string& name, size_t limit) {
    try {
      const size_t bytes = reader->getRecordSize(name);
      if (bytes > limit) throw damaged("record " + shown(name) + " is larger than can be");
      Tensor data = at::empty({static_cast<int64_t>(bytes)}, at::kByte);
      reader->getRecord(name, data.data_ptr(), bytes);
      return data;
    } catch (const Error&) {
      throw;
    } catch (const std::exception&) {
      throw damaged("record " + shown(name) + " is missing or damaged");
    }
  };
  const auto text = [](const Tensor& bytes) {
    return std::string_view(static_cast<const char*>(bytes.data_ptr()), static_cast<size_t>(bytes.numel()));
  };
  if (reader->hasRecord("constants.pkl"))
    throw Error(ErrorKind::kCheckpoint, "a TorchScript archive, which holds code", path,
                "save its weights: torch.save(torch.jit.load(FILE).state_dict(), NEW)");
  if (reader->hasRecord("byteorder") && text(record("byteorder", 16)) != "little")
    throw Error(ErrorKind::kCheckpoint, "written by a big-endian machine", path, "save it again on this machine");

  const Tensor bytes = record("data.pkl", std::min<size_t>(kMaxPickle, size));
  Pickle pickle(path, text(bytes));
  const PickleValue& root = pickle.root();
  std::map<std::string, Tensor> storages;
  return build_state_dict(path, root, [&](const PickleValue& storage) {
    auto found = storages.find(storage.text);
    // torch.save does not compress, so a record is never larger than the file.
    if (found == storages.end()) found = storages.emplace(storage.text, record("data/" + storage.text, size)).first;
    const auto width = static_cast<int64_t>(c10::elementSize(storage.type));
    if (found->second.numel() % width != 0 || found->second.numel() / width != storage.integer)
      throw damaged(
          str("storage ", shown(storage.text), " has ", found->second.numel(), " bytes, not ", storage.integer, " x ", width));
    return found->second;
  });
}

StateDict read_torch_legacy(const std::string& path) {
  const std::string bytes = read_file(path);
  const auto damaged = [&](const std::string& problem) { return Error(ErrorKind::kCheckpoint, problem, path, kDamaged); };
  size_t at = 0;
  const auto next = [&] {
    auto pickle = std::make_unique<Pickle>(path, std::string_view(bytes).substr(at, kMaxPickle));
    at += pickle->bytes_used();
    return pickle;
  };
  next();  // the magic number
  next();  // the protocol
  const auto system = next();
  for (size_t i = 0; i + 1 < system->root().items.size(); i += 2)
    if (system->root().items[i]->text == "little_endian" && system->root().items[i + 1]->integer == 0)
      throw Error(ErrorKind::kCheckpoint, "written by a big-endian machine", path, "save it again on this machine");
  const auto object = next();
  const auto keys = next();
  if (keys->root().kind != Kind::kList) throw damaged("the list of storages is not a list");

  std::map<std::string, at::ScalarType> types;
  collect_storages(object->root(), types);
  std::map<std::string, Tensor> storages;
  for (const PickleValue* key : keys->root().items) {
    const auto type = types.find(key->text);
    if (type == types.end()) throw damaged("storage " + shown(key->text) + " belongs to no tensor");
    int64_t numel = 0, length = 0;
    if (bytes.size() - at < sizeof(numel)) throw damaged("the file ends before storage " + shown(key->text));
    std::memcpy(&numel, bytes.data() + at, sizeof(numel));
    at += sizeof(numel);
    if (numel < 0 || __builtin_mul_overflow(numel, static_cast<int64_t>(c10::elementSize(type->second)), &length) ||
        static_cast<uint64_t>(length) > bytes.size() - at)
      throw damaged("the file ends within storage " + shown(key->text));
    Tensor data = at::empty({length}, at::kByte);
    std::copy_n(bytes.data() + at, length, static_cast<char*>(data.data_ptr()));
    at += static_cast<size_t>(length);
    storages[key->text] = data;
  }
  return build_state_dict(path, object->root(), [&](const PickleValue& storage) {
    const auto found = storages.find(storage.text);
    const auto width = static_cast<int64_t>(c10::elementSize(storage.type));
    if (found == storages.end() || found->second.numel() % width != 0)
      throw damaged("storage " + shown(storage.text) + " is missing");
    return found->second;
  });
}

}  // namespace semiseg
