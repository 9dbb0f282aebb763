// Python's torch.save files, and how weights find their place in a network.
//
// torch.save writes a pickle whose tensors refer to storages kept beside it: since 1.6 in a zip archive (data.pkl, data/KEY),
// before that one after another behind the pickle. https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
#include "semiseg/weights.h"

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_map>

#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

constexpr size_t kMaxPickle = 64 << 20;   // bytes; a state_dict's is some 100 KB
constexpr size_t kMaxValues = 4'000'000;  // in one pickle
constexpr const char* kDamaged = "the file is damaged or incomplete: copy or download it again";
constexpr const char* kSaveStateDict = "save model.state_dict() instead";

// A name as a message may show it: on one line, and not at any length.
std::string shown(std::string_view name) {
  std::string text;
  for (const char c : name.substr(0, 100)) text += static_cast<unsigned char>(c) < ' ' || c == 127 ? '?' : c;
  return name.size() > 100 ? text + "..." : text;
}

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// What a pickle builds. Plain data only: of the classes that a state_dict names, each becomes one of these kinds.
struct Value {
  enum class Kind { kNone, kBool, kInt, kString, kList, kTuple, kDict, kGlobal, kStorage, kTensor, kOther };

  Kind kind = Kind::kNone;
  int64_t integer = 0;              // kBool, kInt; kStorage: elements of the whole storage
  std::string text;                 // kString; kGlobal: module.name; kStorage: its key
  std::vector<Value*> items;        // kList, kTuple; kDict: key, value, key, ...; kTensor: storage, offset, sizes, strides
  at::ScalarType type = at::kByte;  // kStorage
  int64_t view_offset = 0;          // kStorage: where a view of it starts (files before PyTorch 0.4)
};
using Kind = Value::Kind;

std::optional<at::ScalarType> storage_type(std::string_view global) {
  static const std::map<std::string, at::ScalarType, std::less<>> kTypes = {
      {"DoubleStorage", at::kDouble},     {"FloatStorage", at::kFloat}, {"HalfStorage", at::kHalf},
      {"BFloat16Storage", at::kBFloat16}, {"LongStorage", at::kLong},   {"IntStorage", at::kInt},
      {"ShortStorage", at::kShort},       {"CharStorage", at::kChar},   {"ByteStorage", at::kByte},
      {"BoolStorage", at::kBool},         {"UntypedStorage", at::kByte}};
  for (const std::string_view module : {"torch.cuda.", "torch.storage.", "torch."}) {
    if (!starts_with(global, module)) continue;
    const auto found = kTypes.find(global.substr(module.size()));
    if (found != kTypes.end()) return found->second;
  }
  return std::nullopt;
}

bool is_allowed(std::string_view global) {
  static const std::set<std::string, std::less<>> kAllowed = {"collections.OrderedDict",
                                                              "torch._utils._rebuild_tensor",
                                                              "torch._utils._rebuild_tensor_v2",
                                                              "torch._utils._rebuild_parameter",
                                                              "torch.Size",
                                                              "torch.device",
                                                              "torch.float64",
                                                              "torch.float32",
                                                              "torch.float16",
                                                              "torch.bfloat16",
                                                              "torch.int64",
                                                              "torch.int32",
                                                              "torch.int16",
                                                              "torch.int8",
                                                              "torch.uint8",
                                                              "torch.bool"};
  return kAllowed.count(global) != 0 || storage_type(global).has_value();
}

// Reads one pickle: https://github.com/python/cpython/blob/main/Lib/pickletools.py describes the opcodes. Protocols 2 to 5,
// without the opcodes that only text protocols or arbitrary objects need. Values live as long as the reader.
class Pickle {
 public:
  Pickle(std::string path, std::string_view bytes) : path_(std::move(path)), bytes_(bytes) {}

  const Value& load();
  size_t bytes_used() const { return at_; }

 private:
  [[noreturn]] void fail(const std::string& problem, const char* hint = kDamaged) const {
    throw Error(ErrorKind::kCheckpoint, problem, path_, hint);
  }

