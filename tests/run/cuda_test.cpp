// What needs a GPU: skipped, and said so, where there is none. `semiseg_tests --gtest_filter='Cuda*'` is all of it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <array>
#include <cstring>

#include "models/layers.h"
#include "models/resampling.h"
#include "models/sync_norm.h"
#include "run/program.h"
#include "semiseg/config.h"
#include "semiseg/device.h"
#include "semiseg/error.h"
#include "semiseg/model.h"
#include "semiseg/ops.h"
#include "strong_view.h"
#include "unit/ops_cases.h"
#include "upload.h"
#ifdef SEMISEG_CUDA
#include "ops/colours_cuda.h"
#endif

namespace semiseg {
namespace {

#define REQUIRE_GPU() \
  if (!torch::cuda::is_available()) GTEST_SKIP() << "there is no CUDA device here"

class CudaOps : public testing::Test {
 protected:
  ~CudaOps() override { use_fused_ops(true); }

  // What `operation` gives in the fused form and in the plain one, both on the GPU.
  template <class Operation>
  static auto both(const Operation& operation) {
    use_fused_ops(true);
    const auto fused = operation();
    use_fused_ops(false);
    return std::pair(fused, operation());
  }
};

const UpsamplingCase kSizes[] = {{"four times", 24, 40, 96, 160}, {"not whole", 17, 23, 64, 91}, {"one to one", 33, 20, 33, 20},
                                 {"smaller", 40, 31, 15, 12},     {"one row", 1, 9, 7, 33},      {"one sample", 1, 1, 9, 8}};

TEST_F(CudaOps, CrossEntropyAndItsGradientAreThePlainOnes) {
  REQUIRE_GPU();
  for (const UpsamplingCase& size : kSizes)
    for (const int64_t K : {6, 19, 27, 150})
      for (const auto& [type, tolerance] :
           {std::pair(at::kFloat, 2e-5), std::pair(at::kHalf, 2e-3), std::pair(at::kBFloat16, 1e-2)})
        for (const bool channels_last : {false, true}) {
          const std::string what =
              str(size.what, ", ", K, " classes, ", at::toString(type), channels_last ? ", channels last" : "");
          auto logits_BKhw = waves({2, K, size.h, size.w}).cuda().to(type);
          if (channels_last) logits_BKhw = logits_BKhw.contiguous(at::MemoryFormat::ChannelsLast);
          const auto label_BHW = labels_of(2, size.H, size.W, K).cuda();
          CrossEntropyOptions options;
          options.weight_K = at::arange(1, K + 1, at::kFloat).cuda() / 7;
          options.pixel_weight_BHW = waves({2, size.H, size.W}).cuda() > 0;
          if (channels_last) options.align_corners = false, options.label_smoothing = 0.1;
          const auto [fused, plain] = both([&] {
            const auto leaf = logits_BKhw.detach().clone().requires_grad_();
            const auto sums = upsample_cross_entropy(leaf, label_BHW, options);
            sums.loss.backward();
            return std::vector<Tensor>{sums.loss.detach(), sums.weight, leaf.grad()};
          });
          expect_close(fused[0].cpu(), plain[0].cpu(), 1e-4, what);
          expect_close(fused[1].cpu(), plain[1].cpu(), 1e-4, what);
          expect_close(fused[2].cpu(), plain[2].cpu(), tolerance, what);
        }
}

TEST_F(CudaOps, WhatIsReadOffThePixelsIsThePlainOne) {
  REQUIRE_GPU();
  for (const UpsamplingCase& size : kSizes)
    for (const int64_t K : {6, 19, 150})
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        const std::string what = str(size.what, ", ", K, " classes, ", at::toString(type));
        const auto logits_BKhw = waves({2, K, size.h, size.w}).cuda().to(type);
        const auto label_BHW = labels_of(2, size.H, size.W, K).cuda();
        const Upsampling to{.H = size.H, .W = size.W};
        const auto [fused, plain] = both([&] {
          const Prediction prediction = upsample_predict(logits_BKhw, to);
          auto counts_KK = at::zeros({K, K}, label_BHW.options());
          upsample_confusion(logits_BKhw, label_BHW, to, counts_KK, /*want_prediction=*/false);
          const auto sum_BKHW = at::zeros({2, K, size.H, size.W}, logits_BKhw.options().dtype(at::kFloat));
          upsample_add_softmax(logits_BKhw, to, sum_BKHW);
          return std::vector<Tensor>{prediction.class_BHW, prediction.confidence_BHW, counts_KK,
                                     upsample_label_probability(logits_BKhw, label_BHW), sum_BKHW};
        });
        // In bfloat16 two of many classes may be as likely as each other but for rounding.
        const auto differing = (fused[0] != plain[0]).sum().item<int64_t>();
        EXPECT_LE(differing, type == at::kFloat ? 0 : 1 + size.H * size.W / 1000) << what;
        EXPECT_LE((fused[2] - plain[2]).abs().sum().item<int64_t>(), 2 * differing) << what;
        for (const size_t i : {1, 3, 4}) expect_close(fused[i].cpu(), plain[i].cpu(), 2e-5, what);
      }
}

TEST_F(CudaOps, StrongViewsAreThoseOfTheHost) {
  REQUIRE_GPU();
#ifdef SEMISEG_CUDA
  constexpr int64_t B = 8, H = 150, W = 203;
  const auto image_BHWC = (waves({B, H, W, 3}) * 127 + 128).clamp(0, 255).to(at::kByte);
  const auto plan_BN = at::zeros({B, ops::colours_cuda::kPlanBytes}, at::kByte);
  const auto wanted_BHWC = at::empty({B, H, W, 3});
  for (int64_t b = 0; b < B; ++b) {
    Random random(5, Purpose::kStrongView, static_cast<uint64_t>(b));
    const ColourPlan plan = draw_strong_view(random);
    std::memcpy(plan_BN[b].data_ptr<uint8_t>(), &plan, sizeof(plan));
    wanted_BHWC[b].copy_(strong_view(image_BHWC[b], plan));
  }
  const auto view_BCHW = ops::colours_cuda::strong_views(image_BHWC.cuda(), plan_BN.cuda(), {1, 1, 1}, {0, 0, 0});
  EXPECT_TRUE(view_BCHW.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(view_BCHW.permute({0, 2, 3, 1}).cpu().equal(wanted_BHWC));
#endif
}

TEST_F(CudaOps, EnlargingAndItsGradientAreThePlainOnes) {
  REQUIRE_GPU();
  for (const auto& [h, w, H, W] : {std::array<int64_t, 4>{25, 25, 50, 50}, {7, 13, 20, 33}, {9, 8, 4, 5}, {1, 1, 6, 7}})
    for (const bool bilinear : {true, false})
      for (const auto& [type, tolerance] :
           {std::pair(at::kFloat, 1e-5), std::pair(at::kHalf, 2e-3), std::pair(at::kBFloat16, 2e-2)}) {
        const std::string what = str(h, " x ", w, " to ", H, " x ", W, bilinear ? ", " : ", nearest, ", at::toString(type));
        const auto map = [&, in = type](int64_t rows, int64_t columns) {
          return waves({2, 32, rows, columns}).cuda().to(in).contiguous(at::MemoryFormat::ChannelsLast);
        };
        const auto x_BChw = map(h, w), sum_BCHW = map(H, W), above_BCHW = map(H, W).flip(1);
        // The plain form in float32.
        const auto run = [&](bool fused) {
          use_fused_ops(fused);
          const auto as = [&](const Tensor& tensor) {
            return tensor.detach().to(fused ? tensor.scalar_type() : at::kFloat).clone().requires_grad_();
          };
          const auto leaf = as(x_BChw), sum = as(sum_BCHW);
          const auto y = bilinear ? enlarge_bilinear(leaf, H, W, sum) : enlarge_nearest(leaf, H, W, sum);
          EXPECT_EQ(y.scalar_type(), leaf.scalar_type());
          y.backward(above_BCHW.to(y.scalar_type()));
          return std::vector<Tensor>{y.detach(), leaf.grad(), sum.grad()};
        };
        const auto fused = run(true), plain = run(false);
        for (size_t i = 0; i < plain.size(); ++i) expect_close(fused[i].cpu(), plain[i].cpu(), tolerance, what + str(", ", i));
      }
}

TEST_F(CudaOps, PoolingAndItsGradientAreThePlainOnes) {
  REQUIRE_GPU();
  for (const auto& [H, W] : {std::pair<int64_t, int64_t>{50, 64}, {33, 17}, {1, 1}})
    for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
      const std::string what = str(H, " x ", W, ", ", at::toString(type));
      const auto x_BCHW = waves({2, 64, H, W}).to(type).contiguous(at::MemoryFormat::ChannelsLast);
      // The plain form on the CPU, in float32.
      const auto run = [&](const Tensor& x, const torch::Device device) {
        const auto leaf = x.to(device).detach().requires_grad_();
        const auto y = max_pool_3x3(leaf);
        y.backward(waves(y.sizes(), 1).to(type).to(y.options()));
        return std::vector<Tensor>{y.detach().cpu(), leaf.grad().cpu()};
      };
      const auto fused = run(x_BCHW, at::Device(at::kCUDA, 0)), plain = run(x_BCHW.to(at::kFloat), at::Device(at::kCPU));
      EXPECT_TRUE(fused[0].to(at::kFloat).equal(plain[0])) << what;
      expect_close(fused[1].to(at::kFloat), plain[1], type == at::kFloat ? 1e-6 : 1e-2, what);
    }
}

TEST_F(CudaOps, PastedPixelsAreThePlainOnes) {
  REQUIRE_GPU();
  constexpr int64_t B = 2, H = 65, W = 131;
  const auto mask_BHW = (waves({B, H, W}) > 0).cuda();
  for (const bool channels_last : {false, true}) {
    const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    const auto image = waves({B, 3, H, W}).cuda().contiguous(format), map = waves({B, H, W}, 1).cuda();
    const std::vector<Tensor> sources{image, map, (map * 9).to(at::kLong), map > 0.3, {}},
        targets{image.flip(0).contiguous(format), map + 1, (map * 8).to(at::kLong), map < 0, map};
    const auto [fused, plain] = both([&] { return paste_where(mask_BHW, sources, targets); });
    for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(fused[i].equal(plain[i])) << i;
    EXPECT_EQ(fused[0].suggest_memory_format(), format);
    EXPECT_FALSE(fused[4].defined());
  }
}

TEST_F(CudaOps, TheKthSmallestIsThatOfASort) {
  REQUIRE_GPU();
  for (const auto& values : {waves({1 << 20}).abs(), 1 - waves({1 << 20}).abs() * 1e-6, at::tensor({0.5F, 0.5F, 0.0F})}) {
    const auto sorted = std::get<0>(values.sort()), on_gpu = values.cuda();
    for (const int64_t k : {int64_t{1}, values.numel() / 3 + 1, values.numel()})
      EXPECT_EQ(kth_smallest(on_gpu, k).item<float>(), sorted[k - 1].item<float>()) << k;
  }
}

TEST_F(CudaOps, CountedClassesAreThePlainOnes) {
  REQUIRE_GPU();
  for (const int64_t K : {3, 19, 5000}) {
    const auto class_BHW = labels_of(2, 300, 500, K - 1).remainder(K).cuda(), mask_BHW = waves({2, 300, 500}).cuda() > 0;
    const auto [fused, plain] = both([&] { return count_classes(class_BHW, mask_BHW, K); });
    EXPECT_TRUE(fused.equal(plain)) << K;
  }
}

TEST_F(CudaOps, CountsOfAClassThatFillsTheImageAreWhole) {
  REQUIRE_GPU();
  const auto logits_BKhw = at::zeros({1, 19, 256, 512}).cuda();
  logits_BKhw.select(1, 3).fill_(1);
  const auto label_BHW = at::full({1, 1024, 2048}, 7, at::kLong).cuda();
  auto counts_KK = at::zeros({19, 19}, label_BHW.options());
  upsample_confusion(logits_BKhw, label_BHW, {.H = 1024, .W = 2048}, counts_KK, false);
  EXPECT_EQ(counts_KK[7][3].item<int64_t>(), 1024 * 2048);
  EXPECT_EQ(counts_KK.sum().item<int64_t>(), 1024 * 2048);
}

// Output, gradients and running statistics of one pass, of a layer with weights that are not alike.
template <class Norm, class Forward>
std::vector<Tensor> pass(const std::shared_ptr<Norm>& layer, const Forward& forward, const Tensor& x_BCHW,
                         const Tensor& residual_BCHW, at::ScalarType type) {
  at::NoGradGuard no_grad;
  for (const auto& item : layer->named_parameters()) item.value().copy_(waves(item.value().sizes().vec()) + 0.4);
  for (const auto& item : layer->named_buffers())
    if (item.key() == "running_mean") item.value().zero_();
  move_module(*layer, at::kCUDA);
  at::AutoGradMode with_gradient(true);
  const auto leaf = [&](const Tensor& values) {
    return values.cuda().to(type).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_();
  };
  const auto x = leaf(x_BCHW), residual = leaf(residual_BCHW);
  const auto y = forward(x, residual);
  y.backward(waves(y.sizes().vec(), 1).flip(2).cuda().to(type));
  std::vector<Tensor> results{y.detach(), x.grad()};
  if (residual.grad().defined()) results.push_back(residual.grad());
  for (const auto& parameter : layer->parameters()) results.push_back(parameter.grad());
  for (const auto& buffer : layer->buffers())
    if (buffer.dim() == 1) results.push_back(buffer);
  return results;
}

// Relative to the whole: where a sum is within rounding of 0, one form's ReLU may let through what the other's does not.
void expect_alike(const std::vector<Tensor>& got, const std::vector<Tensor>& wanted, double tolerance,
                  const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    const auto error = (got[i].to(at::kDouble) - wanted[i].to(at::kDouble)).norm().item<double>();
    EXPECT_LE(error, tolerance * (1 + wanted[i].to(at::kDouble).norm().item<double>())) << what << ", result " << i;
  }
}

