#include "weights/pickle.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "semiseg/error.h"

namespace semiseg {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxValues = 4'000'000;  // in one pickle

std::optional<at::ScalarType> storage_type(std::string_view global) {
  static const std::map<std::string, at::ScalarType, std::less<>> kTypes = {
      {"DoubleStorage", at::kDouble},     {"FloatStorage", at::kFloat}, {"HalfStorage", at::kHalf},
      {"BFloat16Storage", at::kBFloat16}, {"LongStorage", at::kLong},   {"IntStorage", at::kInt},
      {"ShortStorage", at::kShort},       {"CharStorage", at::kChar},   {"ByteStorage", at::kByte},
      {"BoolStorage", at::kBool},         {"UntypedStorage", at::kByte}};
  for (const std::string_view module : {"torch.cuda.", "torch.storage.", "torch."}) {
    if (!global.starts_with(module)) continue;
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
// without the opcodes that only text protocols or arbitrary objects need.
class PickleReader {
 public:
  PickleReader(std::string path, std::string_view bytes) : path_(std::move(path)), bytes_(bytes) {}

  const PickleValue& load();
  size_t bytes_used() const { return at_; }
  std::deque<PickleValue> take_values() { return std::move(values_); }

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

  PickleValue* make(Kind kind) {
    if (values_.size() >= kMaxValues) fail(str("the pickle holds more than ", kMaxValues, " values"), kSaveStateDict);
    values_.emplace_back().kind = kind;
    return &values_.back();
  }
  void push(PickleValue* value) { stack_.push_back(value); }

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
  void push_items(Kind kind, std::vector<PickleValue*> items) {
    push(make(kind));
    stack_.back()->items = std::move(items);
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  PickleValue* top() const {
    if (stack_.size() <= floor()) fail("the pickle takes from an empty stack");
    return stack_.back();
  }
  PickleValue* pop() {
    PickleValue* value = top();
    stack_.pop_back();
    return value;
  }
  std::vector<PickleValue*> pop(size_t count) {
    if (stack_.size() - floor() < count) fail("the pickle takes from an empty stack");
    std::vector<PickleValue*> items(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return items;
  }
  std::vector<PickleValue*> pop_to_mark() {
    if (marks_.empty()) fail("the pickle has no mark where it needs one");
    auto items = pop(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }
  PickleValue* remembered(uint32_t index) const {
    const auto found = memo_.find(index);
    if (found == memo_.end()) fail("the pickle recalls a value that it never stored");
    return found->second;
  }

  void extend(Kind kind, const std::vector<PickleValue*>& items) {
    PickleValue* container = top();
    // Attributes of values that nobody reads (kOther) are dropped.
    if (container->kind == Kind::kOther) return;
    if (container->kind != kind || (kind == Kind::kDict && items.size() % 2 != 0))
      fail("the pickle fills a value of another kind");
    container->items.insert(container->items.end(), items.begin(), items.end());
  }

  void push_long(uint64_t bytes);
  void push_global(std::string_view module, std::string_view name);
  void push_storage(const PickleValue& id);
  void reduce(const PickleValue& function, const PickleValue& arguments);
  void push_tensor(const std::vector<PickleValue*>& arguments);

  std::string path_;
  std::string_view bytes_;
  size_t at_ = 0;
  std::deque<PickleValue> values_;  // owns all, so that neither cycles nor deep nesting matter
  std::vector<PickleValue*> stack_;
  size_t copied_ = 0;
  std::vector<size_t> marks_;  // sizes of the stack
  std::unordered_map<uint32_t, PickleValue*> memo_;
};

// Little-endian two's complement. What exceeds 64 bits is no number that a state_dict needs.
void PickleReader::push_long(uint64_t bytes) {
  const auto digits = take(bytes);
  if (bytes > sizeof(int64_t)) return push(make(Kind::kOther));
  uint64_t value = !digits.empty() && (digits.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
  std::memcpy(&value, digits.data(), digits.size());
  push_integer(Kind::kInt, static_cast<int64_t>(value));
}

void PickleReader::push_global(std::string_view module, std::string_view name) {
  const std::string global = std::string(module) + "." + std::string(name);
  if (!is_allowed(global)) fail("holds a GLOBAL " + shown(global) + ", which is refused", kSaveStateDict);
  push(make(Kind::kGlobal));
  stack_.back()->text = global;
}

// ("storage", type, key, location, elements) and, in old files, a view: None or (key, offset, elements).
void PickleReader::push_storage(const PickleValue& id) {
  const auto& items = id.items;
  if (id.kind != Kind::kTuple || items.size() < 5 || items[0]->text != "storage" || items[1]->kind != Kind::kGlobal ||
      items[2]->kind != Kind::kString || items[4]->kind != Kind::kInt || items[4]->integer < 0)
    fail("the pickle refers to something that is not a storage", kSaveStateDict);
  const auto type = storage_type(items[1]->text);
  if (!type) fail("a storage has the type " + shown(items[1]->text), kSaveStateDict);
  PickleValue* storage = make(Kind::kStorage);
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

void PickleReader::push_tensor(const std::vector<PickleValue*>& arguments) {
  const auto is_sizes = [](const PickleValue& value) {
    return value.kind == Kind::kTuple && value.items.size() <= 64 &&
           std::all_of(value.items.begin(), value.items.end(),
                       [](const PickleValue* side) { return side->kind == Kind::kInt && side->integer >= 0; });
  };
  if (arguments.size() < 4 || arguments[0]->kind != Kind::kStorage || arguments[1]->kind != Kind::kInt ||
      arguments[1]->integer < 0 || !is_sizes(*arguments[2]) || !is_sizes(*arguments[3]) ||
      arguments[2]->items.size() != arguments[3]->items.size())
    fail("a tensor's description is not valid");
  push_items(Kind::kTensor, {arguments.begin(), arguments.begin() + 4});
}

// Calls nothing: knows what each allowed function would build from its arguments.
void PickleReader::reduce(const PickleValue& function, const PickleValue& arguments) {
  if (function.kind != Kind::kGlobal || arguments.kind != Kind::kTuple)
    fail("the pickle calls something that is not a function");
  const std::string& name = function.text;
  const auto& items = arguments.items;
  if (name.starts_with("torch._utils._rebuild_tensor")) return push_tensor(items);
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
    std::vector<PickleValue*> pairs;
    if (!items.empty()) charge(items[0]->items.size());
    if (!items.empty())  // OrderedDict([(key, value), ...]), as Python 2 wrote it
      for (const PickleValue* pair : items[0]->items) {
        if (pair->items.size() != 2) fail("an OrderedDict is not valid");
        pairs.insert(pairs.end(), pair->items.begin(), pair->items.end());
      }
    return push_items(Kind::kDict, std::move(pairs));
  }
  push(make(Kind::kOther));
}

const PickleValue& PickleReader::load() {
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

}  // namespace

std::string shown(std::string_view name) {
  std::string text;
  for (const char c : name.substr(0, 100)) text += static_cast<unsigned char>(c) < ' ' || c == 127 ? '?' : c;
  return name.size() > 100 ? text + "..." : text;
}

Pickle::Pickle(const std::string& path, std::string_view bytes) {
  PickleReader reader(path, bytes);
  root_ = &reader.load();
  bytes_used_ = reader.bytes_used();
  values_ = reader.take_values();  // which stay where they are
}

}  // namespace semiseg
