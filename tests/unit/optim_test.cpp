#include "semiseg/optim.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <new>
#include <stdexcept>

#include "semiseg/error.h"
#include "train_parts.h"

namespace semiseg {
namespace {

struct Rig {
  explicit Rig(OptimConfig config, bool scales_loss = false)
      : network(make_segmenter(model(), 3, 1)), optimizer({{"student", network.get()}}, config, scales_loss) {}
  static ModelConfig model() {
    ModelConfig config;
    config.backbone = "resnet18";
    return config;
  }
  Tensor parameter(const std::string& name) { return network->named_parameters()[name]; }
  void set_gradients(double value) {
    for (auto& p : network->parameters()) p.mutable_grad() = at::full_like(p, value);
  }
  std::shared_ptr<Segmenter> network;
  Optimizer optimizer;
};

constexpr const char* kEncoder = "encoder.bn1.weight";        // starts at 1
constexpr const char* kDecoder = "segmentation_head.0.bias";  // starts at 0

TEST(Schedule, FollowsItsFormulas) {
  OptimConfig config;
  config.schedule = "poly";
  EXPECT_DOUBLE_EQ(schedule_factor(config, 0, 100), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(config, 50, 100), std::pow(0.5, 0.9));
  config.warmup_steps = 10;
  EXPECT_DOUBLE_EQ(schedule_factor(config, 4, 100), std::pow(0.96, 0.9) * 0.5);
  config.warmup_steps = 0;
  config.schedule = "cosine";
  EXPECT_DOUBLE_EQ(schedule_factor(config, 25, 100), (1 + std::cos(M_PI / 4)) / 2);
  config.schedule = "constant";
  EXPECT_DOUBLE_EQ(schedule_factor(config, 99, 100), 1);
}

TEST(Optimizer, SgdWithMomentumByHand) {
  OptimConfig config;
  config.lr = 0.1;
  config.momentum = 0.9;
  config.weight_decay = 0.01;
  config.decoder_lr_multiplier = 10;
  Rig rig(config);
  rig.set_gradients(1);
  rig.optimizer.set_rate(1);
  rig.optimizer.step();
  // v = g + wd w;  w <- w - lr v;  then v <- .9 v + g + wd w
  double w = 1, v = 1 + 0.01 * 1;
  w -= 0.1 * v;
  EXPECT_NEAR(rig.parameter(kEncoder)[0].item<double>(), w, 1e-6);
  EXPECT_NEAR(rig.parameter(kDecoder)[0].item<double>(), -1.0, 1e-6);
  v = 0.9 * v + 1 + 0.01 * w;
  w -= 0.05 * v;
  rig.optimizer.set_rate(0.5);
  rig.optimizer.step();
  EXPECT_NEAR(rig.parameter(kEncoder)[0].item<double>(), w, 1e-6);
}

TEST(Optimizer, AdamWByHand) {
  OptimConfig config;
  config.kind = "adamw";
  config.lr = 0.01;
  config.weight_decay = 0.1;
  Rig rig(config);
  double w = 1, m = 0, v = 0;
  for (int t = 1; t <= 3; ++t) {
    const double g = t;
    rig.set_gradients(g);
    rig.optimizer.set_rate(1);
    rig.optimizer.step();
    w *= 1 - 0.01 * 0.1;
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    w -= 0.01 * (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.999, t))) + 1e-8);
    EXPECT_NEAR(rig.parameter(kEncoder)[0].item<double>(), w, 1e-6) << t;
  }
}

TEST(Optimizer, ClipsByGlobalNorm) {
  OptimConfig config;
  config.lr = 1;
  config.momentum = 0;
  config.weight_decay = 0;
  config.clip_grad_norm = 0.5;
  Rig rig(config);
  rig.set_gradients(2);
  double count = 0;
  for (const auto& p : rig.network->parameters()) count += static_cast<double>(p.numel());
  rig.optimizer.set_rate(1);
  rig.optimizer.step();
  EXPECT_NEAR(rig.parameter(kDecoder)[0].item<double>(), -0.5 / std::sqrt(count), 1e-7);
}

// An update whose gradients are not finite leaves weights and state alone and halves the scale; others are those without a
// scale.
TEST(Optimizer, ScalesALossAndLeavesOutWhatIsNotFinite) {
  for (const char* kind : {"sgd", "adamw"}) {
    OptimConfig config;
    config.kind = kind;
    config.lr = 0.01;
    config.clip_grad_norm = 10;
    Rig plain(config), scaled(config, /*scales_loss=*/true);
    EXPECT_EQ(plain.optimizer.loss_scale(), 1);
    double scale = 65536;
    for (const double value : {0.5, static_cast<double>(INFINITY), -0.25, 0.125}) {
      SCOPED_TRACE(str(kind, ", gradient ", value));
      const bool finite = std::isfinite(value);
      const Tensor w = scaled.parameter(kEncoder), before = w.detach().clone();
      scaled.optimizer.zero_grad();
      scaled.optimizer.set_rate(1);
      scaled.optimizer.backward((w * value).sum());
      EXPECT_EQ(w.grad()[0].item<double>(), value * scale);
      scaled.optimizer.step();
      if (finite) {
        plain.optimizer.zero_grad();
        plain.optimizer.set_rate(1);
        plain.optimizer.backward((plain.parameter(kEncoder) * value).sum());
        plain.optimizer.step();
      } else {
        EXPECT_TRUE(w.equal(before));
        scale /= 2;
      }
      EXPECT_EQ(scaled.optimizer.loss_scale(), scale);
      EXPECT_TRUE(w.equal(plain.parameter(kEncoder)));
      for (const auto& [name, tensor] : plain.optimizer.state())
        EXPECT_TRUE(tensor.equal(scaled.optimizer.state().at(name))) << name;
    }
    Rig resumed(config, /*scales_loss=*/true);
    resumed.optimizer.load_state(scaled.optimizer.state());
    EXPECT_EQ(resumed.optimizer.loss_scale(), scale);
    EXPECT_EQ(resumed.optimizer.state().at("loss_scale_growth").item<int>(), 2);
    EXPECT_THROW(resumed.optimizer.load_state(plain.optimizer.state()), Error);
  }
}

