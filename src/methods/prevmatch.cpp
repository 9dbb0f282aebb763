#include <ATen/ATen.h>

#include <cmath>

#include "methods/parts.h"
#include "models/layers.h"
#include "semiseg/pseudo_label.h"
#include "semiseg/random.h"

namespace semiseg {
namespace {

// Past students that were the best of their time, the oldest replaced first; they vote as a randomised ensemble.
class PastModels {
 public:
  // Registers networks with `owner` as "history_0", "history_1", ... and, so that a resumed run goes on with them, the counters
  // as "history".
  PastModels(const SemiConfig& config, const MethodParts& parts, torch::nn::Module& owner) : seed_(parts.seed) {
    for (int64_t i = 0; i < config.history; ++i) {
      networks_.push_back(owner.register_module("history_" + std::to_string(i), frozen(parts.make_network(0))));
    }
    const auto counters = owner.register_module("history", std::make_shared<torch::nn::Module>("history"));
    stored_1_ = counters->register_buffer("stored", at::zeros({1}, at::kLong));
    best_1_ = counters->register_buffer("best_miou", at::zeros({1}, at::kFloat));
    written_ = version();
  }

  // Keeps a copy of the student if no epoch before has reached its mIoU.
  void offer(const Segmenter& student, double miou) {
    read_counters();
    const auto score = static_cast<float>(miou);  // as precise as what is saved
    if (score <= best_) return;
    copy_module(student, *networks_[static_cast<size_t>(stored_ % size())]);
    best_ = score;
    ++stored_;
    stored_1_.fill_(stored_);
    best_1_.fill_(best_);
    written_ = version();
  }

  // Weighted sum of the logits of one to three models, at the network's stride; undefined while there is none. How many, which,
  // and their weights, Dirichlet(1, ..., 1), are drawn once a step.
  Tensor predict(const Tensor& image_BCHW, int64_t step) {
    read_counters();
    const int64_t kept = std::min(stored_, size());
    if (kept == 0) return {};
    Random random(seed_, Purpose::kEnsemble, static_cast<uint64_t>(step));
    const int64_t voters = std::min(1 + random.below(kMostVoters), kept);
    const auto order = random.permutation(kept);
    std::vector<double> weights;
    double total = 0;
    for (int64_t i = 0; i < voters; ++i) total += weights.emplace_back(-std::log1p(-random.uniform()));

    Tensor sum_BKhw;
    for (size_t i = 0; i < weights.size(); ++i) {
      const double weight = voters == 1 ? 1.0 : weights[i] / total;
      auto& network = *networks_[static_cast<size_t>(order[i])];
      const auto vote_BKhw = predict_logits(network, image_BCHW).to(at::kFloat).mul_(weight);
      sum_BKhw = sum_BKhw.defined() ? sum_BKhw.add_(vote_BKhw) : vote_BKhw;
    }
    return sum_BKhw;
  }

 private:
  static constexpr int64_t kMostVoters = 3;

  int64_t size() const { return static_cast<int64_t>(networks_.size()); }
  int64_t version() const { return static_cast<int64_t>(stored_1_._version()) + static_cast<int64_t>(best_1_._version()); }

  // The step works with the host's own copy of the counters. It is read from the device only where others have written there:
  // once, after a checkpoint was restored.
  void read_counters() {
    if (version() == written_) return;
    stored_ = stored_1_.item<int64_t>();
    best_ = best_1_.item<float>();
    written_ = version();
  }

  uint64_t seed_;
  std::vector<std::shared_ptr<Segmenter>> networks_;  // a ring: model n of all that were ever stored is in slot n % size
  Tensor stored_1_, best_1_;                          // the counters that are saved
  int64_t stored_ = 0;
  float best_ = 0;
  int64_t written_ = 0;  // version() of the counters that this copy holds
};

// PrevMatch (Shin et al., 2024; wooseok-shin/PrevMatch, prevmatch.py): UniMatch (fixmatch.cpp), whose strong views and dropped
// features also learn labels of past models, from the same passes of the student.
//
//   L = (L_x + w (L_u + r L_p)) / (2 + r),   or UniMatch's (L_x + w L_u) / 2 while no model is stored
//   L_u  UniMatch's unsupervised loss
//   L_p  the same with the labels of a randomised ensemble of past models, mixed by the same boxes
//   r    rises from 0 at the first epoch to 1 at the middle of the run and falls again: e / E, E = T div 2, then
//        1 - (e - E) / (T - E)
//
// A model is stored after each evaluated epoch whose mIoU on the validation list is the best so far (the published code
// evaluates every epoch: eval.every: 1); semi.history are kept. In L_p a confidence of .9 is enough, or semi.threshold where
// that asks for less. The published recipe for Cityscapes has no threshold there, but weighs each image by its mean confidence.
// Its code multiplies the batch's sum by these one by one, so that L_p counts as often as a GPU has images, times their mean
// confidence: some 4 times at 4 images. That is not done. Where semi.align_distribution is set, the ensemble's predictions are
// aligned as the student's are.
class PrevMatch : public Method {
 public:
  PrevMatch(const SemiConfig& config, const MethodParts& parts)
      : config_(config),
        loss_(parts.supervised_loss),
        num_classes_(parts.num_classes),
        unsupervised_loss_(config, parts),
        student_(register_module("student", parts.make_network(0))),
        labeler_(register_module("labeler", make_labeler(config, parts))) {
    if (config.feature_dropout > 0)
      dropout_ = register_module("feature_dropout", std::make_shared<Dropout2d>(config.feature_dropout));
    past_.emplace(config, parts, *this);  // last, so that the dropout layers before draw as UniMatch's do
  }

