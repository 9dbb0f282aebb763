// Files under tests/data/weights are made by tools/goldens/weights_fixtures.py.
#include "semiseg/weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

std::string fixture(const std::string& name) { return std::string(SEMISEG_SOURCE_DIR "/tests/data/weights/") + name; }

std::string temporary(const std::string& name) { return testing::TempDir() + "semiseg_weights_" + name; }

// 0, 1/8, 2/8, ...: the fixtures' values.
Tensor ramp(at::IntArrayRef shape) { return at::arange(at::empty(shape).numel(), at::kFloat).div(8).reshape(shape); }

template <class Function>
std::string error_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint) << error.what();
    const std::string text = error.what();
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  }
  return "no error";
}

#define EXPECT_ERROR(expression, part)                                                      \
  do {                                                                                      \
    const std::string text = error_of([&] { static_cast<void>(expression); });              \
    EXPECT_NE(text.find(part), std::string::npos) << "expected " << part << " in " << text; \
  } while (false)

void expect_state_dict(const StateDict& weights) {
  ASSERT_EQ(weights.size(), 7u);
  EXPECT_TRUE(at::equal(weights.at("0.weight"), ramp({2, 1, 2, 2})));
  EXPECT_TRUE(at::equal(weights.at("0.bias"), ramp({2})));
  EXPECT_TRUE(at::equal(weights.at("1.weight"), at::ones({2})));
  EXPECT_TRUE(at::equal(weights.at("1.running_var"), at::arange(2, 4, at::kFloat)));
  EXPECT_EQ(weights.at("1.num_batches_tracked").scalar_type(), at::kLong);
  EXPECT_EQ(weights.at("1.num_batches_tracked").item<int64_t>(), 7);
}

TEST(ReadWeights, StateDictInEveryFormatOfTorchSave) {
  for (const char* name :
       {"zip.pt", "protocol4.pt", "legacy.pt", "wrapped_model.pt", "wrapped_state_dict.pt", "wrapped_ema.pt"}) {
    SCOPED_TRACE(name);
    expect_state_dict(read_weights(fixture(name)));
  }
}

TEST(ReadWeights, NumberTypes) {
  const std::map<std::string, at::ScalarType> types = {
      {"half", at::kHalf},   {"bfloat16", at::kBFloat16}, {"double", at::kDouble}, {"int64", at::kLong}, {"int32", at::kInt},
      {"int16", at::kShort}, {"int8", at::kChar},         {"uint8", at::kByte},    {"bool", at::kBool}};
  for (const char* name : {"types.pt", "types_legacy.pt", "types.safetensors"}) {
    SCOPED_TRACE(name);
    const auto weights = read_weights(fixture(name));
    ASSERT_EQ(weights.size(), types.size());
    for (const auto& [key, type] : types) {
      SCOPED_TRACE(key);
      EXPECT_EQ(weights.at(key).scalar_type(), type);
      EXPECT_TRUE(at::equal(weights.at(key), at::arange(6).reshape({2, 3}).to(type)));
    }
  }
}

TEST(ReadWeights, ViewsOfStorages) {
  const Tensor base = ramp({4, 6});
  for (const char* name : {"views.pt", "views_legacy.pt"}) {
    SCOPED_TRACE(name);
    const auto weights = read_weights(fixture(name));
    ASSERT_EQ(weights.size(), 8u);
    EXPECT_TRUE(at::equal(weights.at("transposed"), base.t()));
    EXPECT_TRUE(at::equal(weights.at("slice"), base.slice(0, 1, 3).slice(1, 2, 5)));
    EXPECT_TRUE(at::equal(weights.at("step"), base.flatten().slice(0, 0, 24, 5)));
    EXPECT_TRUE(at::equal(weights.at("expanded"), at::zeros({3, 4})));
    EXPECT_TRUE(at::equal(weights.at("channels_last"), ramp({1, 2, 2, 2})));
    EXPECT_EQ(weights.at("empty").sizes(), (at::IntArrayRef{0, 3}));
    EXPECT_EQ(weights.at("scalar").item<float>(), 2.5f);
    EXPECT_TRUE(at::equal(weights.at("parameter"), ramp({3})));
  }
  // Elements 1..4 of the storage are the view; the tensor starts at the view's second.
  EXPECT_TRUE(at::equal(read_weights(fixture("old_view.pt")).at("view"), ramp({6}).slice(0, 2, 5)));
}