TEST(Optimizer, ARunWithoutAFiniteGradientEnds) {
  Rig rig(OptimConfig{}, /*scales_loss=*/true);
  EXPECT_NO_THROW(require_finite({}, rig.optimizer));
  for (int update = 0; update < 40; ++update) {
    rig.set_gradients(NAN);
    rig.optimizer.set_rate(1);
    rig.optimizer.step();
  }
  try {
    require_finite({}, rig.optimizer);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kNonFinite);
    EXPECT_NE(std::string(e.what()).find("fp16"), std::string::npos) << e.what();
  }
}

TEST(Optimizer, StateGoesThroughNames) {
  OptimConfig config;
  Rig a(config), b(config);
  a.set_gradients(1);
  a.optimizer.set_rate(1);
  a.optimizer.step();
  b.optimizer.load_state(a.optimizer.state());
  EXPECT_TRUE(
      b.optimizer.state().at("encoder.conv1.weight.momentum").equal(a.optimizer.state().at("encoder.conv1.weight.momentum")));
  auto broken = a.optimizer.state();
  broken.erase("encoder.conv1.weight.momentum");
  EXPECT_THROW(b.optimizer.load_state(broken), Error);
}

TEST(Optimizer, KeepsTheModulesOfAMethodApart) {
  const auto first = make_segmenter(Rig::model(), 3, 1), second = make_segmenter(Rig::model(), 3, 1, /*purpose=*/1);
  Optimizer optimizer({{"student", first.get()}, {"twin", second.get()}}, OptimConfig{});
  for (auto& p : first->parameters()) p.mutable_grad() = at::ones_like(p);
  const auto before = second->named_parameters()["encoder.bn1.weight"].clone();
  optimizer.set_rate(1);
  optimizer.step();  // the second has no gradient: only weight decay moves it
  const auto state = optimizer.state();
  EXPECT_EQ(state.count("encoder.bn1.weight.momentum"), 1u);
  EXPECT_EQ(state.count("twin.encoder.bn1.weight.momentum"), 1u);
  EXPECT_NEAR(first->named_parameters()["encoder.bn1.weight"][0].item<double>(), 1 - 0.01 * (1 + 1e-4), 1e-6);
  EXPECT_NEAR(second->named_parameters()["encoder.bn1.weight"][0].item<double>(), before[0].item<double>() - 0.01 * 1e-4, 1e-7);
}

TEST(Schedule, OneCycleRisesAndFallsAsHalfCosines) {
  OptimConfig config;
  config.schedule = "onecycle";
  EXPECT_NEAR(schedule_factor(config, 0, 100), 1.0 / 25, 1e-12);
  EXPECT_NEAR(schedule_factor(config, 15, 100), (1 + 1.0 / 25) / 2, 1e-12);
  EXPECT_NEAR(schedule_factor(config, 30, 100), 1, 1e-12);
  EXPECT_NEAR(schedule_factor(config, 65, 100), (1 + 1.0 / 25e4) / 2, 1e-12);
  EXPECT_NEAR(schedule_factor(config, 100, 100), 1.0 / 25e4, 1e-12);
}

TEST(Weights, AreWholeAfterErrorsFromOutside) {
  for (const ErrorKind kind : {ErrorKind::kData, ErrorKind::kDisk, ErrorKind::kPeer})
    EXPECT_TRUE(spares_weights(Error(kind, "what", "where")));
  EXPECT_TRUE(spares_weights(std::bad_alloc()));
  EXPECT_FALSE(spares_weights(Error(ErrorKind::kNonFinite, "the loss became NaN", "")));
  EXPECT_FALSE(spares_weights(std::runtime_error("a bug")));
}

TEST(AddEpoch, LetsOldConfusionMatricesGoWhereClassesAndEpochsAreMany) {
  constexpr int64_t kEpochs = 70, kClasses = 255;  // 255 x 255 numbers; 61 of these are below 4 million
  TrainState state;
  state.best_epoch = 3;
  for (int64_t epoch = 1; epoch <= kEpochs; ++epoch) {
    EpochRecord record;
    record.epoch = epoch;
    record.val.emplace().confusion.assign(kClasses, std::vector<int64_t>(kClasses, 1));
    add_epoch(&state, std::move(record));
  }
  ASSERT_EQ(state.history.size(), static_cast<size_t>(kEpochs));
  int64_t kept = 0;
  for (const EpochRecord& record : state.history) kept += !record.val->confusion.empty();
  EXPECT_EQ(kept, 61);
  for (const size_t epoch : {1, 3, 70}) EXPECT_FALSE(state.history[epoch - 1].val->confusion.empty()) << epoch;
  for (const size_t epoch : {2, 4}) EXPECT_TRUE(state.history[epoch - 1].val->confusion.empty()) << epoch;
}

}  // namespace
}  // namespace semiseg