struct NormCase {
  int64_t B, C, H, W;
};
// Channels of a fraction of a tile, of one, of several with a rest; one pixel; few and many chunks.
const NormCase kNormCases[] = {{2, 8, 1, 1},    {2, 64, 33, 20}, {3, 256, 7, 9},
                               {1, 320, 16, 8}, {2, 2048, 5, 4}, {4, 64, 120, 160}};

TEST_F(CudaOps, BatchNormalisationWithWhatFollowsIsThePlainOne) {
  REQUIRE_GPU();
  for (const auto& [B, C, H, W] : kNormCases)
    for (const auto& [type, tolerance] :
         {std::pair(at::kFloat, 2e-3), std::pair(at::kHalf, 2e-2), std::pair(at::kBFloat16, 6e-2)})
      for (const int form : {0, 1, 2}) {  // alone, with a ReLU, with a sum and a ReLU
        const auto x = waves({B, C, H, W}) + 3, residual = waves({B, C, H, W}, 1).flip(1);
        const auto [fused, plain] = both([&, type = type] {
          const auto layer = std::make_shared<BatchNorm2d>(C);
          return pass(
              layer,
              [&](const Tensor& a, const Tensor& b) {
                return form == 0 ? layer->forward(a) : layer->forward_relu(a, form == 2 ? b : Tensor());
              },
              x, residual, type);
        });
        expect_alike(fused, plain, tolerance, str(B, " x ", C, " x ", H, " x ", W, ", ", at::toString(type), ", form ", form));
      }
}

