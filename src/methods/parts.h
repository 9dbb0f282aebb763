// Networks that methods are made of.
#pragma once

#include <memory>
#include <vector>

#include "models/layers.h"
#include "semiseg/method.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {

// Puts a module into eval mode without gradient: it is only ever predicted with.
template <class Module>
std::shared_ptr<Module> frozen(std::shared_ptr<Module> module) {
  for (auto& parameter : module->parameters()) parameter.set_requires_grad(false);
  module->eval();
  return module;
}

// average <- a average + (1 - a) module with a = min(1 - 1 / (step + 1), decay), parameters and buffers: a plain copy after the
// first update. The modules are alike.
void follow_as_average(torch::nn::Module& average, const torch::nn::Module& module, double decay, int64_t step);

// A copy of the student that follows it as an exponential moving average, parameters and buffers (Mean Teacher, Tarvainen and
// Valpola 2017; buffers as UniMatch-V2 and AugSeg). It predicts in eval mode and is never trained.
class EmaTeacher {
 public:
  // `network` starts with the student's weights.
  EmaTeacher(std::shared_ptr<Segmenter> network, double decay) : network_(frozen(std::move(network))), decay_(decay) {}

  Segmenter& network() { return *network_; }

  void follow(const Segmenter& student, int64_t step) { follow_as_average(*network_, student, decay_, step); }

 private:
  std::shared_ptr<Segmenter> network_;
  double decay_;
};

// Who gives the pseudo-labels (semi.teacher):
//   self     the student itself
//   ema      an average of past students
//   twin     another network, which is trained like the student
//   history  the student at the end of each of the last `semi.history` epochs; their probabilities are averaged. The student
//            itself before the first epoch has ended.
class Teacher {
 public:
  // Registers its networks with `owner` as "teacher" or "history_0", "history_1", ...
  Teacher(const SemiConfig& config, const MethodParts& parts, torch::nn::Module& owner, std::shared_ptr<Segmenter> student,
          std::shared_ptr<Segmenter> twin);

  bool is_student() const { return !twin_ && !ema_ && history_.empty(); }
  // Whether the same network predicts in every step.
  bool stays() const { return history_.empty(); }
  // The network to evaluate and to save: the average where there is one, else the student.
  Segmenter& predictor() { return ema_ ? ema_->network() : *student_; }

  // Logits at the network's stride (for history: logarithms of averaged probabilities) in eval mode, without gradient.
  Tensor predict(const Tensor& image_BCHW, const Progress& progress);
  void after_update(const Progress& progress);
  void end_epoch(const Progress& progress);

 private:
  std::shared_ptr<Segmenter> student_, twin_;
  std::optional<EmaTeacher> ema_;
  std::vector<std::shared_ptr<Segmenter>> history_;
};

// Logits of `image_BCHW` in eval mode and without gradient; the network is left in the mode it was in.
Tensor predict_logits(Segmenter& network, const Tensor& image_BCHW);

// The student's logits from one pass over labelled images and weak views, which its encoder normalises as one batch.
struct FirstPass {
  Tensor labeled_BKhw;
  Tensor weak_BKhw;     // without gradient; undefined where it is not wanted
  Tensor dropped_BKhw;  // of the weak views' features with `dropout`
};
// What nobody learns from is decoded without gradient where that makes no difference. Without a dropout dropped_BKhw is
// undefined.
FirstPass first_pass(Segmenter& student, const Tensor& labeled_BCHW, const Tensor& weak_BCHW, Dropout2d* dropout,
                     bool wants_weak);

// pseudo_label_loss() as `config` asks for it: pixels weighted by class (semi.class_weights), divided by semi.normalize. Labels
// without class bias (semi.undo_class_bias) are learned with the logit adjustment, as true labels are: else the network would
// unlearn on them what the next labels are freed of.
class UnsupervisedLoss {
 public:
  UnsupervisedLoss(const SemiConfig& config, const MethodParts& parts);
  // A scalar.
  Tensor operator()(const Tensor& student_BKhw, const PseudoLabels& labels, const Tensor& accepted_BHW) const;

 private:
  SupervisedLoss supervised_;
  Tensor weight_K_;  // undefined: every pixel weighs 1
  bool adjusts_, divides_by_accepted_;
};

// Who makes labels of a teacher's logits as `config` asks, with the labelled share and the class bias of the supervised loss.
std::shared_ptr<Labeler> make_labeler(const SemiConfig& config, const MethodParts& parts);

// Labels that `labeler` makes of a teacher's logits for a report, by its statistics as they are.
AcceptedLabels accepted_labels(const Labeler& labeler, const Tensor& logits_BKhw, const UnlabeledBatch& images);

// What a step hands back: the loss, both parts of it for the log, and the counts of its labels.
StepOutput step_output(const Tensor& loss, const Tensor& supervised, const Tensor& unsupervised, const PseudoLabels& labels,
                       const Tensor& accepted_BHW, int64_t num_classes);

}  // namespace semiseg
