#include <ATen/ATen.h>

#include <limits>

#include "methods/parts.h"
#include "models/layers.h"
#include "semiseg/device.h"
#include "semiseg/pseudo_label.h"
#include "semiseg/random.h"

namespace semiseg {
namespace {

// What the authors set for Cityscapes and Pascal VOC (Haochen-Wang409/U2PL, config.yaml).
constexpr double kUnreliableShare = 0.2;    // of the pixels, by entropy, are no labels at the start; less and less later
constexpr double kLowEntropyShare = 0.2;    // of the unlabelled pixels that anchors and prototypes come from, and negatives
constexpr double kAnchorProbability = 0.3;  // an anchor's least probability of its class
constexpr int64_t kLowRank = 3, kHighRank = 20;  // classes ranked from here to there are what an unsure pixel is not
constexpr int64_t kAnchors = 256, kNegatives = 50, kChannels = 256;
constexpr int64_t kNewKeys = 256;    // negatives that a class gets at most in one step
constexpr int64_t kBankSize = 2000;  // negatives kept per class; published: 30000, which is 0.6 GB for 19 classes
constexpr double kTemperature = 0.5;

// Decoder features -> 256 channels that the contrastive loss compares: two 3x3 convolutions and a 1x1.
class Projector : public torch::nn::Module {
 public:
  explicit Projector(int64_t in)
      : layers_(register_module("layers",
                                std::make_shared<Sequential>(std::vector<std::shared_ptr<Layer>>{
                                    std::make_shared<Conv2d>(in, kChannels, 3, ConvOptions{.padding = 1, .bias = true}),
                                    std::make_shared<BatchNorm2d>(kChannels), std::make_shared<ReLU>(),
                                    std::make_shared<Conv2d>(kChannels, kChannels, 3, ConvOptions{.padding = 1, .bias = true}),
                                    std::make_shared<BatchNorm2d>(kChannels), std::make_shared<ReLU>(),
                                    std::make_shared<Conv2d>(kChannels, kChannels, 1, ConvOptions{.bias = true})}))) {}

  Tensor forward(const Tensor& x_BChw) { return layers_->forward(x_BChw); }

 private:
  std::shared_ptr<Sequential> layers_;
};

// The newest negatives of each class, as rings. One more place than kBankSize takes what is not to be kept, so that nothing
// depends on counts that the host would have to read.
class MemoryBank : public torch::nn::Module {
 public:
  explicit MemoryBank(int64_t num_classes)
      : key_KQD_(register_buffer("keys", at::zeros({num_classes, kBankSize + 1, kChannels}))),
        next_K_(register_buffer("next", at::zeros({num_classes}, at::kLong))),
        filled_K_(register_buffer("filled", at::zeros({num_classes}, at::kLong))) {}

  // key_KED with valid_KE: which of them exist.
  void add(const Tensor& key_KED, const Tensor& valid_KE) {
    const auto order_KE = valid_KE.to(at::kLong).cumsum(1) - 1;
    const auto place_KE = at::where(valid_KE, (next_K_.unsqueeze(1) + order_KE).remainder(kBankSize), kBankSize);
    // By rows: scatter_ reads sizes back from a GPU in deterministic mode, as gather's gradient does below.
    const auto row_KE = place_KE + at::arange(place_KE.size(0), place_KE.options()).unsqueeze(1) * (kBankSize + 1);
    key_KQD_.view({-1, kChannels})
        .index_copy_(0, row_KE.flatten(), key_KED.reshape({-1, kChannels}).to(key_KQD_.scalar_type()));
    key_KQD_.select(1, kBankSize).zero_();  // where what is not to be kept has come in no certain order
    const auto count_K = valid_KE.sum(1);
    next_K_.copy_((next_K_ + count_K).remainder(kBankSize));
    filled_K_.copy_((filled_K_ + count_K).clamp_max(kBankSize));
  }

  const Tensor& keys() const { return key_KQD_; }     // [K, kBankSize + 1, kChannels]
  const Tensor& filled() const { return filled_K_; }  // [K]

