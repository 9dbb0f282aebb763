// What methods share whose labels come from semi.teacher.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "methods/parts.h"
#include "semiseg/method.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {

// A method that trains one network on the labels of a teacher or, with semi.teacher: twin, two networks of different initial
// weights that teach each other, as in Cross Pseudo Supervision (Chen et al., CVPR 2021). The losses of twins are added up; the
// first is evaluated and reported.
class TaughtMethod : public Method {
 public:
  TaughtMethod(const SemiConfig& config, const MethodParts& parts);

  Segmenter& predictor() override { return branches_[0].teacher.predictor(); }
  Segmenter& student() override { return *branches_[0].student; }
  std::vector<NamedModule> trained() override;
  bool repeats(const Progress& progress) const override;
  StepOutput step(const TrainBatch& batch, const Progress& progress) final;
  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress& progress) override;
  void after_update(const Progress& progress) override;
  void end_epoch(const Progress& progress, std::optional<double> miou) override;

 protected:
  // A network that learns, who teaches it, and the statistics of what it is taught.
  struct Branch {
    std::shared_ptr<Segmenter> student;
    Teacher teacher;
    std::shared_ptr<Labeler> labeler;
  };
  // A teacher's logits [B, K, h, w], without gradient.
  struct Taught {
    Tensor weak_BKhw;  // of the weak views; undefined where the student, which passes them anyway, is the teacher
    Tensor mix_BKhw;   // of the images to mix in, where the method mixes
  };
  struct Losses {
    Tensor loss, supervised, unsupervised;
    PseudoLabels labels;  // of the weak views
  };

  // The losses of one network.
  virtual Losses learn(Branch& branch, const Taught& taught, const TrainBatch& batch, const Progress& progress) = 0;

  SemiConfig config_;
  SupervisedLoss loss_;
  UnsupervisedLoss unsupervised_loss_;

 private:
  int64_t num_classes_;
  std::vector<Branch> branches_;
};

}  // namespace semiseg