TEST_F(CudaOps, BatchNormalisationByRunningStatisticsIsThePlainOne) {
  REQUIRE_GPU();
  at::NoGradGuard no_grad;
  for (const auto& [B, C, H, W] : kNormCases) {
    const auto layer = std::make_shared<BatchNorm2d>(C);
    for (const auto& parameter : layer->parameters()) parameter.copy_(waves(parameter.sizes().vec()));
    for (const auto& item : layer->named_buffers())
      if (item.value().dim() == 1) item.value().copy_(waves({C}).abs() + 0.1);
    move_module(*layer, at::kCUDA);
    layer->eval();
    const auto x = waves({B, C, H, W}).cuda().contiguous(at::MemoryFormat::ChannelsLast);
    const auto [fused, plain] =
        both([&] { return layer->forward_relu(x, x.flip({1}).contiguous(at::MemoryFormat::ChannelsLast)); });
    expect_close(fused.cpu(), plain.cpu(), 1e-5, str(C, " channels"));
  }
}

TEST_F(CudaOps, GroupNormalisationWithWhatFollowsIsThePlainOne) {
  REQUIRE_GPU();
  for (const auto& [type, tolerance] :
       {std::pair(at::kFloat, 2e-3), std::pair(at::kHalf, 2e-2), std::pair(at::kBFloat16, 6e-2)})
    for (const auto& [C, H, W] : {std::array<int64_t, 3>{128, 33, 20}, {128, 1, 2}, {64, 100, 80}, {2048, 5, 4}})
      for (const int form : {0, 1, 2}) {  // alone, with a ReLU, with a sum and a ReLU
        const auto rounded = [of = type](const Tensor& values) { return values.to(of).to(at::kFloat); };
        const auto x = rounded(waves({3, C, H, W}) + 3), residual = rounded(waves({3, C, H, W}, 1).flip(1));
        const auto layer = std::make_shared<GroupNorm2d>(C);
        const auto run = [&](at::ScalarType of_x) {
          for (const auto& parameter : layer->parameters()) parameter.mutable_grad().reset();
          return pass(
              layer,
              [&](const Tensor& a, const Tensor& b) {
                return form == 0 ? layer->forward(a) : layer->forward_relu(a, form == 2 ? b : Tensor());
              },
              x, residual, of_x);
        };
        const auto fused = run(type);
        use_fused_ops(false);
        const auto plain = run(at::kFloat);  // ATen's takes no float16 with weights of float32
        use_fused_ops(true);
        expect_alike(fused, plain, tolerance, str(C, " x ", H, " x ", W, ", ", at::toString(type), ", form ", form));
      }
}

