#include "health/words.h"

#include <cmath>

#include "semiseg/error.h"

namespace semiseg {

std::string percent(double fraction) {
  if (std::isnan(fraction)) return "-";
  return fraction > 0 && fraction < 5e-5 ? "<0.01 %" : format("%.2f %%", 100 * fraction);
}
std::string percent(const MaybeFraction& fraction) { return fraction ? percent(*fraction) : "-"; }
std::string points(double fraction) { return format("%.2f points", 100 * fraction); }
std::string number(double value) { return format("%g", value); }
std::string signed_points(double fraction) { return format("%+.2f", 100 * fraction); }

std::string list_of(const std::vector<std::string>& words, size_t most) {
  std::string text;
  const size_t shown = words.size() > most + 1 ? most : words.size();
  for (size_t i = 0; i < shown; ++i) text += (i == 0 ? "" : i + 1 == words.size() ? " and " : ", ") + words[i];
  return shown < words.size() ? text + str(" and ", words.size() - shown, " more") : text;
}

std::string name_of(const HealthContext& context, size_t c) {
  return c < context.class_names.size() ? context.class_names[c] : str("class ", c);
}

std::vector<std::string> names_of(const HealthContext& context, const std::vector<size_t>& classes) {
  std::vector<std::string> names;
  for (const size_t c : classes) names.push_back(name_of(context, c));
  return names;
}

bool is_start(const EpochRecord& record, const HealthContext& context) {
  return record.epoch == 0 && !context.counts_from_zero;
}

std::string time_of(const EpochRecord& record, const HealthContext& context) {
  return is_start(record, context) ? "before training" : str("epoch ", record.epoch);
}

}  // namespace semiseg