TEST(ReadWeights, RefusesWhatIsNotAStateDict) {
  const std::map<std::string, std::string> cases = {
      {"malicious_zip.pt", "holds a GLOBAL posix.system, which is refused; save model.state_dict() instead"},
      {"malicious_legacy.pt", "holds a GLOBAL posix.system, which is refused; save model.state_dict() instead"},
      {"module.pt", "holds a GLOBAL torch.nn.modules.conv.Conv2d, which is refused"},
      {"script.pt", "TorchScript"},
      {"plain_pickle.pt", "a pickle that torch.save did not write"},
      {"no_tensors.pt", "holds no state_dict (its keys: epoch, optimizer)"},
      {"tensor.pt", "holds one tensor, not a state_dict"},
      {"out_of_bounds.pt", "tensor weight reaches element 1002 of a storage of 6"},
      {"missing.pt", "no such file"},
  };
  for (const auto& [name, part] : cases) {
    SCOPED_TRACE(name);
    EXPECT_ERROR(read_weights(fixture(name)), part);
    EXPECT_ERROR(read_weights(fixture(name)), name);
  }
  EXPECT_FALSE(std::filesystem::exists("/tmp/semiseg_pickle_was_executed"));
  EXPECT_ERROR(read_weights(testing::TempDir()), "not a file");
}

TEST(ReadWeights, TellsFilesThatAreSomethingElse) {
  const std::map<std::string, std::string> cases = {
      {"", "empty"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"},
      {"<!DOCTYPE html><html></html>", "web page"},
      {"\n <html>", "web page"},
      {"hello", "not a weights file"},
      {"PK\x03\x04 and no more", "zip archive"},
      {"\x80\x02}q\x00.", "pickle"},
  };
  const std::string path = temporary("else");
  for (const auto& [bytes, part] : cases) {
    write_file(path, bytes);
    EXPECT_ERROR(read_weights(path), part);
  }
}

// However a file is cut or changed, the outcome is tensors or one clear line.
TEST(ReadWeights, SurvivesDamage) {
  const std::string path = temporary("damaged");
  const auto try_reading = [&](const std::string& bytes) {
    write_file(path, bytes);
    try {
      read_weights(path);
      return true;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint) << error.what();
      return false;
    }
  };
  for (const char* name : {"zip.pt", "legacy.pt", "types.safetensors"}) {
    SCOPED_TRACE(name);
    const std::string bytes = read_file(fixture(name));
    for (size_t length = 0; length < bytes.size(); length += 1 + bytes.size() / 60)
      EXPECT_FALSE(try_reading(bytes.substr(0, length))) << "cut to " << length;
    for (size_t at = 0; at < bytes.size(); at += 1 + bytes.size() / 150) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ 0x5a);
      try_reading(changed);
    }
  }
}

TEST(SafeTensors, RoundTrip) {
  const std::string path = temporary("round.safetensors");
  StateDict tensors;
  for (const auto type :
       {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort, at::kChar, at::kByte, at::kBool})
    tensors[c10::toString(type)] = at::arange(6).reshape({2, 3}).to(type).t();
  tensors["scalar"] = at::scalar_tensor(1.5);
  tensors["empty"] = at::empty({0, 3});
  write_safetensors(path, tensors, {{"text", "line\n\"quoted\""}, {"checksum", ""}});
  const SafeTensors read = read_safetensors(path);
  ASSERT_EQ(read.tensors.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(read.tensors.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(read.tensors.at(name), tensor)) << name;
  }
  EXPECT_EQ(read.metadata.at("text"), "line\n\"quoted\"");
  EXPECT_EQ(read.metadata.at("checksum").size(), 14u);
  EXPECT_EQ(read.metadata.at("checksum").rfind("crc32:", 0), 0u);
}

TEST(SafeTensors, ChecksumFindsEveryChangedByte) {
  const std::string path = temporary("checksum.safetensors");
  write_safetensors(path, {{"weight", ramp({3})}}, {{"checksum", ""}, {"step", "7"}});
  const std::string bytes = read_file(path);
  const size_t header = bytes.find("step") - 20;
  for (size_t at = header; at < bytes.size(); ++at) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    write_file(path, changed);
    EXPECT_NE(error_of([&] { read_safetensors(path); }), "no error") << "byte " << at;
  }
}

// A file with this header and so many bytes of data.
std::string with_header(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + std::string(data_bytes, '\0');
}

