// Messages in Protocol Buffers' wire format, written only: TensorBoard events and ONNX models are made of them.
// https://protobuf.dev/programming-guides/encoding
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

namespace semiseg {

// A message under construction. Fields are named by their numbers in the .proto file; a repeated field is added once per
// element.
class ProtoMessage {
 public:
  // int32, int64, uint64, bool and enum fields.
  ProtoMessage& integer(int field, int64_t value) {
    tag(field, 0);
    return varint(static_cast<uint64_t>(value));
  }
  ProtoMessage& float32(int field, float value) {
    tag(field, 5);
    return fixed(std::bit_cast<uint32_t>(value), 4);
  }
  ProtoMessage& float64(int field, double value) {
    tag(field, 1);
    return fixed(std::bit_cast<uint64_t>(value), 8);
  }
  // string, bytes and packed repeated fields.
  ProtoMessage& bytes(int field, std::string_view value) {
    tag(field, 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  ProtoMessage& message(int field, const ProtoMessage& value) { return bytes(field, value.bytes_); }

  const std::string& serialized() const { return bytes_; }

 private:
  void tag(int field, int wire_type) { varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire_type)); }
  ProtoMessage& varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
    return *this;
  }
  ProtoMessage& fixed(uint64_t value, int size) {
    for (int i = 0; i < size; ++i) bytes_ += static_cast<char>(value >> (8 * i));
    return *this;
  }

  std::string bytes_;
};

}  // namespace semiseg