  BatchNeeds needs() const override {
    return {.unlabeled = true,
            .strong_views = static_cast<int>(config_.views),
            .mix = config_.mix != "none",
            .random_strong_view = config_.strong_view == "random"};
  }
  Segmenter& predictor() override { return *student_; }
  Segmenter& student() override { return *student_; }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& unlabeled = batch.unlabeled;
    const int64_t B = unlabeled.weak_BCHW.size(0);
    const bool mixing = config_.mix != "none";

    // Labels to mix in, and those of past models, in eval mode.
    Tensor mix_BKhw;
    if (mixing) mix_BKhw = predict_logits(*student_, batch.mix.weak_BCHW);
    const auto past_BKhw =
        past_->predict(mixing ? at::cat({unlabeled.weak_BCHW, batch.mix.weak_BCHW}) : unlabeled.weak_BCHW, progress.step);

    const auto pass = first_pass(*student_, image_BCHW, unlabeled.weak_BCHW, dropout_.get(), /*wants_weak=*/true);
    Labels own{labeler_->observe(pass.weak_BKhw, unlabeled), {}};
    if (mixing) own.mix = labeler_->label(mix_BKhw, batch.mix);

    // By its own labels and by those of past models: L_u and L_p, each the mean over views, or (that + dropped features) / 2.
    Labels past{};
    double r = 0;
    if (past_BKhw.defined()) {
      r = past_weight(progress);
      past.weak = labeler_->label(past_BKhw.narrow(0, 0, B), unlabeled);
      if (mixing) past.mix = labeler_->label(past_BKhw.narrow(0, B, B), batch.mix);
    }
    const auto loss_by_own = [&](const Tensor& student_BKhw, const PseudoLabels& of) {
      return unsupervised_loss_(student_BKhw, of, labeler_->accept(of));
    };
    const auto loss_by_past = [&](const Tensor& student_BKhw, const PseudoLabels& of) {
      const auto accepted_BHW =
          labeler_->accept(of).logical_or((of.confidence_BHW >= kPastConfidence).logical_and(of.valid_BHW));
      return unsupervised_loss_(student_BKhw, of, accepted_BHW);
    };
    const double weight = unsupervised_weight(config_, progress);

    // The first pass' part of the loss.
    const auto supervised = loss_(pass.labeled_BKhw, label_BHW);
    auto first_part = supervised / (2 + r);
    Tensor dropped;
    if (dropout_) {
      dropped = loss_by_own(pass.dropped_BKhw, own.weak);
      if (past_BKhw.defined()) dropped = dropped + r * loss_by_past(pass.dropped_BKhw, past.weak);
      first_part = first_part + weight * dropped / (2 * (2 + r));
    }
    first_part = learned(first_part);

    // Strong views, mixed, in one pass.
    std::vector<Tensor> strong = unlabeled.strong_BCHW, mask_BHW;
    for (size_t view = 0; mixing && view < strong.size(); ++view) {
      mask_BHW.push_back(mix_mask(config_.mix, *own.mix, unlabeled, view));
      strong[view] = paste(mask_BHW[view], batch.mix.strong_BCHW[view], strong[view]);
    }
    const auto strong_BKhw = student_->forward(at::cat(strong));
    Tensor unsupervised;
    for (size_t view = 0; view < strong.size(); ++view) {
      const auto view_BKhw = strong_BKhw.narrow(0, static_cast<int64_t>(view) * B, B);
      const auto mixed = [&](const Labels& labels) {
        return mixing ? paste(mask_BHW[view], *labels.mix, labels.weak) : labels.weak;
      };
      auto loss = loss_by_own(view_BKhw, mixed(own));
      if (past_BKhw.defined()) loss = loss + r * loss_by_past(view_BKhw, mixed(past));
      unsupervised = unsupervised.defined() ? unsupervised + loss : loss;
    }
    unsupervised = unsupervised / static_cast<double>(strong.size());
    const auto second_part = weight * unsupervised / ((dropout_ ? 2 : 1) * (2 + r));
    if (dropout_) unsupervised = (unsupervised + dropped) / 2;

    return step_output(first_part + second_part, supervised, unsupervised, own.weak, labeler_->accept(own.weak), num_classes_);
  }

  // The student's own, as in UniMatch; past models label too while one is stored.
  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress&) override {
    return accepted_labels(*labeler_, predict_logits(*student_, images.weak_BCHW), images);
  }

  void end_epoch(const Progress&, std::optional<double> miou) override {
    if (miou) past_->offer(*student_, *miou);
  }

 private:
  static constexpr double kPastConfidence = 0.9;

  // One teacher's labels of the weak view and of the images that are mixed in.
  struct Labels {
    PseudoLabels weak;
    std::optional<PseudoLabels> mix;
  };

  // r of the step's epoch.
  static double past_weight(const Progress& progress) {
    const int64_t epochs = (progress.total_steps + progress.steps_per_epoch - 1) / progress.steps_per_epoch;
    const int64_t epoch = progress.step / progress.steps_per_epoch, middle = epochs / 2;
    if (epoch < middle) return static_cast<double>(epoch) / static_cast<double>(middle);
    return 1 - static_cast<double>(epoch - middle) / static_cast<double>(epochs - middle);
  }

  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  UnsupervisedLoss unsupervised_loss_;
  std::shared_ptr<Segmenter> student_;
  std::shared_ptr<Labeler> labeler_;
  std::shared_ptr<Dropout2d> dropout_;
  std::optional<PastModels> past_;
};

const bool kRegistered = methods().add(
    "prevmatch", [](const SemiConfig& config, const MethodParts& parts) { return std::make_shared<PrevMatch>(config, parts); });

}  // namespace
}  // namespace semiseg