  std::string_view take(uint64_t bytes) {
    if (bytes > bytes_.size() - at_) fail("the pickle ends early");
    at_ += bytes;
    return bytes_.substr(at_ - bytes, bytes);
  }
  template <class Integer>
  Integer number() {
    Integer value;
    std::memcpy(&value, take(sizeof(value)).data(), sizeof(value));
    return value;
  }
  std::string_view line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) fail("the pickle ends early");
    const auto text = take(end - at_);
    take(1);
    return text;
  }

  Value* make(Kind kind) {
    if (values_.size() >= kMaxValues) fail(str("the pickle holds more than ", kMaxValues, " values"), kSaveStateDict);
    values_.emplace_back().kind = kind;
    return &values_.back();
  }
  void push(Value* value) { stack_.push_back(value); }

  // Copies of containers are held against the same limit: a few bytes can ask for the same copy again and again.
  void charge(size_t items) {
    copied_ += items;
    if (copied_ > kMaxValues) fail(str("the pickle holds more than ", kMaxValues, " values"), kSaveStateDict);
  }
  void push_integer(Kind kind, int64_t integer) {
    push(make(kind));
    stack_.back()->integer = integer;
  }
  void push_text(std::string_view text) {
    push(make(Kind::kString));
    stack_.back()->text = text;
  }
  void push_items(Kind kind, std::vector<Value*> items) {
    push(make(kind));
    stack_.back()->items = std::move(items);
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Value* top() const {
    if (stack_.size() <= floor()) fail("the pickle takes from an empty stack");
    return stack_.back();
  }
  Value* pop() {
    Value* value = top();
    stack_.pop_back();
    return value;
  }
  std::vector<Value*> pop(size_t count) {
    if (stack_.size() - floor() < count) fail("the pickle takes from an empty stack");
    std::vector<Value*> items(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return items;
  }
  std::vector<Value*> pop_to_mark() {
    if (marks_.empty()) fail("the pickle has no mark where it needs one");
    auto items = pop(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }
  Value* remembered(uint32_t index) const {
    const auto found = memo_.find(index);
    if (found == memo_.end()) fail("the pickle recalls a value that it never stored");
    return found->second;
  }

  void extend(Kind kind, const std::vector<Value*>& items) {
    Value* container = top();
    // Attributes of values that nobody reads (kOther) are dropped.
    if (container->kind == Kind::kOther) return;
    if (container->kind != kind || (kind == Kind::kDict && items.size() % 2 != 0))
      fail("the pickle fills a value of another kind");
    container->items.insert(container->items.end(), items.begin(), items.end());
  }

  void push_long(uint64_t bytes);
  void push_global(std::string_view module, std::string_view name);
  void push_storage(const Value& id);
  void reduce(const Value& function, const Value& arguments);
  void push_tensor(const std::vector<Value*>& arguments);

  std::string path_;
  std::string_view bytes_;
  size_t at_ = 0;
  std::deque<Value> values_;  // owns all, so that neither cycles nor deep nesting matter
  std::vector<Value*> stack_;
  size_t copied_ = 0;
  std::vector<size_t> marks_;  // sizes of the stack
  std::unordered_map<uint32_t, Value*> memo_;
};

// Little-endian two's complement. What exceeds 64 bits is no number that a state_dict needs.
void Pickle::push_long(uint64_t bytes) {
  const auto digits = take(bytes);
  if (bytes > sizeof(int64_t)) return push(make(Kind::kOther));
  uint64_t value = !digits.empty() && (digits.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
  std::memcpy(&value, digits.data(), digits.size());
  push_integer(Kind::kInt, static_cast<int64_t>(value));
}

void Pickle::push_global(std::string_view module, std::string_view name) {
  const std::string global = std::string(module) + "." + std::string(name);
  if (!is_allowed(global)) fail("holds a GLOBAL " + shown(global) + ", which is refused", kSaveStateDict);
  push(make(Kind::kGlobal));
  stack_.back()->text = global;
}

// ("storage", type, key, location, elements) and, in old files, a view: None or (key, offset, elements).
void Pickle::push_storage(const Value& id) {
  const auto& items = id.items;
  if (id.kind != Kind::kTuple || items.size() < 5 || items[0]->text != "storage" || items[1]->kind != Kind::kGlobal ||
      items[2]->kind != Kind::kString || items[4]->kind != Kind::kInt || items[4]->integer < 0)
    fail("the pickle refers to something that is not a storage", kSaveStateDict);
  const auto type = storage_type(items[1]->text);
  if (!type) fail("a storage has the type " + shown(items[1]->text), kSaveStateDict);
  Value* storage = make(Kind::kStorage);
  storage->type = *type;
  storage->text = items[2]->text;
  storage->integer = items[4]->integer;
  if (items.size() > 5 && items[5]->kind == Kind::kTuple) {
    const auto& view = items[5]->items;
    if (view.size() != 3 || view[1]->kind != Kind::kInt || view[1]->integer < 0) fail("a storage's view is not valid");
    storage->view_offset = view[1]->integer;
  }
  push(storage);
}

void Pickle::push_tensor(const std::vector<Value*>& arguments) {
  const auto is_sizes = [](const Value& value) {
    return value.kind == Kind::kTuple && value.items.size() <= 64 &&
           std::all_of(value.items.begin(), value.items.end(),
                       [](const Value* side) { return side->kind == Kind::kInt && side->integer >= 0; });
  };
  if (arguments.size() < 4 || arguments[0]->kind != Kind::kStorage || arguments[1]->kind != Kind::kInt ||
      arguments[1]->integer < 0 || !is_sizes(*arguments[2]) || !is_sizes(*arguments[3]) ||
      arguments[2]->items.size() != arguments[3]->items.size())
    fail("a tensor's description is not valid");
  push_items(Kind::kTensor, {arguments.begin(), arguments.begin() + 4});
}

// Calls nothing: knows what each allowed function would build from its arguments.
void Pickle::reduce(const Value& function, const Value& arguments) {
  if (function.kind != Kind::kGlobal || arguments.kind != Kind::kTuple)
    fail("the pickle calls something that is not a function");
  const std::string& name = function.text;
  const auto& items = arguments.items;
  if (starts_with(name, "torch._utils._rebuild_tensor")) return push_tensor(items);
  if (name == "torch._utils._rebuild_parameter") {
    if (items.empty() || items[0]->kind != Kind::kTensor) fail("a parameter's description is not valid");
    return push(items[0]);
  }
  if (name == "torch.Size") {
    if (items.size() != 1 || (items[0]->kind != Kind::kTuple && items[0]->kind != Kind::kList))
      fail("a torch.Size is not valid");
    charge(items[0]->items.size());
    return push_items(Kind::kTuple, items[0]->items);
  }
  if (name == "collections.OrderedDict") {
    std::vector<Value*> pairs;
    if (!items.empty()) charge(items[0]->items.size());
    if (!items.empty())  // OrderedDict([(key, value), ...]), as Python 2 wrote it
      for (const Value* pair : items[0]->items) {
        if (pair->items.size() != 2) fail("an OrderedDict is not valid");
        pairs.insert(pairs.end(), pair->items.begin(), pair->items.end());
      }
    return push_items(Kind::kDict, std::move(pairs));
  }
  push(make(Kind::kOther));
}

const Value& Pickle::load() {
  for (;;) {
    const auto opcode = static_cast<unsigned char>(take(1)[0]);
    switch (opcode) {
      case 0x80:  // PROTO
        if (const auto protocol = number<uint8_t>(); protocol < 2 || protocol > 5) fail(str("pickle protocol ", int{protocol}));
        break;
      case 0x95:
        take(sizeof(uint64_t));
        break;  // FRAME: only a hint for reading ahead
      case '.':
        return *pop();  // STOP
      case '(':
        marks_.push_back(stack_.size());
        break;
      case '0':
        pop();
        break;
      case '1':
        pop_to_mark();
        break;
      case '2':
        push(top());
        break;

      case 'N':
        push(make(Kind::kNone));
        break;
      case 0x88:
        push_integer(Kind::kBool, 1);
        break;
      case 0x89:
        push_integer(Kind::kBool, 0);
        break;
      case 'J':
        push_integer(Kind::kInt, number<int32_t>());
        break;
      case 'K':
        push_integer(Kind::kInt, number<uint8_t>());
        break;
      case 'M':
        push_integer(Kind::kInt, number<uint16_t>());
        break;
      case 0x8a:
        push_long(number<uint8_t>());
        break;
      case 0x8b:
        push_long(number<uint32_t>());
        break;
      case 'G':  // BINFLOAT
        take(sizeof(double));
        push(make(Kind::kOther));
        break;
      case 'X':
      case 'T':
      case 'B':
        push_text(take(number<uint32_t>()));
        break;
      case 0x8c:
      case 'U':
      case 'C':
        push_text(take(number<uint8_t>()));
        break;
      case 0x8d:
      case 0x8e:
      case 0x96:
        push_text(take(number<uint64_t>()));
        break;

      case ')':
        push_items(Kind::kTuple, {});
        break;
      case 0x85:
        push_items(Kind::kTuple, pop(1));
        break;
      case 0x86:
        push_items(Kind::kTuple, pop(2));
        break;
      case 0x87:
        push_items(Kind::kTuple, pop(3));
        break;
      case 't':
        push_items(Kind::kTuple, pop_to_mark());
        break;
      case ']':
        push_items(Kind::kList, {});
        break;
      case 'l':
        push_items(Kind::kList, pop_to_mark());
        break;
      case 'a':
        extend(Kind::kList, pop(1));
        break;
      case 'e':
        extend(Kind::kList, pop_to_mark());
        break;
      case '}':
        push_items(Kind::kDict, {});
        break;
      case 'd': {
        auto items = pop_to_mark();
        push_items(Kind::kDict, {});
        extend(Kind::kDict, items);
        break;
      }
      case 's':
        extend(Kind::kDict, pop(2));
        break;
      case 'u':
        extend(Kind::kDict, pop_to_mark());
        break;
      case 0x8f:
        push(make(Kind::kOther));
        break;  // EMPTY_SET
      case 0x90:
        pop_to_mark();
        break;    // ADDITEMS
      case 0x91:  // FROZENSET
        pop_to_mark();
        push(make(Kind::kOther));
        break;

      case 'q':
        memo_[number<uint8_t>()] = top();
        break;
      case 'r':
        memo_[number<uint32_t>()] = top();
        break;
      case 0x94:
        memo_[static_cast<uint32_t>(memo_.size())] = top();
        break;
      case 'h':
        push(remembered(number<uint8_t>()));
        break;
      case 'j':
        push(remembered(number<uint32_t>()));
        break;

      case 'c': {
        const auto module = line();
        push_global(module, line());
        break;
      }
      case 0x93: {  // STACK_GLOBAL
        const auto names = pop(2);
        push_global(names[0]->text, names[1]->text);
        break;
      }
      case 'Q':
        push_storage(*pop());
        break;
      case 'R':
      case 0x81: {  // REDUCE, NEWOBJ
        const auto call = pop(2);
        reduce(*call[0], *call[1]);
        break;
      }
      case 'b':  // BUILD: attributes such as a state_dict's _metadata
        pop();
        top();
        break;
      default:
        fail(str("pickle opcode ", int{opcode}, " at byte ", at_ - 1, " is not one that a state_dict needs"), kSaveStateDict);
    }
  }
}

// Bytes of a storage, a one-dimensional uint8 tensor.
using StorageReader = std::function<Tensor(const Value& storage)>;

// A view of its storage. Throws where sizes and strides reach beyond it.
Tensor build_tensor(const std::string& path, const std::string& name, const Value& value, const StorageReader& read) {
  const auto bad = [&](const std::string& problem) {
    throw Error(ErrorKind::kCheckpoint, "tensor " + shown(name) + " " + problem, path, kDamaged);
  };
  const Value& storage = *value.items[0];
  const auto integers = [](const Value& tuple) {
    std::vector<int64_t> result;
    for (const Value* item : tuple.items) result.push_back(item->integer);
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
std::vector<std::pair<std::string, const Value*>> tensors_in(const Value& dict) {
  std::vector<std::pair<std::string, const Value*>> result;
  if (dict.kind != Kind::kDict) return result;
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2)
    if (dict.items[i]->kind == Kind::kString && dict.items[i + 1]->kind == Kind::kTensor)
      result.emplace_back(dict.items[i]->text, dict.items[i + 1]);
  return result;
}

StateDict build_state_dict(const std::string& path, const Value& root, const StorageReader& read) {
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

StateDict read_zip(const std::string& path) {
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
  const Value& root = pickle.load();
  std::map<std::string, Tensor> storages;
  return build_state_dict(path, root, [&](const Value& storage) {
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

// LONG1 of 10 bytes: 0x1950a86a20f9469cfc6c
constexpr std::string_view kLegacyMagic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12);

// Types of all storages a pickle refers to, by key: the file's storages do not say theirs.
void collect_storages(const Value& root, std::map<std::string, at::ScalarType>& types) {
  std::vector<const Value*> open{&root};
  std::set<const Value*> seen;
  while (!open.empty()) {
    const Value* value = open.back();
    open.pop_back();
    if (!seen.insert(value).second) continue;
    if (value->kind == Kind::kStorage) types[value->text] = value->type;
    open.insert(open.end(), value->items.begin(), value->items.end());
  }
}

StateDict read_legacy(const std::string& path) {
  const std::string bytes = read_file(path);
  const auto damaged = [&](const std::string& problem) { return Error(ErrorKind::kCheckpoint, problem, path, kDamaged); };
  size_t at = 0;
  const auto next = [&] {
    auto pickle = std::make_unique<Pickle>(path, std::string_view(bytes).substr(at, kMaxPickle));
    const Value& value = pickle->load();
    at += pickle->bytes_used();
    return std::make_pair(std::move(pickle), &value);
  };
  next();  // the magic number
  next();  // the protocol
  const auto system = next();
  for (size_t i = 0; i + 1 < system.second->items.size(); i += 2)
    if (system.second->items[i]->text == "little_endian" && system.second->items[i + 1]->integer == 0)
      throw Error(ErrorKind::kCheckpoint, "written by a big-endian machine", path, "save it again on this machine");
  const auto object = next();
  const auto keys = next();
  if (keys.second->kind != Kind::kList) throw damaged("the list of storages is not a list");

  std::map<std::string, at::ScalarType> types;
  collect_storages(*object.second, types);
  std::map<std::string, Tensor> storages;
  for (const Value* key : keys.second->items) {
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
  return build_state_dict(path, *object.second, [&](const Value& storage) {
    const auto found = storages.find(storage.text);
    const auto width = static_cast<int64_t>(c10::elementSize(storage.type));
    if (found == storages.end() || found->second.numel() % width != 0)
      throw damaged("storage " + shown(storage.text) + " is missing");
    return found->second;
  });
}

// A candidate for how the file's names map to the network's: `prefix` is replaced by `target`.
struct Naming {
  std::string prefix, target;

  std::optional<std::string> map(const std::string& name) const {
    if (!starts_with(name, prefix)) return std::nullopt;
    return target + name.substr(prefix.size());
  }
};

constexpr size_t kMaxNamings = 64;
// What our own checkpoints hold beside the weights (checkpoint.h).
constexpr const char* kCheckpointPrefixes[] = {"student.", "teacher.", "twin.", "optimizer.", "progress."};

std::vector<Naming> candidate_namings(const StateDict& weights) {
  std::vector<Naming> namings{{"", ""}, {"", "encoder."}};
  const auto add = [&](const Naming& naming) {
    const bool known = std::any_of(namings.begin(), namings.end(), [&](const Naming& other) {
      return other.prefix == naming.prefix && other.target == naming.target;
    });
    if (!known && namings.size() < kMaxNamings) namings.push_back(naming);
  };
  for (const auto& [name, unused] : weights) {
    for (const std::string_view stem : {"decoder.p5.weight", "segmentation_head.0.weight", "conv1.weight"}) {
      if (!ends_with(name, stem)) continue;
      const std::string prefix = name.substr(0, name.size() - stem.size());
      if (!prefix.empty() && prefix.back() != '.') continue;
      if (stem != "conv1.weight") {
        add({prefix, ""});
      } else if (weights.count(prefix + "layer1.0.conv1.weight") != 0) {
        add({prefix, "encoder."});
        if (ends_with(prefix, "encoder.")) add({prefix.substr(0, prefix.size() - std::strlen("encoder.")), ""});
      }
    }
  }
  return namings;
}

std::string shape_text(const Tensor& tensor) { return semiseg::str(tensor.sizes()); }

}  // namespace

StateDict read_weights(const std::string& path) {
  std::error_code unused;
  if (!std::filesystem::exists(path, unused)) throw Error(ErrorKind::kCheckpoint, "no such file", path, "check model.weights");
  if (!std::filesystem::is_regular_file(path, unused))
    throw Error(ErrorKind::kCheckpoint, "not a file", path, "name the weights file itself");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(ErrorKind::kCheckpoint, "cannot be opened", path, "check its permissions");
  std::string start(256, '\0');
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<size_t>(file.gcount()));
  file.close();

  const auto unfit = [&](const std::string& what, const std::string& hint) {
    return Error(ErrorKind::kCheckpoint, what, path, hint);
  };
  if (start.empty()) throw unfit("the file is empty", "copy or download it again");
  // First, because the low bytes of a safetensors' header length may be anything, another format's magic number included. No
  // header is as long as 4 GB, so the high ones are 0.
  if (start.size() > 8 && start.compare(4, 5, std::string("\0\0\0\0{", 5)) == 0) return read_safetensors(path).tensors;
  if (starts_with(start, "PK")) return read_zip(path);
  if (start[0] == '\x80') {
    if (start.substr(0, 32).find(kLegacyMagic) != std::string::npos) return read_legacy(path);
    throw unfit("a pickle that torch.save did not write",
                "save it with torch.save(model.state_dict(), FILE) or as .safetensors");
  }
  if (starts_with(start, "version https://git-lfs"))
    throw unfit("a Git LFS pointer, not the weights themselves", "fetch them with: git lfs pull");
  const size_t visible = start.find_first_not_of(" \t\r\n");
  if (visible != std::string::npos && start[visible] == '<')
    throw unfit("a web page, not weights", "the download failed or needs a login: download the file again");
  throw unfit("not a weights file that is known here, or damaged",
              "safetensors and torch.save's files (zip and legacy) are read");
}

LoadSummary load_weights(Segmenter& model, const StateDict& weights, const std::string& where) {
  std::map<std::string, Tensor> own;
  for (const auto& item : model.named_parameters()) own[item.key()] = item.value();
  for (const auto& item : model.named_buffers()) own[item.key()] = item.value();

  Naming naming;
  int64_t most = 0;
  for (const Naming& candidate : candidate_namings(weights)) {
    int64_t matches = 0;
    for (const auto& [name, unused] : weights)
      if (const auto mapped = candidate.map(name)) matches += own.count(*mapped) != 0;
    if (matches > most) {
      most = matches;
      naming = candidate;
    }
  }
  if (most == 0) {
    std::string names;
    size_t count = 0;
    for (auto it = weights.begin(); it != weights.end() && count < 3; ++it, ++count)
      names += (names.empty() ? "" : ", ") + shown(it->first);
    throw Error(ErrorKind::kCheckpoint,
                "none of its " + std::to_string(weights.size()) + " tensors (" + names + ", ...) is of this network", where,
                "torchvision's and segmentation_models_pytorch's ResNet names are known; see model.backbone");
  }

  LoadSummary summary;
  summary.stripped_prefix = naming.prefix;
  std::vector<std::pair<Tensor, Tensor>> copies;  // to, from; made only when all is well
  std::set<std::string> found;
  for (const auto& [name, value] : weights) {
    const auto mapped = naming.map(name);
    const auto target = mapped ? own.find(*mapped) : own.end();
    if (target == own.end()) {
      const bool classifier = mapped && (*mapped == "encoder.fc.weight" || *mapped == "encoder.fc.bias");
      const bool ours = std::any_of(std::begin(kCheckpointPrefixes), std::end(kCheckpointPrefixes),
                                    [&](const char* prefix) { return starts_with(name, prefix); });
      if (!classifier && !ours) summary.unexpected.push_back(name);
      continue;
    }
    found.insert(*mapped);
    const Tensor& to = target->second;
    if (value.sizes() != to.sizes()) {
      const bool other_classes = starts_with(*mapped, "segmentation_head.") && value.dim() == to.dim() && to.dim() > 0 &&
                                 value.sizes().slice(1) == to.sizes().slice(1);
      if (!other_classes)
        throw Error(ErrorKind::kCheckpoint,
                    "tensor " + shown(name) + " has shape " + shape_text(value) + ", the network's has " + shape_text(to),
                    where, "set model.backbone and model.decoder to those of the weights");
      summary.reinitialized.push_back(*mapped);
      continue;
    }
    if (value.is_floating_point() != to.is_floating_point())
      throw Error(ErrorKind::kCheckpoint,
                  str("tensor ", shown(name), " is of type ", c10::toString(value.scalar_type()), ", not ",
                      c10::toString(to.scalar_type())),
                  where, "save the weights as floating-point numbers");
    const Tensor converted = value.to(at::kCPU, to.scalar_type());
    if (converted.is_floating_point() && !at::isfinite(converted).all().item<bool>())
      throw Error(ErrorKind::kCheckpoint, "tensor " + shown(name) + " holds NaN or infinite values", where,
                  "use weights from before training diverged");
    copies.emplace_back(to, converted);
  }
  for (const auto& [name, unused] : own)
    if (found.count(name) == 0 && !ends_with(name, "num_batches_tracked"))
      summary.missing.push_back(name);  // absent before PyTorch 0.4.1
  at::NoGradGuard no_grad;
  for (auto& [to, from] : copies) to.copy_(from);
  summary.loaded = static_cast<int64_t>(copies.size());
  std::sort(summary.reinitialized.begin(), summary.reinitialized.end());
  return summary;
}

}  // namespace semiseg
