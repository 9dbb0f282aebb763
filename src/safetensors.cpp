// The .safetensors format: 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes without gaps.
// https://github.com/huggingface/safetensors#format
#include <ATen/ATen.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <tuple>

#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/weights.h"

namespace semiseg {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // as the Rust reader
constexpr uint64_t kAlignment = 64;
constexpr std::string_view kChecksumKind = "crc32:";
constexpr size_t kChecksumDigits = 8;

struct Dtype {
  const char* name;
  at::ScalarType type;
};
constexpr Dtype kDtypes[] = {{"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf},  {"BF16", at::kBFloat16},
                             {"I64", at::kLong},   {"I32", at::kInt},   {"I16", at::kShort}, {"I8", at::kChar},
                             {"U8", at::kByte},    {"BOOL", at::kBool}};

[[noreturn]] void fail(const std::string& path, const std::string& problem) {
  throw Error(ErrorKind::kCheckpoint, problem, path, "the file is damaged, incomplete or not a safetensors file");
}

// A name as a message may show it: on one line, and not at any length.
std::string shown(const std::string& name) {
  std::string text = json(name.substr(0, 120)).dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
  return name.size() > 120 ? text + "..." : text;
}

// Parses the header; a key that stands twice in one object is an error, where the parser alone would take the last.
json parse_header(const std::string& path, const std::string& text) {
  std::vector<std::set<std::string>> keys;
  std::string twice;
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.empty() && !keys.back().insert(parsed.get<std::string>()).second)
      twice = parsed.get<std::string>();
    return true;
  };
  json header = json::parse(text, watch, /*allow_exceptions=*/false);
  if (header.is_discarded()) fail(path, "the header is not valid JSON");
  if (!header.is_object()) fail(path, "the header is not a JSON object");
  if (!twice.empty()) fail(path, "the header holds the key " + shown(twice) + " twice");
  return header;
}

struct Entry {
  std::string name;
  at::ScalarType type;
  std::vector<int64_t> shape;
  uint64_t begin, end;
};

Entry parse_entry(const std::string& path, const std::string& name, const json& value) {
  const auto bad = [&](const std::string& problem) { fail(path, "tensor " + shown(name) + ": " + problem); };
  const auto member = [&](const char* key, size_t size) -> const json& {
    if (!value.is_object() || !value.contains(key)) bad(std::string("no ") + key);
    const json& found = value.at(key);
    if (size == 0) return found;
    if (!found.is_array() || found.size() > size) bad(std::string(key) + " is not a list of whole numbers");
    for (const json& number : found)
      if (!number.is_number_unsigned()) bad(std::string(key) + " is not a list of whole numbers");
    return found;
  };
  Entry entry{.name = name, .type = at::kFloat, .shape = {}, .begin = 0, .end = 0};
  const json& dtype = member("dtype", 0);
  const auto known = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) { return dtype == d.name; });
  if (known == std::end(kDtypes))
    bad("dtype " + shown(dtype.is_string() ? dtype.get<std::string>() : "?") + " is not supported");
  entry.type = known->type;
  uint64_t bytes = c10::elementSize(entry.type);
  for (const json& side : member("shape", 64)) {
    const auto n = side.get<uint64_t>();
    if (n > INT64_MAX || __builtin_mul_overflow(bytes, n, &bytes)) bad("the shape is too large");
    entry.shape.push_back(static_cast<int64_t>(n));
  }
  const json& offsets = member("data_offsets", 2);
  if (offsets.size() != 2) bad("data_offsets is not a pair");
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  if (entry.begin > entry.end || entry.end - entry.begin != bytes)
    bad(str("data_offsets span ", entry.begin, "..", entry.end, ", but the shape needs ", bytes, " bytes"));
  return entry;
}

std::map<std::string, std::string> parse_metadata(const std::string& path, const json& value) {
  std::map<std::string, std::string> metadata;
  if (!value.is_object()) fail(path, "__metadata__ is not an object of strings");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) fail(path, "__metadata__ is not an object of strings");
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

// zlib takes a null pointer, which an empty tensor may have, for a new start.
uint32_t crc(uint32_t sum, const void* data, size_t bytes) {
  return bytes == 0 ? sum : static_cast<uint32_t>(crc32_z(sum, static_cast<const Bytef*>(data), bytes));
}

std::string checksum_text(uint32_t sum) {
  char digits[kChecksumDigits + 1];
  std::snprintf(digits, sizeof(digits), "%08X", sum);
  return std::string(kChecksumKind) + digits;
}

// Where the checksum's digits stand in the header's text. Quotes inside JSON strings are escaped, so only the key itself can
// match.
size_t find_digits(const std::string& header, const std::string& checksum) {
  for (const char* between : {"\"checksum\":\"", "\"checksum\": \""}) {
    const size_t at = header.find(between + checksum + "\"");
    if (at != std::string::npos) return at + std::strlen(between) + kChecksumKind.size();
  }
  return std::string::npos;
}

}  // namespace

