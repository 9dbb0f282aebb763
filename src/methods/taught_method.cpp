#include "methods/taught_method.h"

#include <ATen/ATen.h>

namespace semiseg {

TaughtMethod::TaughtMethod(const SemiConfig& config, const MethodParts& parts)
    : config_(config), loss_(parts.supervised_loss), unsupervised_loss_(config, parts), num_classes_(parts.num_classes) {
  const auto add_branch = [&](const std::string& prefix, std::shared_ptr<Segmenter> student, std::shared_ptr<Segmenter> twin) {
    Teacher teacher(config, parts, *this, student, std::move(twin));
    branches_.push_back(
        {std::move(student), std::move(teacher), register_module(prefix + "labeler", make_labeler(config, parts))});
  };
  const auto student = register_module("student", parts.make_network(0));
  if (config.teacher == "twin") {
    const auto twin = register_module("twin", parts.make_network(1));
    add_branch("", student, twin);
    add_branch("twin_", twin, student);
  } else {
    add_branch("", student, {});
  }
}

std::vector<NamedModule> TaughtMethod::trained() {
  std::vector<NamedModule> networks{{"student", branches_[0].student.get()}};
  if (branches_.size() > 1) networks.push_back({"twin", branches_[1].student.get()});
  return networks;
}

bool TaughtMethod::repeats(const Progress& progress) const {
  return branches_[0].teacher.stays() && weight_is_final(config_, progress);
}

StepOutput TaughtMethod::step(const TrainBatch& batch, const Progress& progress) {
  // All of them before any network learns: its passes change the statistics that its twin is taught with.
  std::vector<Taught> taught;
  for (Branch& branch : branches_) {
    Taught& of_branch = taught.emplace_back();
    if (needs().mix) of_branch.mix_BKhw = branch.teacher.predict(batch.mix.weak_BCHW, progress);
    if (!branch.teacher.is_student()) of_branch.weak_BKhw = branch.teacher.predict(batch.unlabeled.weak_BCHW, progress);
  }

  Losses all = learn(branches_[0], taught[0], batch, progress);
  for (size_t i = 1; i < branches_.size(); ++i) {
    all.loss = learned(all.loss);  // and its graph is gone before the twin's begins
    const Losses of_twin = learn(branches_[i], taught[i], batch, progress);
    all.loss = all.loss + of_twin.loss;
    all.supervised = all.supervised + of_twin.supervised;
    all.unsupervised = all.unsupervised + of_twin.unsupervised;
  }
  return step_output(all.loss, all.supervised, all.unsupervised, all.labels, branches_[0].labeler->accept(all.labels),
                     num_classes_);
}

std::optional<AcceptedLabels> TaughtMethod::pseudo_labels(const UnlabeledBatch& images, const Progress& progress) {
  auto& [student, teacher, labeler] = branches_[0];
  return accepted_labels(*labeler, teacher.predict(images.weak_BCHW, progress), images);
}

void TaughtMethod::after_update(const Progress& progress) {
  for (Branch& branch : branches_) branch.teacher.after_update(progress);
}

void TaughtMethod::end_epoch(const Progress& progress, std::optional<double>) {
  for (Branch& branch : branches_) branch.teacher.end_epoch(progress);
}

}  // namespace semiseg