TEST(SafeTensors, RejectsHostileFiles) {
  const std::string path = temporary("hostile.safetensors");
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  struct Case {
    std::string header;
    size_t data_bytes;
    const char* part;
  };
  const Case cases[] = {
      {"{", 0, "not valid JSON"},
      {"{} x", 0, "not valid JSON"},
      {"[1]     ", 0, "not a JSON object"},
      {R"({"a":3})", 0, "no dtype"},
      {one("F8", "[1]", "[0,1]"), 1, "dtype \"F8\""},
      {one("F32", "[-1]", "[0,4]"), 4, "shape"},
      {one("F32", "[1.5]", "[0,4]"), 4, "shape"},
      {one("F32", "[4294967296,4294967296]", "[0,0]"), 0, "too large"},
      {one("F32", "[2]", "[0,4]"), 4, "the shape needs 8 bytes"},
      {one("F32", "[1]", "[4,0]"), 4, "data_offsets"},
      {one("F32", "[1]", "[0,4,8]"), 4, "data_offsets"},
      {one("F32", "[1]", "[4,8]"), 8, "leaves a gap"},
      {one("F32", "[2]", "[0,8]"), 4, "holds 4 bytes"},
      {one("F32", "[1]", "[0,4]"), 8, "holds 8 bytes"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3,
       "overlaps"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
       "\"a\" twice"},
      {R"({"__metadata__":{"x":1}})", 0, "__metadata__"},
      {R"({"__metadata__":{"checksum":"crc32:00000000"}})", 0, "checksum"},
      {R"({"__metadata__":{"checksum":"md5:0"}})", 0, "unknown kind"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.header);
    write_file(path, with_header(c.header, c.data_bytes));
    EXPECT_ERROR(read_safetensors(path), c.part);
    EXPECT_ERROR(read_safetensors(path), path);
  }
  write_file(path, std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));
  EXPECT_ERROR(read_safetensors(path), "bytes long, the file only 10");
  write_file(path, "abc");
  EXPECT_ERROR(read_safetensors(path), "only 3 bytes");
  write_file(path, with_header("{}", 0));
  EXPECT_TRUE(read_safetensors(path).tensors.empty());
}

TEST(SafeTensors, WritesNoHeaderThatNoReaderTakes) {
  const std::string path = temporary("long_header.safetensors");
  std::filesystem::remove(path);
  EXPECT_ERROR(write_safetensors(path, {{"weight", ramp({3})}}, {{"history", std::string(100'000'000, 'x')}}),
               "more than the 100000000 that a reader allows");
  EXPECT_FALSE(std::filesystem::exists(path));
}

// A header's length may begin like another format's magic number: a pickle's, a web page's, a zip archive's.
TEST(SafeTensors, IsToldByItsHeaderWhateverItsLength) {
  const std::string path = temporary("length.safetensors");
  const std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  for (const size_t length : {0x80u, 0x3cu, 0x4b50u}) {
    write_file(path, with_header(header + std::string(length - header.size(), ' '), 1));
    EXPECT_EQ(read_weights(path).size(), 1u) << length;
  }
}

class LoadWeights : public testing::Test {
 protected:
  // Without the pass that draws initial weights, which takes longer than all that is tested here: tensor i is seed + i / 256.
  static std::shared_ptr<Segmenter> make(double seed, int64_t num_classes = 3) {
    at::NoGradGuard no_grad;
    ModelConfig config;
    const auto backbone = backbones().at("resnet18")(config);
    auto model = std::make_shared<Segmenter>(backbone, decoders().at("fpn")(config, backbone->channels()), num_classes);
    for (Tensor& parameter : model->parameters()) parameter.fill_(seed += 1.0 / 256);
    return model;
  }

  // Every tensor of a network, with statistics that are not the initial ones.
  static StateDict state_dict(const Segmenter& model) {
    StateDict result;
    for (const auto& item : model.named_parameters()) result[item.key()] = item.value().detach().clone();
    for (const auto& item : model.named_buffers())
      result[item.key()] = item.value().is_floating_point() ? item.value() + 0.5 : item.value() + 5;
    return result;
  }

  // The encoder alone under another prefix, with torchvision's classifier.
  static StateDict backbone(const StateDict& weights, const std::string& prefix) {
    StateDict result{{prefix + "fc.weight", at::zeros({1000, 512})}, {prefix + "fc.bias", at::zeros({1000})}};
    for (const auto& [name, value] : weights)
      if (name.rfind("encoder.", 0) == 0) result[prefix + name.substr(8)] = value;
    return result;
  }

  static void SetUpTestSuite() { source_ = make(1); }
  static void TearDownTestSuite() { source_.reset(); }
  static std::shared_ptr<Segmenter> source_;

  std::shared_ptr<Segmenter> target_ = make(2);
  StateDict weights_ = state_dict(*source_);
};

std::shared_ptr<Segmenter> LoadWeights::source_;

TEST_F(LoadWeights, WholeNetworkUnderAnyPrefix) {
  for (const std::string prefix : {"", "module.", "model.", "student."}) {
    SCOPED_TRACE(prefix);
    StateDict renamed;
    for (const auto& [name, value] : weights_) renamed[prefix + name] = value;
    const auto target = make(2);
    const LoadSummary summary = load_weights(*target, renamed, "file");
    EXPECT_EQ(summary.loaded, static_cast<int64_t>(weights_.size()));
    EXPECT_EQ(summary.stripped_prefix, prefix);
    EXPECT_TRUE(summary.missing.empty());
    EXPECT_TRUE(summary.unexpected.empty());
    EXPECT_TRUE(summary.reinitialized.empty());
    for (const auto& item : target->named_parameters())
      EXPECT_TRUE(at::equal(item.value(), weights_[item.key()])) << item.key();
    for (const auto& item : target->named_buffers()) EXPECT_TRUE(at::equal(item.value(), weights_[item.key()])) << item.key();
  }
}