SafeTensors read_safetensors(const std::string& path) {
  std::error_code unused;
  if (!std::filesystem::exists(path, unused)) throw Error(ErrorKind::kCheckpoint, "no such file", path);
  if (!std::filesystem::is_regular_file(path, unused)) throw Error(ErrorKind::kCheckpoint, "not a file", path);
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw Error(ErrorKind::kCheckpoint, "cannot be opened", path, "check its permissions");
  const auto size = static_cast<uint64_t>(file.tellg());
  file.seekg(0);
  const auto read = [&](void* to, uint64_t bytes) {
    if (bytes > 0 && !file.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes)))
      fail(path, "cannot be read to its end");
  };

  if (size < kLengthBytes) fail(path, str("only ", size, " bytes long"));
  uint64_t length = 0;
  read(&length, kLengthBytes);
  if (length > size - kLengthBytes) fail(path, str("the header is ", length, " bytes long, the file only ", size));
  if (length > kMaxHeader) fail(path, str("the header is ", length, " bytes long, more than the ", kMaxHeader, " allowed"));
  std::string text(length, '\0');
  read(text.data(), length);
  const json header = parse_header(path, text);

  SafeTensors result;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__")
      result.metadata = parse_metadata(path, value);
    else
      entries.push_back(parse_entry(path, name, value));
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });
  uint64_t reached = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != reached) fail(path, "tensor " + shown(entry.name) + " overlaps the one before it or leaves a gap");
    reached = entry.end;
  }
  const uint64_t data_bytes = size - kLengthBytes - length;
  if (reached != data_bytes) fail(path, str("holds ", data_bytes, " bytes of tensors where the header says ", reached));

  const auto stated = result.metadata.find("checksum");
  uint32_t sum = 0;
  if (stated != result.metadata.end()) {
    const size_t digits = find_digits(text, stated->second);
    if (stated->second.size() != kChecksumKind.size() + kChecksumDigits || stated->second.rfind(kChecksumKind, 0) != 0 ||
        digits == std::string::npos)
      fail(path, "the checksum " + shown(stated->second) + " is of an unknown kind");
    text.replace(digits, kChecksumDigits, kChecksumDigits, '0');
    sum = crc(crc(0, &length, kLengthBytes), text.data(), length);
  }
  for (const Entry& entry : entries) {
    Tensor tensor = at::empty(entry.shape, entry.type);
    read(tensor.data_ptr(), entry.end - entry.begin);
    if (stated != result.metadata.end()) sum = crc(sum, tensor.data_ptr(), entry.end - entry.begin);
    // A bool that is neither 0 nor 1 in memory would be undefined behaviour.
    result.tensors[entry.name] = entry.type == at::kBool ? tensor.view(at::kByte).ne(0) : tensor;
  }
  if (stated != result.metadata.end() && checksum_text(sum) != stated->second)
    fail(path, "the checksum is " + checksum_text(sum) + ", not " + stated->second + " as stated");
  return result;
}

void write_safetensors(const std::string& path, const StateDict& tensors, std::map<std::string, std::string> metadata) {
  struct Item {
    std::string name;
    const char* dtype;
    Tensor tensor;
  };
  std::vector<Item> items;
  for (const auto& [name, tensor] : tensors) {
    const auto dtype =
        std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) { return d.type == tensor.scalar_type(); });
    if (dtype == std::end(kDtypes))
      throw Error(ErrorKind::kCheckpoint,
                  str("tensor ", name, " has type ", c10::toString(tensor.scalar_type()), ", which cannot be stored"), path);
    items.push_back({name, dtype->name, tensor.detach().to(at::kCPU).contiguous()});
  }
  // Wide elements first, so that every tensor lies aligned in the file; then by name.
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.tensor.element_size() > b.tensor.element_size(); });

  const bool with_checksum = metadata.count("checksum") != 0;
  if (with_checksum) metadata["checksum"] = checksum_text(0);
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const Item& item : items) {
    header[item.name] = {
        {"dtype", item.dtype}, {"shape", item.tensor.sizes().vec()}, {"data_offsets", {offset, offset + item.tensor.nbytes()}}};
    offset += item.tensor.nbytes();
  }
  std::string text = header.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
  text.resize((kLengthBytes + text.size() + kAlignment - 1) / kAlignment * kAlignment - kLengthBytes, ' ');
  const uint64_t length = text.size();
  if (length > kMaxHeader)
    throw Error(ErrorKind::kCheckpoint,
                str("the header would be ", length, " bytes long, more than the ", kMaxHeader, " that a reader allows"), path,
                "its metadata and the names of its tensors must be shorter");

  if (with_checksum) {
    uint32_t sum = crc(crc(0, &length, kLengthBytes), text.data(), length);
    for (const Item& item : items) sum = crc(sum, item.tensor.data_ptr(), item.tensor.nbytes());
    const std::string checksum = checksum_text(sum);
    text.replace(find_digits(text, checksum_text(0)), kChecksumDigits, checksum, kChecksumKind.size());
  }
  AtomicFile file(path);
  file.write(&length, kLengthBytes);
  file.write(text.data(), length);
  for (const Item& item : items) file.write(item.tensor.data_ptr(), item.tensor.nbytes());
  file.commit();
}

}  // namespace semiseg
