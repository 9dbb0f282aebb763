#include "health/settings.h"

#include <cmath>
#include <optional>

#include "health/movement.h"
#include "health/words.h"
#include "semiseg/error.h"
#include "semiseg/method.h"

namespace semiseg {
namespace {

// How ENet's weights compare the rarest labelled class with the most frequent one.
std::string enet_reason(const std::vector<double>& reference, const HealthContext& context) {
  std::optional<size_t> rare, frequent;
  for (size_t c = 0; c < reference.size(); ++c) {
    if (reference[c] <= 0) continue;
    if (!rare || reference[c] < reference[*rare]) rare = c;
    if (!frequent || reference[c] > reference[*frequent]) frequent = c;
  }
  if (!rare || *rare == *frequent)
    return "the weight 1 / ln(1.02 + p) is 2.9 for a class with 40 % of the labelled pixels and 48 for one with .1 %";
  const double ratio = std::log(1.02 + reference[*frequent]) / std::log(1.02 + reference[*rare]);
  return str("a pixel of ", name_of(context, *rare), " (", percent(reference[*rare]), " of the labels) then counts ",
             format("%.0f", ratio), " times as much in the loss as one of ", name_of(context, *frequent), " (",
             percent(reference[*frequent]), ")");
}

}  // namespace

std::string value_now(const HealthContext& context, const std::string& key) {
  return context.config ? value_text(*context.config, key) : "";
}

bool may_set(const HealthContext& context, const std::string& key) {
  return !context.config || method_reads(context.config->semi.method, key);
}

Setting setting(const HealthContext& context, const std::string& key, const std::string& value, const std::string& reason) {
  return {key + "=" + value, value_now(context, key), reason};
}

std::vector<Setting> settings_against_starving(const std::vector<EpochRecord>& history, const std::vector<size_t>& starving,
                                               const HealthContext& context) {
  const Config* config = context.config;
  const auto reference = reference_share(history, context);
  const auto& pseudo = history.back().pseudo;
  bool starve_in_pseudo = false;
  double precision = 0;
  int64_t known = 0;
  if (pseudo && pseudo->accepted > 0)
    for (const size_t c : starving) {
      starve_in_pseudo = starve_in_pseudo || share_or_zero(pseudo->share, c) < share_or_zero(reference, c) / 2;
      if (c < pseudo->precision.size() && pseudo->precision[c]) precision += *pseudo->precision[c], ++known;
    }

  std::vector<Setting> general, semi;
  const bool weighted = config && config->loss.class_weights != "none";
  if (!weighted) general.push_back(setting(context, "loss.class_weights", "enet", enet_reason(reference, context)));
  if (!config || config->sampler.rare_class_temperature == 0)
    general.push_back(setting(context, "sampler.rare_class_temperature", "0.01",
                              "labelled crops that hold rare classes are drawn more often"));

  const std::string if_semi = config ? "" : "if unlabelled images are learned from: ";
  const bool takes_all = config && config->semi.threshold.kind == "fixed" && config->semi.threshold.value < 0.5;
  if (may_set(context, "semi.threshold")) {
    if (takes_all)
      semi.push_back(setting(context, "semi.threshold", "0.95",
                             "at present every pseudo-label counts, sure or not, so that the network learns its own mistakes"));
    else if (!config || (config->semi.threshold.kind == "fixed" && config->semi.method != "self_training"))
      semi.push_back(setting(context, "semi.threshold", "'{kind: class_adaptive}'",
                             if_semi + "each class gets its own threshold, a lower one where the network is less sure"));
  }
  if (may_set(context, "semi.align_distribution") && !(config && config->semi.align_distribution))
    semi.push_back(setting(context, "semi.align_distribution", "true",
                           if_semi + "pseudo-labels are drawn towards the labelled pixels' shares"));
  if (weighted && may_set(context, "semi.class_weights") && !config->semi.class_weights)
    semi.push_back(
        setting(context, "semi.class_weights", "true", "the loss on pseudo-labels then weighs classes as the other one does"));
  if (config && may_set(context, "semi.weight")) {
    if (config->semi.weight > 1)
      semi.push_back(setting(context, "semi.weight", "1", "pseudo-labels then do not outweigh the labels"));
    else if (known > 0 && precision / static_cast<double>(known) < 0.5)
      semi.push_back(
          setting(context, "semi.weight", number(config->semi.weight / 2),
                  str("pseudo-labels of these classes are right in only ", percent(precision / static_cast<double>(known)))));
  }

  const bool semi_first = starve_in_pseudo || (takes_all && may_set(context, "semi.threshold"));
  std::vector<Setting> all = semi_first ? semi : general;
  const auto& rest = semi_first ? general : semi;
  if (semi_first && !rest.empty() && all.size() >= kMostSettings) all.resize(kMostSettings - 1);
  all.insert(all.end(), rest.begin(), rest.end());
  if (all.empty() && config && config->loss.logit_adjustment == 0)
    all.push_back(setting(context, "loss.logit_adjustment", "1", "a rare class has to win against its rarity in training"));
  if (all.size() > kMostSettings) all.resize(kMostSettings);
  return all;
}

std::string advice(const std::vector<Setting>& settings) {
  std::string text;
  for (size_t i = 0; i < settings.size(); ++i)
    text += (i == 0                     ? "; set "
             : i + 1 == settings.size() ? " or "
                                        : ", ") +
            settings[i].assignment + (settings[i].now.empty() ? "" : " (now " + settings[i].now + ")");
  return text;
}

}  // namespace semiseg