 private:
  Tensor key_KQD_, next_K_, filled_K_;
};

// Value below which `share` of the values under the mask lie, [1]; +infinity where there are none.
Tensor percentile(const Tensor& value, const Tensor& mask, double share) {
  const auto sorted = std::get<0>(at::where(mask, value, std::numeric_limits<float>::infinity()).flatten().sort());
  const auto last = (mask.sum() - 1).clamp_min(0).to(at::kDouble);
  return sorted.gather(0, (last * share).to(at::kLong).view({1}));
}

Tensor entropy(const Tensor& probability_BKhw) { return -(probability_BKhw * (probability_BKhw + 1e-10).log()).sum(1); }

Tensor unit(const Tensor& x_D) { return x_D / x_D.norm(2, -1, /*keepdim=*/true).clamp_min(1e-8); }

// Uniform draws in [0, 1), float32.
Tensor draws(uint64_t seed, int64_t step, uint32_t stream, std::vector<int64_t> shape, torch::Device device) {
  const auto host = at::empty(shape, at::TensorOptions(at::kFloat).pinned_memory(device.is_cuda()));
  Random random(seed, Purpose::kContrast, static_cast<uint64_t>(step), stream);
  float* values = host.data_ptr<float>();
  for (int64_t i = 0; i < host.numel(); ++i) values[i] = static_cast<float>(random.next() >> 8) * 0x1p-24f;
  return host.to(device, /*non_blocking=*/true);
}

// U2PL (Wang et al., "Semi-supervised semantic segmentation using unreliable pseudo-labels", CVPR 2022): the teacher's unsure
// pixels are no labels, but they are negatives for the classes that they are certainly not.
//
//   L = L_x + w (L_u + w_c L_c)
//   L_u  cross-entropy with the teacher's labels on pixels below an entropy percentile that rises over the run, weighted by
//        all pixels / kept pixels
//   L_c  InfoNCE for each class: anchors are sure pixels of the class, the positive is the class's mean feature of the teacher,
//        negatives are drawn from a memory bank of unsure (and, in labelled images, confused) pixels that are not the class
//
// Differences to the published code: burn-in and ramp-up hold for L_c too, and there is no burn-in by default (one epoch there,
// after which the teacher begins as the student; its Cityscapes recipe for a quarter of the labels has none); the percentiles
// move with every step, not every epoch; anchors are drawn without replacement; the strong view has changed colours besides
// CutMix; the teacher predicts in eval mode, its projector in train mode; CutMix takes UniMatch's boxes and a second draw of
// images; entropies are taken at the logits' stride; a class's bank keeps kBankSize negatives; negatives of labelled images are
// as in the paper (the code asks them to be of the class and not of it, so it has none), and so are those of unlabelled ones
// (the code has them only where two passes of the teacher disagree); L_c is the mean over the classes that have an anchor and a
// negative; the features are the decoder's last, without dropout; the teacher averages statistics of batch normalisation, too;
// there is no auxiliary loss. With three classes or fewer no unsure pixel is ranked low enough to be a negative: only labelled
// ones are. semi.undo_class_bias takes what class weights add to rare classes out of labels, entropies and ranks.
class U2pl : public Method {
 public:
  U2pl(const SemiConfig& config, const MethodParts& parts)
      : config_(config),
        loss_(parts.supervised_loss),
        num_classes_(parts.num_classes),
        seed_(parts.seed),
        unsupervised_loss_(over_accepted(config), parts),
        student_(register_module("student", parts.make_network(0))),
        teacher_(register_module("teacher", parts.make_network(0)), config.ema_decay),
        projector_(register_module("projector", std::make_shared<Projector>(student_->decoder_channels()))),
        teacher_projector_(register_module("teacher_projector", std::make_shared<Projector>(student_->decoder_channels()))),
        labeler_(register_module("labeler", make_labeler(config, parts))),
        bank_(register_module("bank", std::make_shared<MemoryBank>(num_classes_))) {
    for (auto* projector : {projector_.get(), teacher_projector_.get()})
      initialize_parameters(*projector, "projector.", parts.seed);
    frozen(teacher_projector_);
    // By the batch's own statistics, as the student's: running ones, which begin at 0 and 1, would make all keys alike for
    // long.
    teacher_projector_->train();
  }

