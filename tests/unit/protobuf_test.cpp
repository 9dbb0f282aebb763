#include "protobuf.h"

#include <gtest/gtest.h>

namespace semiseg {
namespace {

// The examples of protobuf.dev/programming-guides/encoding, and a double by hand.
TEST(ProtoMessage, EncodesEachKindOfField) {
  using namespace std::string_literals;
  EXPECT_EQ(ProtoMessage().integer(1, 150).serialized(), "\x08\x96\x01"s);
  EXPECT_EQ(ProtoMessage().integer(1, -2).serialized(), "\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"s);
  EXPECT_EQ(ProtoMessage().bytes(2, "testing").serialized(), "\x12\x07testing"s);
  EXPECT_EQ(ProtoMessage().message(3, ProtoMessage().integer(1, 150)).serialized(), "\x1a\x03\x08\x96\x01"s);
  EXPECT_EQ(ProtoMessage().float32(1, 1.0F).serialized(), "\x0d\x00\x00\x80\x3f"s);
  EXPECT_EQ(ProtoMessage().float64(1, 1.0).serialized(), "\x09\x00\x00\x00\x00\x00\x00\xf0\x3f"s);
  EXPECT_EQ(ProtoMessage().integer(16, 1).serialized(), "\x80\x01\x01"s);  // a tag of two bytes
}

}  // namespace
}  // namespace semiseg