TEST_F(LoadWeights, BackboneUnderAnyPrefix) {
  for (const std::string prefix : {"", "module.", "backbone.", "encoder.", "features.", "module.pre.", "a.b.c."}) {
    SCOPED_TRACE(prefix);
    const auto target = make(2);
    StateDict bare = backbone(weights_, prefix);
    bare[prefix + "projector.weight"] = at::zeros({2, 2});
    const LoadSummary summary = load_weights(*target, bare, "file");
    EXPECT_EQ(summary.loaded, 120);  // 20 convolutions and 20 normalisations of 5 tensors
    EXPECT_EQ(summary.unexpected, std::vector<std::string>{prefix + "projector.weight"});
    ASSERT_EQ(summary.missing.size(), 31u);  // p5, 3 skip_conv and the head with bias: 10; 7 blocks of 3
    for (const auto& name : summary.missing) EXPECT_NE(name.rfind("encoder.", 0), 0u) << name;
    EXPECT_TRUE(
        at::equal(target->named_buffers()["encoder.layer4.1.bn2.running_var"], weights_["encoder.layer4.1.bn2.running_var"]));
  }
}

TEST_F(LoadWeights, HalfPrecisionAndOldFilesWithoutCounters) {
  StateDict half;
  for (const auto& [name, value] : weights_)
    if (name.find("num_batches_tracked") == std::string::npos)
      half[name] = value.to(name < "encoder." ? at::kHalf : at::kBFloat16);
  const LoadSummary summary = load_weights(*target_, half, "file");
  EXPECT_TRUE(summary.missing.empty());
  EXPECT_TRUE(
      at::equal(target_->named_parameters()["decoder.p5.weight"], weights_["decoder.p5.weight"].to(at::kHalf).to(at::kFloat)));
}

TEST_F(LoadWeights, OtherClassCountKeepsTheInitialHead) {
  const auto target = make(2, /*num_classes=*/5);
  const Tensor head = target->named_parameters()["segmentation_head.0.weight"].detach().clone();
  const LoadSummary summary = load_weights(*target, weights_, "file");
  EXPECT_EQ(summary.reinitialized, (std::vector<std::string>{"segmentation_head.0.bias", "segmentation_head.0.weight"}));
  EXPECT_TRUE(summary.missing.empty());
  EXPECT_TRUE(at::equal(target->named_parameters()["segmentation_head.0.weight"], head));
}

TEST_F(LoadWeights, OurCheckpointsOtherTensorsAreNotUnexpected) {
  for (const char* name :
       {"student.encoder.conv1.weight", "labeler.threshold.histogram", "bank.keys", "optimizer.x", "probe.0"})
    weights_[name] = at::zeros({1});
  EXPECT_TRUE(load_weights(*target_, weights_, "file").unexpected.empty());
  weights_["decoder.x"] = at::zeros({1});
  EXPECT_EQ(load_weights(*target_, weights_, "file").unexpected, std::vector<std::string>{"decoder.x"});
}

TEST_F(LoadWeights, BadWeightsChangeNothing) {
  const StateDict before = state_dict(*target_);
  StateDict other = weights_;
  other["encoder.layer2.0.conv1.weight"] = at::zeros({128, 64, 1, 1});
  EXPECT_ERROR(load_weights(*target_, other, "file.pth"),
               "file.pth: tensor encoder.layer2.0.conv1.weight has shape [128, 64, 1, 1], the network's has [128, 64, 3, 3]");
  EXPECT_ERROR(load_weights(*target_, other, "file.pth"), "model.backbone");
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    other = weights_;
    other["encoder.layer1.0.bn1.weight"] = other["encoder.layer1.0.bn1.weight"].clone();
    other["encoder.layer1.0.bn1.weight"][63] = value;
    EXPECT_ERROR(load_weights(*target_, other, "file"), "tensor encoder.layer1.0.bn1.weight holds NaN or infinite values");
  }
  other = weights_;
  other["encoder.conv1.weight"] = other["encoder.conv1.weight"].to(at::kLong);
  EXPECT_ERROR(load_weights(*target_, other, "file"), "is of type Long, not Float");
  EXPECT_ERROR(load_weights(*target_, {{"foo.weight", at::zeros({1})}}, "file"), "none of its 1 tensors (foo.weight");
  EXPECT_ERROR(load_weights(*target_, {}, "file"), "none of its 0 tensors");
  for (const auto& [name, value] : state_dict(*target_)) EXPECT_TRUE(at::equal(value, before.at(name))) << name;
}

}  // namespace
}  // namespace semiseg