TEST(CudaNetwork, ForwardPassIsTheCpus) {
  REQUIRE_GPU();
  at::globalContext().setAllowTF32CuDNN(false);
  for (const char* decoder : {"fpn", "deeplabv3plus"}) {
    ModelConfig config;
    config.backbone = "resnet18";
    config.decoder = decoder;
    if (config.decoder == "deeplabv3plus") config.output_stride = 16;
    const auto network = make_segmenter(config, 19, /*seed=*/1);
    network->eval();
    at::NoGradGuard no_grad;
    const auto image_N3HW = waves({2, 3, 64, 96}, 1);
    const auto wanted = network->forward(image_N3HW);
    move_module(*network, at::kCUDA);
    expect_close(network->forward(image_N3HW.cuda()).cpu(), wanted, 1e-4, decoder);
  }
  at::globalContext().setAllowTF32CuDNN(true);
}

// Of a process that is alone: sums over the processes are its own.
TEST(CudaSyncBatchNorm, HasTheValuesAndGradientsOfThePlainForm) {
  REQUIRE_GPU();
  for (const auto& [type, tolerance] : {std::pair(at::kFloat, 1e-4), std::pair(at::kBFloat16, 3e-2)}) {
    const auto typed = [type = type](const Tensor& x) {
      return x.to(at::kCUDA).to(type).contiguous(at::MemoryFormat::ChannelsLast);
    };
    const auto x = typed(waves({3, 16, 9, 7}) + 4), above = typed(waves({3, 16, 9, 7}, 1).flip(1));
    std::vector<std::vector<Tensor>> results;
    for (const bool sync : {true, false}) {
      const auto leaf = x.detach().clone().requires_grad_();
      const auto weight = (waves({16}) + 1.5).to(at::kCUDA).requires_grad_(),
                 bias = waves({16}, 1).to(at::kCUDA).requires_grad_();
      const auto mean = at::zeros({16}, bias.options().requires_grad(false)), var = at::ones_like(mean);
      const auto y = sync
                         ? sync_batch_norm(leaf, weight, bias, mean, var, 0.1, 1e-5)
                         : at::batch_norm(leaf, weight, bias, mean, var, /*training=*/true, 0.1, 1e-5, /*cudnn_enabled=*/false);
      y.backward(above);
      results.push_back({y.detach(), leaf.grad(), weight.grad(), bias.grad(), mean, var});
    }
    for (size_t i = 0; i < results[0].size(); ++i)
      expect_close(results[0][i].cpu(), results[1][i].cpu(), tolerance, str("tensor ", i, ", ", at::toString(type)));
  }
}

