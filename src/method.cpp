#include "semiseg/method.h"

namespace semiseg {

Registry<std::shared_ptr<Method>(const SemiConfig&, const MethodParts&)>& methods() {
  static Registry<std::shared_ptr<Method>(const SemiConfig&, const MethodParts&)> registry("method");
  return registry;
}

const std::vector<std::string>& settings_of_method(const std::string& method) {
  static const std::map<std::string, std::vector<std::string>> settings = {
      {"supervised", {}},
      {"pseudo_label", {"semi.teacher", "semi.ema_decay", "semi.threshold", "semi.weight", "semi.ramp_up_epochs"}},
      {"mean_teacher", {"semi.ema_decay", "semi.weight", "semi.ramp_up_epochs"}},
      {"fixmatch", {"semi.teacher", "semi.ema_decay", "semi.threshold", "semi.mix", "semi.weight", "semi.ramp_up_epochs"}},
  };
  return settings.at(method);
}

}  // namespace semiseg
