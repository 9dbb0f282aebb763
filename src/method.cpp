#include "semiseg/method.h"

#include <algorithm>

namespace semiseg {

Registry<std::shared_ptr<Method>(const SemiConfig&, const MethodParts&)>& methods() {
  static Registry<std::shared_ptr<Method>(const SemiConfig&, const MethodParts&)> registry("method");
  return registry;
}

const MethodSettings& settings_of_method(const std::string& method) {
  static const std::vector<std::string> kWeight{"semi.weight", "semi.burn_in_epochs", "semi.ramp_up_epochs"};
  static const std::vector<std::string> kHardLabels{"semi.threshold", "semi.align_distribution", "semi.undo_class_bias",
                                                    "semi.class_weights", "semi.normalize"};
  static const std::vector<std::string> kTeacher{"semi.teacher", "semi.ema_decay", "semi.history"};
  static const std::vector<std::string> kViews{"semi.mix", "semi.strong_view", "semi.views", "semi.feature_dropout"};
  const auto all = [](std::initializer_list<std::vector<std::string>> groups) {
    std::vector<std::string> keys;
    for (const auto& group : groups) keys.insert(keys.end(), group.begin(), group.end());
    return keys;
  };
  static const std::vector<std::string> kWeakToStrong = all({kTeacher, kHardLabels, kViews, kWeight});
  static const std::map<std::string, MethodSettings> settings = {
      {"supervised", {{"semi.ema_decay"}, {{"semi.ema_decay", "0"}}}},
      {"pseudo_label", {all({kTeacher, kHardLabels, kWeight}), {}}},
      {"mean_teacher", {all({{"semi.ema_decay", "semi.strong_view"}, kWeight}), {}}},
      {"fixmatch", {kWeakToStrong, {}}},
      {"unimatch", {kWeakToStrong, {{"semi.views", "2"}, {"semi.feature_dropout", "0.5"}}}},
      {"augseg",
       {all({{"semi.ema_decay", "semi.strong_view"}, kHardLabels, kWeight}),
        {{"semi.threshold", "0"}, {"semi.strong_view", "random"}}}},
      {"unimatch_v2",
       {all({{"semi.ema_decay", "semi.mix", "semi.strong_view", "semi.feature_dropout"}, kHardLabels, kWeight}),
        {{"semi.feature_dropout", "0.5"}}}},
      {"prevmatch",
       {all({{"semi.history"}, kHardLabels, kViews, kWeight}),
        {{"semi.history", "8"}, {"semi.views", "2"}, {"semi.feature_dropout", "0.5"}}}},
      {"cps", {all({kHardLabels, {"semi.mix"}, kWeight}), {{"semi.threshold", "0"}, {"semi.weight", "1.5"}}}},
      {"u2pl",
       {all({{"semi.ema_decay", "semi.contrast_weight", "semi.mix", "semi.strong_view", "semi.undo_class_bias",
              "semi.class_weights"},
             kWeight}),
        {{"semi.ema_decay", "0.99"}, {"semi.contrast_weight", "0.1"}}}},
      {"self_training",
       {all({{"semi.threshold", "semi.undo_class_bias", "semi.class_weights", "semi.normalize", "semi.strong_view"}, kWeight}),
        {{"semi.threshold", "0"}, {"semi.normalize", "accepted"}}}},
      {"retrain",
       {all({{"semi.undo_class_bias", "semi.class_weights", "semi.normalize", "semi.strong_view"}, kWeight}),
        {{"semi.normalize", "accepted"}}}},
  };
  return settings.at(method);
}

bool method_reads(const std::string& method, const std::string& key) {
  const auto& reads = settings_of_method(method).reads;
  return std::find(reads.begin(), reads.end(), key) != reads.end();
}

}  // namespace semiseg