// Each batch is let go of as soon as its step is queued, which is long before the GPU has come to it.
TEST(CudaUpload, WhatWasSentStaysUntilTheGpuHasUsedIt) {
  REQUIRE_GPU();
  const torch::Device device(at::kCUDA, 0);
  Upload upload(device);
  const auto ones = at::ones({4096, 4096}, at::TensorOptions(device));
  constexpr int64_t kBytes = 1 << 20, kBatches = 20;
  std::vector<Tensor> sums;
  for (int64_t i = 0; i < kBatches; ++i) {
    upload.begin();
    const auto sent = upload.send(at::full({kBytes}, i, at::TensorOptions(at::kByte).pinned_memory(true)));
    upload.finish();
    auto product = ones;
    for (int n = 0; n < 5; ++n) product = at::mm(ones, product) / 4096;
    EXPECT_FALSE(upload.idle());
    sums.push_back(sent.sum() + (product - 1).sum().to(at::kLong));
  }
  wait_for(device);
  EXPECT_TRUE(upload.idle());
  for (int64_t i = 0; i < kBatches; ++i) EXPECT_EQ(sums[static_cast<size_t>(i)].item<int64_t>(), i * kBytes) << i;
}

class CudaRun : public ProgramTest {
 protected:
  CudaRun()
      : ProgramTest(R"(seed: 5
data: {format: synthetic, size: [64, 128], counts: [8, 8, 4], crop: 64}
model: {backbone: resnet18}
semi: {method: fixmatch, threshold: 0.2}
optim: {lr: 0.001, batch_labeled: 2, batch_unlabeled: 2, epochs: 2}
checkpoint: {every_steps: 2}
run: {precision: fp32}
)") {}

