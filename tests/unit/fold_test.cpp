#include "fold.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "../parity/smp_formula.h"
#include "models/layers.h"

namespace semiseg {
namespace {

// weight 2; BatchNorm with weight 3, bias 1, mean 4, standard deviation 2: 3 / 2 (y - 4) + 1 = 1.5 y - 5.
TEST(Fold, GivesTheWeightAndBiasComputedByHand) {
  for (const bool with_bias : {false, true}) {
    at::NoGradGuard no_grad;
    const auto convolution = std::make_shared<Conv2d>(1, 1, 1, ConvOptions{.bias = with_bias});
    const auto norm = std::make_shared<BatchNorm2d>(1);
    convolution->named_parameters()["weight"].fill_(2);
    if (with_bias) convolution->named_parameters()["bias"].fill_(10);
    norm->named_parameters()["weight"].fill_(3);
    norm->named_parameters()["bias"].fill_(1);
    norm->named_buffers()["running_mean"].fill_(4);
    norm->named_buffers()["running_var"].fill_(4 - 1e-5);
    Sequential both({convolution, norm});
    both.eval();
    fold_batch_norms(both);
    const auto parameters = both.named_parameters();
    EXPECT_EQ(parameters.size(), 2u);
    EXPECT_FLOAT_EQ(parameters["0.weight"].item<float>(), 3);
    EXPECT_FLOAT_EQ(parameters["0.bias"].item<float>(), with_bias ? 10 : -5);
    EXPECT_EQ(both.named_buffers().size(), 0u);
    EXPECT_FLOAT_EQ(both.forward(at::full({1, 1, 1, 1}, 7.0f)).item<float>(), with_bias ? 31 : 16);
  }
}

TEST(Fold, LeavesANormalisationAloneThatFollowsNoConvolution) {
  Sequential layers({std::make_shared<BatchNorm2d>(2), std::make_shared<Conv2d>(2, 2, 1), std::make_shared<ReLU>(),
                     std::make_shared<BatchNorm2d>(2)});
  fold_batch_norms(layers);
  EXPECT_TRUE(layers.named_parameters().contains("0.weight"));
  EXPECT_TRUE(layers.named_parameters().contains("3.weight"));
  EXPECT_FALSE(layers.named_parameters().contains("1.bias"));
}

TEST(Fold, KeepsTheLogitsOfWholeNetworks) {
  for (const std::string decoder : {"fpn", "deeplabv3plus"}) {
    ModelConfig config;
    config.backbone = "resnet18";
    config.decoder = decoder;
    config.output_stride = decoder == "fpn" ? 32 : 16;
    const auto network = bare_network(config);
    fill(*network, /*damping=*/0.4);
    network->eval();
    at::NoGradGuard no_grad;
    const auto image_BCHW = noise("image", {2, 3, 64, 96}).to(at::kFloat);
    const auto logits_BKhw = network->forward(image_BCHW);
    EXPECT_GT(network->named_buffers().size(), 0u);
    fold_batch_norms(*network);
    EXPECT_LT((network->forward(image_BCHW) - logits_BKhw).abs().max().item<double>(), 5e-5) << decoder;
    for (const auto& buffer : network->named_buffers()) ADD_FAILURE() << decoder << " " << buffer.key() << " is left";
  }
}

}  // namespace
}  // namespace semiseg