  BatchNeeds needs() const override {
    return {.unlabeled = true,
            .strong_views = 1,
            .mix = config_.mix != "none",
            .random_strong_view = config_.strong_view == "random"};
  }
  bool trains_together() const override { return false; }  // each would keep negatives of its own images
  Segmenter& predictor() override { return teacher_.network(); }
  Segmenter& student() override { return *student_; }
  std::vector<NamedModule> trained() override { return {{"student", student_.get()}, {"projector", projector_.get()}}; }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& unlabeled = batch.unlabeled;
    const int64_t labeled = image_BCHW.size(0), B = unlabeled.weak_BCHW.size(0);
    const double weight = unsupervised_weight(config_, progress);

    // The teacher's labels of the weak view, and the strong view, mixed alike.
    auto labels = labeler_->label(predict_logits(teacher_.network(), unlabeled.weak_BCHW), unlabeled);
    auto strong_BCHW = unlabeled.strong_BCHW.at(0);
    if (needs().mix) {
      const auto mix = labeler_->label(predict_logits(teacher_.network(), batch.mix.weak_BCHW), batch.mix);
      const auto mask_BHW = mix_mask(config_.mix, mix, unlabeled, 0);
      const auto mixed = paste(mask_BHW, LabelledView{batch.mix.strong_BCHW.at(0), mix}, {strong_BCHW, labels});
      strong_BCHW = mixed.image_BCHW;
      labels = mixed.labels;
    }

    const auto all_BCHW = at::cat({image_BCHW, strong_BCHW});
    const auto features_BChw = student_->decode_features(student_->encode(all_BCHW));
    const auto logits_BKhw = student_->classify(features_BChw);
    Tensor probability_BKhw, key_BDhw;  // of the teacher on the same images
    {
      at::NoGradGuard no_grad;
      auto& teacher = teacher_.network();
      const auto teacher_BChw = teacher.decode_features(teacher.encode(all_BCHW));
      probability_BKhw = labeler_->correct(teacher.classify(teacher_BChw)).to(at::kFloat).softmax(1);
      key_BDhw = teacher_projector_->forward(teacher_BChw).to(at::kFloat);
    }
    const auto supervised = loss_(logits_BKhw.narrow(0, 0, labeled), label_BHW);

    // Labels and validity at the logits' stride; labelled images first.
    const int64_t h = logits_BKhw.size(2), w = logits_BKhw.size(3);
    const auto shrink = [&](const Tensor& x_BHW) {
      return at::upsample_nearest2d(x_BHW.unsqueeze(1).to(at::kFloat), {h, w}).squeeze(1).to(at::kLong);
    };
    const auto pseudo_Bhw = shrink(at::where(labels.valid_BHW, labels.class_BHW, kIgnore));
    const auto label_Bhw = at::cat({shrink(label_BHW), pseudo_Bhw});
    const auto entropy_Bhw = entropy(probability_BKhw);
    const auto unsure_Bhw = entropy_Bhw.narrow(0, labeled, B);
    const auto valid_Bhw = pseudo_Bhw != kIgnore;

    // Below the percentile a pixel is a label. The unreliable share shrinks to 0 over the run.
    const double left = share_left(progress);
    const auto accepted_BHW = reliable(unsure_Bhw, valid_Bhw, labels.valid_BHW, left);
    const auto valid_share = labels.valid_BHW.sum().to(at::kFloat);
    const auto kept = accepted_BHW.sum().to(at::kFloat).clamp_min(1);
    const auto unsupervised =
        unsupervised_loss_(logits_BKhw.narrow(0, labeled, B), labels, accepted_BHW) * (valid_share / kept);

    const auto sure_Bhw =
        at::cat({label_Bhw.narrow(0, 0, labeled) != kIgnore,
                 (unsure_Bhw <= percentile(unsure_Bhw, valid_Bhw, kLowEntropyShare * left)).logical_and(valid_Bhw)});
    const auto confused_Bhw =
        at::cat({label_Bhw.narrow(0, 0, labeled) != kIgnore,
                 (unsure_Bhw >= percentile(unsure_Bhw, valid_Bhw, 1 - kLowEntropyShare * left)).logical_and(valid_Bhw)});
    const auto contrast = contrastive_loss(projector_->forward(features_BChw), key_BDhw, probability_BKhw, label_Bhw, sure_Bhw,
                                           confused_Bhw, labeled, progress.step);