  void expect_two_as_one(const std::string& backend, int second_gpu) {
    const std::string train = program() +
                              " train tiny.yaml run.device=cuda model.norm=group model.dropout=0 "
                              "'semi.threshold={kind: class_adaptive, value: 0.9}' distributed.backend=" +
                              backend + " run.dir=";
    ASSERT_EQ(shell(train + "one").code, 0);
    const Outcome both =
        shell(str("export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29618; (RANK=1 LOCAL_RANK=", second_gpu, " ", train,
                  "two & RANK=0 LOCAL_RANK=0 ", train, "two; code=$?; wait $!; echo codes $code $?)"));
    EXPECT_NE(both.output.find("codes 0 0"), std::string::npos) << both.output;
    const auto one = metrics("one"), two = metrics("two");
    ASSERT_EQ(one.size(), two.size());
    for (size_t e = 0; e < one.size(); ++e)
      EXPECT_NEAR(one[e]["train"]["loss"].get<double>(), two[e]["train"]["loss"].get<double>(), 1e-3);
  }
};

TEST_F(CudaRun, LearnsAsOnTheCpu) {
  REQUIRE_GPU();
  // Of four images batch normalisation makes much of rounding: on one processor, with other threads, the loss moves by 5 %.
  for (const char* device : {"cpu", "cuda"}) {
    const Outcome outcome = semiseg(str("train tiny.yaml model.norm=group run.device=", device, " run.name=", device));
    ASSERT_EQ(outcome.code, 0) << outcome.output;
  }
  const auto cpu = metrics("runs/cpu"), cuda = metrics("runs/cuda");
  ASSERT_EQ(cpu.size(), cuda.size());
  for (size_t e = 0; e < cpu.size(); ++e) {
    for (const char* loss : {"loss_supervised", "loss_unsupervised"})
      EXPECT_NEAR(cuda[e]["train"][loss].get<double>(), cpu[e]["train"][loss].get<double>(),
                  0.02 * cpu[e]["train"]["loss_supervised"].get<double>())
          << loss;
    EXPECT_NEAR(cuda[e]["pseudo"]["accepted"].get<double>(), cpu[e]["pseudo"]["accepted"].get<double>(), 0.02);
  }
}

TEST_F(CudaRun, RecordedStepsAreThoseRunOneByOne) {
  REQUIRE_GPU();
  const std::pair<std::string, std::string> kMethods[] = {{"supervised", ""},
                                                          {"pseudo_label", "semi.teacher=ema"},
                                                          {"mean_teacher", ""},
                                                          {"fixmatch", "semi.teacher=ema semi.mix=classmix"},
                                                          {"unimatch", "semi.teacher=twin"},
                                                          {"unimatch_v2", ""},
                                                          {"augseg", "'semi.threshold={kind: quantile, share: 0.5}'"},
                                                          {"cps", "'semi.threshold={kind: class_adaptive}'"}};
  for (const auto& [method, more] : kMethods) {
    const std::string settings = " run.device=cuda run.deterministic=true model.dropout=0.3 semi.method=" + method + " " + more;
    for (const char* graph : {"auto", "off"}) {
      const Outcome outcome =
          semiseg(str("train tiny.yaml run.cuda_graph=", graph, " run.name=", method, "_", graph, settings));
      ASSERT_EQ(outcome.code, 0) << outcome.output;
      const bool recorded = outcome.output.find("recorded as a CUDA graph") != std::string::npos;
      EXPECT_EQ(recorded, std::string(graph) == "auto") << outcome.output;
      EXPECT_EQ(outcome.output.find("cannot be recorded"), std::string::npos) << outcome.output;
    }
    expect_equal(tensors("runs/" + method + "_auto/checkpoints/last.safetensors"),
                 tensors("runs/" + method + "_off/checkpoints/last.safetensors"));
  }
}

// Gloo serves two processes that share a GPU, as NCCL does not: what is added on the host and brought back.
TEST_F(CudaRun, TwoProcessesTrainAsOneDoes) {
  REQUIRE_GPU();
  expect_two_as_one("gloo", /*second_gpu=*/0);
}

TEST_F(CudaRun, TwoGpusTrainAsOneDoes) {
  if (torch::cuda::device_count() < 2) GTEST_SKIP() << "there are no two CUDA devices here";
  expect_two_as_one("nccl", /*second_gpu=*/1);
}

// Stopped within an epoch and gone on with, in every precision.
TEST_F(CudaRun, ResumesToTheBit) {
  REQUIRE_GPU();
  for (const std::string precision : {"fp32", "bf16", "fp16"}) {
    const std::string settings = " run.device=cuda run.deterministic=true run.precision=" + precision;
    const Outcome whole = semiseg("train tiny.yaml run.name=whole-" + precision + settings);
    ASSERT_EQ(whole.code, 0) << whole.output;
    const Outcome part = semiseg("train tiny.yaml run.name=part-" + precision + settings);
    ASSERT_EQ(part.code, 0) << part.output;
    // Back to the checkpoint of step 6, within the second epoch.
    for (const char* newer : {"last", "best", "step_00000008"})
      std::filesystem::remove(dir_ + "/runs/part-" + precision + "/checkpoints/" + newer + ".safetensors");
    const Outcome resumed = semiseg("train --resume runs/part-" + precision);
    ASSERT_EQ(resumed.code, 0) << resumed.output;
    expect_equal(tensors("runs/whole-" + precision + "/checkpoints/last.safetensors"),
                 tensors("runs/part-" + precision + "/checkpoints/last.safetensors"));
  }
}

}  // namespace
}  // namespace semiseg