    auto out = step_output(supervised + weight * (unsupervised + config_.contrast_weight * contrast), supervised, unsupervised,
                           labels, accepted_BHW, num_classes_);
    out.scalars["loss_contrast"] = contrast.detach();
    return out;
  }

  void after_update(const Progress& progress) override {
    teacher_.follow(*student_, progress.step);
    follow_as_average(*teacher_projector_, *projector_, config_.ema_decay, progress.step);
  }

  // By the entropies of the weak views themselves, unmixed.
  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress& progress) override {
    const auto logits_BKhw = labeler_->correct(predict_logits(teacher_.network(), images.weak_BCHW));
    const auto labels = make_pseudo_labels(logits_BKhw, images.valid_BHW, images.truth_BHW);
    const auto valid_Bhw =
        at::upsample_nearest2d(images.valid_BHW.unsqueeze(1).to(at::kFloat), {logits_BKhw.size(2), logits_BKhw.size(3)})
            .squeeze(1)
            .to(at::kBool);
    const auto entropy_Bhw = entropy(logits_BKhw.to(at::kFloat).softmax(1));
    return AcceptedLabels{labels.class_BHW, reliable(entropy_Bhw, valid_Bhw, labels.valid_BHW, share_left(progress))};
  }

 private:
  // The loss is scaled by all / kept pixels here, so that semi.normalize is not read.
  static SemiConfig over_accepted(SemiConfig config) {
    config.normalize = "accepted";
    return config;
  }

  // Of the run: 1 at its beginning, 0 at its end.
  static double share_left(const Progress& progress) {
    return 1 - static_cast<double>(progress.step) / static_cast<double>(progress.total_steps);
  }

  // bool [B, H, W]: below the percentile, whose unreliable share shrinks with the share of the run that is left.
  static Tensor reliable(const Tensor& entropy_Bhw, const Tensor& valid_Bhw, const Tensor& valid_BHW, double left) {
    const auto reliable_Bhw =
        (entropy_Bhw < percentile(entropy_Bhw, valid_Bhw, 1 - kUnreliableShare * left)).logical_and(valid_Bhw);
    return at::upsample_nearest2d(reliable_Bhw.unsqueeze(1).to(at::kFloat), {valid_BHW.size(1), valid_BHW.size(2)})
        .squeeze(1)
        .to(at::kBool)
        .logical_and(valid_BHW);
  }

  // All at the logits' stride. `sure_Bhw`: pixels that anchors and prototypes come from; `confused_Bhw`: negatives.
  Tensor contrastive_loss(const Tensor& query_BDhw, const Tensor& key_BDhw, const Tensor& probability_BKhw,
                          const Tensor& label_Bhw, const Tensor& sure_Bhw, const Tensor& confused_Bhw, int64_t labeled,
                          int64_t step) {
    const Autocast none(label_Bhw.device(), Precision::kFp32);  // sums over all pixels exceed what float16 holds
    const int64_t K = num_classes_, N = label_Bhw.numel();
    const auto by_pixel = [](const Tensor& x_BChw) { return x_BChw.permute({0, 2, 3, 1}).reshape({-1, x_BChw.size(1)}); };
    const auto query_ND = by_pixel(query_BDhw.to(at::kFloat)), key_ND = by_pixel(key_BDhw);
    const auto probability_KN = by_pixel(probability_BKhw).t().contiguous();
    const auto class_K1 = at::arange(K, label_Bhw.options()).unsqueeze(1);
    const auto is_class_KN = label_Bhw.view({1, N}) == class_K1;
    const auto sure_KN = is_class_KN.logical_and(sure_Bhw.view({1, N}));

    // The class's mean teacher feature.
    const auto sum_KD = sure_KN.to(at::kFloat).matmul(key_ND);
    const auto prototype_KD = sum_KD / sure_KN.sum(1, /*keepdim=*/true).clamp_min(1);

    // Random order of pixels: the first ones that qualify are taken.
    const auto order_1N = draws(seed_, step, 0, {1, N}, label_Bhw.device());
    const auto choose = [&](const Tensor& mask_KN, int64_t most) {
      const auto [value_KM, index_KM] = at::where(mask_KN, order_1N, -1.0).topk(std::min(most, N), 1);
      return std::pair(index_KM, value_KM >= 0);
    };
    const auto gather = [&](const Tensor& from_ND, const Tensor& index_KM) {
      return from_ND.index_select(0, index_KM.flatten()).view({K, index_KM.size(1), -1});
    };

    // New negatives: unsure pixels whose class is ranked too low to be it; labelled pixels of another class that the teacher
    // confuses with it.
    {
      at::NoGradGuard no_grad;
      const auto rank_KN = probability_KN.argsort(/*stable=*/true, 0, /*descending=*/true).argsort(/*stable=*/true, 0, false);
      const auto is_labeled_1N = (at::arange(label_Bhw.size(0), label_Bhw.options()) < labeled)
                                     .view({-1, 1})
                                     .expand({label_Bhw.size(0), N / label_Bhw.size(0)})
                                     .reshape({1, N});
      const auto excluded_KN = at::where(is_labeled_1N, (rank_KN < kLowRank).logical_and(is_class_KN.logical_not()),
                                         (rank_KN >= kLowRank).logical_and(rank_KN < kHighRank));
      const auto [index_KE, valid_KE] = choose(excluded_KN.logical_and(confused_Bhw.view({1, N})), kNewKeys);
      bank_->add(gather(key_ND, index_KE), valid_KE);
    }

    const auto [index_KM, valid_KM] = choose(sure_KN.logical_and(probability_KN > kAnchorProbability), kAnchors);
    const int64_t M = index_KM.size(1);
    const auto anchor_KMD = unit(gather(query_ND, index_KM));
    const auto positive_KM1 = anchor_KMD.matmul(unit(prototype_KD).unsqueeze(2));
    // Similarity to the whole bank, of which each anchor takes its negatives.
    const auto bank_KQ = anchor_KMD.matmul(unit(bank_->keys()).transpose(1, 2));  // [K, M, Q + 1]
    const auto filled_K11 = bank_->filled().view({K, 1, 1});
    const auto pick_KMS = (draws(seed_, step, 1, {K, M, kNegatives}, label_Bhw.device()) * filled_K11).to(at::kLong);
    const int64_t places = bank_KQ.size(2);
    const auto row_KM1 = at::arange(0, K * M * places, places, pick_KMS.options()).view({K, M, 1});
    const auto negative_KMS = bank_KQ.flatten().index_select(0, (row_KM1 + pick_KMS).flatten()).view_as(pick_KMS);
    const auto logits_KMS = at::cat({positive_KM1, negative_KMS}, 2) / kTemperature;
    const auto loss_KM = logits_KMS.logsumexp(2) - logits_KMS.select(2, 0);

    const auto counted_KM = valid_KM.logical_and(filled_K11.squeeze(2) > 0).to(at::kFloat);
    const auto loss_K = (loss_KM * counted_KM).sum(1) / counted_KM.sum(1).clamp_min(1);
    const auto classes = (counted_KM.sum(1) > 0).sum();
    return loss_K.sum() / classes.clamp_min(1);
  }

  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  uint64_t seed_;
  UnsupervisedLoss unsupervised_loss_;
  std::shared_ptr<Segmenter> student_;
  EmaTeacher teacher_;
  std::shared_ptr<Projector> projector_, teacher_projector_;
  std::shared_ptr<Labeler> labeler_;  // without the class bias where semi.undo_class_bias is set; no other part is read
  std::shared_ptr<MemoryBank> bank_;
};

const bool kRegistered = methods().add(
    "u2pl", [](const SemiConfig& config, const MethodParts& parts) { return std::make_shared<U2pl>(config, parts); });

}  // namespace
}  // namespace semiseg
